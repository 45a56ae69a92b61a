"""Any number of OpenAI-compatible servers as one backend. Start reading in `backend.py`."""

from tracemill.synth.backends.openai.backend import OpenAI

__all__ = ["OpenAI"]
