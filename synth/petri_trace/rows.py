"""The columns of a trace, from the net and the texts that were made for it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from tracemill.schemas.plugins import Engine
from tracemill.schemas.request import Message
from tracemill.schemas.rows import Problem
from tracemill.synth.petri_trace import grounding, layout
from tracemill.synth.petri_trace.conclude import leaks
from tracemill.synth.petri_trace.net import Net
from tracemill.synth.petri_trace.plan import paths, shape
from tracemill.synth.petri_trace.result import Result
from tracemill.synth.petri_trace.text import entity_text, execution_text, plan_text, training_parts

_NUMBERS = pa.list_(pa.int64())
_NAMES = pa.list_(pa.string())
_ENTITY = pa.struct([("n", pa.int64()), ("name", pa.string()), ("deps", _NUMBERS)])
_STEP = pa.struct(
    [
        ("n", pa.int64()),
        ("left", _NAMES),
        ("right", pa.string()),
        ("deps", _NUMBERS),
        ("text", pa.string()),
        ("n_tokens", pa.int64()),
    ]
)
_PAIR = pa.struct([("key", pa.string()), ("value", pa.string())])
_EDGE = pa.struct([("before", pa.string()), ("after", pa.string())])
_CONCLUSION = pa.struct([("explanation", pa.string()), ("answer", pa.string())])

COLUMNS: Mapping[str, Any] = {
    "options": pa.list_(_PAIR),  # of a multiple choice, by letter
    "goal": str,  # what the step writer was shown as its goal
    "chains": pa.list_(_NAMES),  # as the plan was made of them, premises included
    "entities": pa.list_(_ENTITY),
    "entity_plan": str,
    "steps": pa.list_(_STEP),
    "plan_text": str,
    "execution_text": str,
    "conclusion": _CONCLUSION,
    "paths": pa.list_(_NUMBERS),  # from first steps to last ones, by step numbers
    "paths_capped": bool,
    "width": int,
    "depth": int,
    "parallelism": float,
    "critical_path": int,  # tokens that have to be written one after the other
    "speed_up": float,  # all tokens of steps over those
    "linear": bool,
    "shape": str,
    "removed_edges": pa.list_(_EDGE),
    "leaks": _NUMBERS,  # steps before the last ones that hold the gold
    "n_leaks": int,
    "eligible": int,
    "failed_checks": list[str],
    "judged": bool,
    "n_regenerations": int,
    **grounding.COLUMNS,
    **layout.COLUMNS,
}


def text_and_columns(
    problem: Problem, engine: Engine, prompt: str | tuple[Message, ...], result: Result, *, goal: str, max_paths: int
) -> tuple[str, dict[str, Any]]:
    """The assistant's turn, and all that a row says beyond the common columns."""
    begun, steps = result.begun, result.steps
    conclusion = result.conclusion
    explanation, answer = (conclusion.explanation, conclusion.answer) if conclusion else ("", "")
    before, blocks, after = training_parts(begun.chains, steps, explanation, answer)
    text = "".join((before, *blocks, after))
    net = Net.of_steps(steps)
    found, capped = paths(steps, max_paths)
    leaked = leaks(steps, problem.gold, problem.options)
    letters = [{"key": chr(ord("A") + i), "value": text} for i, text in enumerate(problem.options or ())]
    return text, {
        "options": letters,
        "goal": goal,
        "chains": [list(chain) for chain in begun.chains],
        "entities": [{**asdict(entity), "deps": list(entity.deps)} for entity in begun.entities],
        "entity_plan": entity_text(begun.entities),
        "steps": [{**asdict(step), "left": list(step.left), "deps": list(step.deps)} for step in steps],
        "plan_text": plan_text(steps),
        "execution_text": execution_text(steps),
        "conclusion": {"explanation": explanation, "answer": answer} if conclusion else None,
        "paths": found,
        "paths_capped": capped,
        "width": net.width,
        "depth": net.depth,
        "parallelism": net.parallelism,
        "critical_path": net.critical_path,
        "speed_up": net.speed_up,
        "linear": net.depth == len(steps),
        "shape": shape(steps),
        "removed_edges": [{"before": before, "after": after} for before, after in begun.removed],
        "leaks": leaked,
        "n_leaks": len(leaked),
        "eligible": result.eligible,
        "failed_checks": list(dict.fromkeys(fault.check for fault in result.faults)),
        "judged": conclusion.judged if conclusion else None,
        "n_regenerations": result.regenerations,
        **dict.fromkeys(grounding.COLUMNS),
        **begun.grounding,
        **layout.of(steps, before, blocks, starts=engine.token_starts(text, prompt)),
    }
