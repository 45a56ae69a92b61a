"""Labelled steps in trainers' layouts: what stands in each, from trees that are written down here."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tests.trees import QUESTION, Spec, grown, node_rows
from tracemill.pipelines.export import export, lengths
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.tables import PROBLEMS, declared
from tracemill.schemas.views import hrm, omega_pairs, rest, step_pairs, trl_prm
from tracemill.synth.step_tree.pairs import pair_rows
from tracemill.synth.step_tree.rest import value_rows
from tracemill.synth.step_tree.rows import ROW_TABLES

Row = dict[str, Any]

TREE: Spec = {
    "first, three times eight is twenty-four": {
        "then twenty-four less sixteen is eight": "correct",
        "so the answer must be forty, added up": "wrong",
    },
    "let us guess that the answer is a hundred": {"a hundred it is": "wrong", "or perhaps ninety-nine": "wrong"},
}
A, A1, A2, B, B1, B2 = (*TREE, *()), *(), *(), *(), *(), *()
