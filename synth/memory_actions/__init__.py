"""LightThinker++ (arXiv:2604.03679), a memory of notes: start with memory_actions.py."""

from tracemill.synth.memory_actions.columns import COLUMNS, MEANING, TABLES, summary
from tracemill.synth.memory_actions.memory_actions import check, memory_actions

__all__ = ["COLUMNS", "MEANING", "TABLES", "check", "memory_actions", "summary"]
