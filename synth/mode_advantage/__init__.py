"""AdaptThink (arXiv:2505.13417) and AutoThink (arXiv:2505.10832): start with mode_advantage.py."""

from tracemill.synth.mode_advantage.columns import COLUMNS, MEANING, TABLES, summary
from tracemill.synth.mode_advantage.mode_advantage import NEEDS, check, mode_advantage

__all__ = ["COLUMNS", "MEANING", "NEEDS", "TABLES", "check", "mode_advantage", "summary"]
