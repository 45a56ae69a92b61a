"""LightThinker (arXiv:2502.15589), thoughts behind gist tokens: start with gist_segments.py."""

from tracemill.synth.gist_segments.columns import COLUMNS, MEANING, summary
from tracemill.synth.gist_segments.gist_segments import check, gist_segments

__all__ = ["COLUMNS", "MEANING", "check", "gist_segments", "summary"]
