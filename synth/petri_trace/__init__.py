"""Petri-net traces: reasoning as a sound net. Start with net.py, then petri_trace.py."""

from tracemill.synth.petri_trace.drawing import picture
from tracemill.synth.petri_trace.meaning import MEANING
from tracemill.synth.petri_trace.petri_trace import check, files, needs, petri_trace
from tracemill.synth.petri_trace.rows import COLUMNS
from tracemill.synth.petri_trace.summary import summary

__all__ = ["COLUMNS", "MEANING", "check", "files", "needs", "petri_trace", "picture", "summary"]
