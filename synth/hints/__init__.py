"""Knowledge-point hints: start with hints.py."""

from tracemill.synth.hints.columns import COLUMNS, TABLES, fold
from tracemill.synth.hints.hints import NEEDS, check, hints
from tracemill.synth.hints.meaning import MEANING
from tracemill.synth.hints.picture import picture
from tracemill.synth.hints.summary import summary

__all__ = ["COLUMNS", "MEANING", "NEEDS", "TABLES", "check", "fold", "hints", "picture", "summary"]
