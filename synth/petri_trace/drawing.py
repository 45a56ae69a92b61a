"""A net to look at in a terminal.

    5 steps in 3 frontiers; width 3, parallelism 1.67; critical path (*) 13 of 18 tokens
      premises    FH, CM
      frontier 1  * [1] FH, CM -> LS                           4 tokens
      frontier 2    [2] FH, LS -> MLH1           after 1       3 tokens
                  * [3] LS -> MSH2               after 1       5 tokens
                    [4] LS -> MSH6               after 1       2 tokens
      frontier 3  * [5] MLH1, MSH2, MSH6 -> MMR  after 2, 3, 4  4 tokens

The critical path is the heaviest way through the net: what has to be written one after the other, however much runs at once.
Names come from models and sources: they are cut, and characters that a terminal would act on are shown as escapes.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any
from unicodedata import combining, east_asian_width

from tracemill.schemas.printable import printable
from tracemill.synth.petri_trace.layout import levels_of, steps_of
from tracemill.synth.petri_trace.net import Net, Step

DRAWN = 3
"""So many traces of a problem are drawn; of a trace that was asked for, that one."""
LINES = 60
"""So many steps of a trace are listed in the terminal."""
NAME = 60


def legible(text: str, width: int) -> str:
    """One line: white space joined, what is not printable as an escape, cut at `width` columns."""
    shown = printable(" ".join(text.split()))
    if columns(shown) <= width:
        return shown
    ends = accumulate(map(columns, shown))
    return "".join(c for c, end in zip(shown, ends, strict=True) if end <= width - 3) + "..."


def columns(text: str) -> int:
    """How wide a text is in a terminal: Chinese, Japanese and Korean characters take two columns, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 1 + (east_asian_width(c) in "WF") for c in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


def critical_steps(steps: Sequence[Step]) -> list[int]:
    """The steps of the critical path, in order; where no tokens are known, of the longest one. Ties go to the lower number."""
    weight = {step.n: step.n_tokens if any(s.n_tokens for s in steps) else 1 for step in steps}
    best: dict[int, tuple[int, int | None]] = {}
    for step in steps:
        before = min(step.deps, key=lambda dep: (-best[dep][0], dep), default=None)
        best[step.n] = (weight[step.n] + (best[before][0] if before is not None else 0), before)
    at = min(best, key=lambda n: (-best[n][0], n), default=None)
    way = []
    while at is not None:
        way.append(at)
        at = best[at][1]
    return way[::-1]


# ---- the terminal


def picture(found: Mapping[str, Any]) -> Iterator[str]:
    """What `tracemill explain` draws: the net of the trace that was asked for, or of the first traces of its problem."""
    traces = [trace for trace in found["traces"] if trace["row"].get("steps")]
    asked = [trace for trace in traces if trace["id"] == found["asked"]["id"]]
    for trace in (asked or traces)[:DRAWN]:
        yield f"{legible(trace['id'], NAME)}: {summary(steps_of(trace['row']))}"
        yield from lines(steps_of(trace["row"]))
    if not asked and len(traces) > DRAWN:
        yield f"and {len(traces) - DRAWN} more traces: name one to see its net"


def summary(steps: Sequence[Step]) -> str:
    """The net in one line."""
    net = Net.of_steps(steps)
    path = critical_steps(steps)
    tokens = sum(step.n_tokens for step in steps)
    cost = f"{net.critical_path:,} of {tokens:,} tokens" if tokens else f"{len(path)} of {len(steps)} steps"
    return (
        f"{len(steps)} steps in {net.depth} frontiers; width {net.width}, parallelism {net.parallelism:.2f}; "
        f"critical path (*) {cost}"
    )


def lines(steps: Sequence[Step]) -> Iterator[str]:
    """A line a step, frontier by frontier, the critical path marked."""
    hot = set(critical_steps(steps))
    level = levels_of({step.n: step.deps for step in steps})
    shown = sorted(steps, key=lambda step: (level[step.n], step.n))[:LINES]
    titles = {step.n: f"[{step.n}] {legible(step.title, NAME)}" for step in shown}
    after = {step.n: f"after {', '.join(map(str, step.deps))}" if step.deps else "" for step in shown}
    wide, far = max(map(columns, titles.values())), max(map(len, after.values()))
    yield f"  {'premises':<12}{legible(', '.join(_premises(steps)), 2 * NAME)}"
    told = 0
    for step in shown:
        head = f"frontier {level[step.n]}" if level[step.n] != told else ""
        told = level[step.n]
        tokens = f"{step.n_tokens:,} tokens" if step.n_tokens else ""
        mark = "*" if step.n in hot else " "
        yield f"  {head:<12}{mark} {_padded(titles[step.n], wide)}  {after[step.n]:<{far}}  {tokens}".rstrip()
    if len(steps) > LINES:
        yield f"  and {len(steps) - LINES:,} steps more"


def _premises(steps: Sequence[Step]) -> list[str]:
    """What no step produces, in the order in which steps name it."""
    made = {step.right for step in steps}
    return list(dict.fromkeys(name for step in steps for name in step.left if name not in made))
