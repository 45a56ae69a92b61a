"""Thoughts that were kept from reflecting: start with confidence_concise.py."""

from tracemill.synth.confidence_concise.columns import COLUMNS, MEANING, summary
from tracemill.synth.confidence_concise.confidence_concise import NEEDS, check, confidence_concise

__all__ = ["COLUMNS", "MEANING", "NEEDS", "check", "confidence_concise", "summary"]
