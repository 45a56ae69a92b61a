"""Pairs of a thought and its pruned self: start with pattern_prune_pairs.py."""

from tracemill.synth.pattern_prune_pairs.columns import COLUMNS, MEANING, summary
from tracemill.synth.pattern_prune_pairs.needed import CASE, calibrate
from tracemill.synth.pattern_prune_pairs.pattern_prune_pairs import NEEDS, check, pattern_prune_pairs

__all__ = ["CASE", "COLUMNS", "MEANING", "NEEDS", "calibrate", "check", "pattern_prune_pairs", "summary"]
