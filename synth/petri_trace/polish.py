"""Calls over the texts of all steps together: say nothing twice, and bring in the one thing that is missing.

MedVerse's released scripts (arXiv:2602.07529) make both; a reply that does not have the form asked for changes nothing.
"""

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Literal

from tracemill.synth.petri_trace.net import Step
from tracemill.synth.petri_trace.writer import Asker, Draft, about, content

Polish = Literal["clean", "deduplicate", "insert"]

_LINE = re.compile(r"\s*(\d{1,9})\s*:\s*(.+)")


async def polish(draft: Draft, asker: Asker, calls: Collection[Polish], draw: int) -> None:
    """Apply the calls over all steps; `clean` is a matter of each step and was done when it was written."""
    if "deduplicate" in calls:
        await _deduplicate(draft, asker, draw)
    if "insert" in calls:
        await _insert(draft, asker, draw)


async def _deduplicate(draft: Draft, asker: Asker, draw: int) -> None:
    said = await asker.ask("deduplicate", {"shown": asker.shown(draft.steps)}, draw=draw)
    lines = [_LINE.fullmatch(line) for line in content(said).splitlines() if line.strip()]
    texts = {int(line[1]): line[2].strip() for line in lines if line is not None}
    if said.truncated or len(lines) != len(draft.steps) or texts.keys() != {step.n for step in draft.steps}:
        return
    draft.steps = [_with(step, texts[step.n], asker) for step in draft.steps]


async def _insert(draft: Draft, asker: Asker, draw: int) -> None:
    found = content(await asker.ask("missing", {"shown": asker.shown(draft.steps)}, draw=draw))
    line = _LINE.fullmatch(found)
    step = next((step for step in draft.steps if line is not None and step.n == int(line[1])), None)
    if line is None or step is None:
        return
    said = await asker.ask("insert", {**about(step, step.n), "missing": line[2].strip()}, draw=draw)
    text = content(said)
    if text and not said.truncated:
        draft.steps = [_with(each, text, asker) if each.n == step.n else each for each in draft.steps]


def _with(step: Step, text: str, asker: Asker) -> Step:
    return replace(step, text=text, n_tokens=asker.engine.count_tokens(text))
