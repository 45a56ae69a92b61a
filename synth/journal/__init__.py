"""All that a model ever said, content-keyed, in SQLite segments that survive kill -9. Start reading in `journal.py`."""

from tracemill.synth.journal.codec import Failure
from tracemill.synth.journal.journal import Journal, JournalStats

__all__ = ["Failure", "Journal", "JournalStats"]
