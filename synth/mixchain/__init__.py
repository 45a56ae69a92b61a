"""MixChain: start with mixchain.py."""

from tracemill.synth.mixchain.meaning import MEANING
from tracemill.synth.mixchain.mixchain import COLUMNS, NEEDS, check, levels, mixchain
from tracemill.synth.mixchain.summary import summary
from tracemill.synth.mixchain.wide import fold

__all__ = ["COLUMNS", "MEANING", "NEEDS", "check", "fold", "levels", "mixchain", "summary"]
