"""Labelled steps in trainers' layouts: what stands in each, from trees that are written down here."""

from typing import Any

from tests.trees import Spec

Row = dict[str, Any]

TREE: Spec = {
    "first, three times eight is twenty-four": {
        "then twenty-four less sixteen is eight": "correct",
        "so the answer must be forty, added up": "wrong",
    },
    "let us guess that the answer is a hundred": {"a hundred it is": "wrong", "or perhaps ninety-nine": "wrong"},
}
A, A1, A2, B, B1, B2 = (*TREE, *()), *(), *(), *(), *(), *()
