"""Step trees: Monte-Carlo search over the steps of a solution, and what is made of it. Start with step_tree.py."""

from tracemill.synth.step_tree.meaning import MEANING
from tracemill.synth.step_tree.picture import picture
from tracemill.synth.step_tree.step_tree import COLUMNS, NEEDS, TABLES, check, step_tree
from tracemill.synth.step_tree.summary import summary

__all__ = ["COLUMNS", "MEANING", "NEEDS", "TABLES", "check", "picture", "step_tree", "summary"]
