"""Large Hybrid-Reasoning Models (arXiv:2505.14631): start with hybrid_mode_mix.py."""

from tracemill.synth.hybrid_mode_mix.columns import COLUMNS, MEANING, TABLES, summary
from tracemill.synth.hybrid_mode_mix.hybrid_mode_mix import check, hybrid_mode_mix, needs

__all__ = ["COLUMNS", "MEANING", "TABLES", "check", "hybrid_mode_mix", "needs", "summary"]
