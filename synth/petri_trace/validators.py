"""The checks that a plan and its execution pass before anybody looks at the conclusion: V1 to V12, each with a reason of its own.

V1 to V8 are those of MedVerse's released scripts (arXiv:2602.07529); V9 to V12 are ours. A fault names the steps that have to be
written again, and none where it is the plan that is wrong.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tracemill.synth.petri_trace.net import Net, Step
from tracemill.synth.petri_trace.text import Block, NotXml, Outline, read_block, read_header, read_outline, readable

CHECKS: Mapping[str, str] = {
    "V1": "not_xml",
    "V2": "wrong_tags",
    "V3": "bad_outline",
    "V4": "bad_step_header",
    "V5": "duplicate_number",
    "V6": "dependency_not_earlier",
    "V7": "plan_and_execution_differ",
    "V8": "missing_dependency",
    "V9": "not_numbered_in_order",
    "V10": "title_and_dependencies_differ",
    "V11": "not_connected",
    "V12": "not_escaped",
}
"""What fails where a check fails."""

_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9a-fA-F]{1,6});")
_TAG = re.compile(r"</?(?:Plan|Outline|Execution|Step)>")


@dataclass(frozen=True, slots=True)
class Fault:
    """One check that failed."""

    check: str
    """V1 to V12, or a word such as truncated for what is looked at beside them."""
    says: str
    steps: tuple[int, ...] = ()
    """The steps whose texts are at fault; () where it is not the texts."""

    @property
    def reason(self) -> str:
        return f"{self.check}_{CHECKS[self.check]}" if self.check in CHECKS else self.check


def check(plan: str, execution: str, *, names: Collection[str] = ()) -> list[Fault]:
    """What is wrong with a plan and its execution, in the order of the checks; empty where nothing is.

    `names` are the entities of the plan where they are known: with them a comma inside a name is told from one between names.
    """
    blocks, faults = _blocks(plan, execution)
    if blocks is None:
        return faults
    outlines = [read_outline(text) for _, text in blocks[0].children]
    headers = [read_header(text) for _, text in blocks[1].children]
    faults += [Fault("V3", f"outline {i} is {_cut(blocks[0].children[i - 1][1])}") for i in _missing(outlines)]
    faults += [Fault("V4", f"step {i} begins {_cut(blocks[1].children[i - 1][1])}", (i,)) for i in _missing(headers)]
    planned = [outline for outline in outlines if outline is not None]
    written = [header for header in headers if header is not None]
    faults += _numbers([o.n for o in planned], "outline") + _numbers([n for n, _ in written], "step")
    faults += _dependencies(planned)
    faults += _titles(planned, written, len(outlines), len(headers))
    faults += _agreement(planned, names)
    faults += _connected(planned)
    return sorted(faults, key=lambda fault: int(fault.check[1:]))


def _blocks(plan: str, execution: str) -> tuple[tuple[Block, Block] | None, list[Fault]]:
    """V1, V2 and V12; None where the rest cannot be read."""
    blocks: list[Block] = []
    faults: list[Fault] = []
    for text, root, child in ((plan, "Plan", "Outline"), (execution, "Execution", "Step")):
        try:
            block = read_block(text)
        except NotXml as fault:
            faults.append(Fault("V1", f"{root}: {fault}"))
            if readable(_escaped_but_tags(text)):
                faults.append(Fault("V12", f"{root}: & < > stand in it that are not written &amp; &lt; &gt;"))
            continue
        blocks.append(block)
        faults += _tags(block, root, child)
    broken = len(blocks) < 2 or any(block.root not in ("Plan", "Execution") for block in blocks)
    return (None if broken else (blocks[0], blocks[1])), faults


def _tags(block: Block, root: str, child: str) -> list[Fault]:
    if block.root != root:
        return [Fault("V2", f"the root is <{block.root}>, not <{root}>")]
    found = [Fault("V2", f"<{tag}> inside a <{child}>") for tag in dict.fromkeys(block.nested)]
    strays = dict.fromkeys(tag for tag, _ in block.children if tag != child)
    found += [Fault("V2", f"{f'<{tag}>' if tag else 'text'} beside <{child}>") for tag in strays]
    if not block.children:
        found.append(Fault("V2", f"<{root}> holds no <{child}>"))
    for number, (_, text) in enumerate(block.children, start=1):
        if text.strip() and (child == "Outline" or "\n" in text.strip()):
            continue
        header = read_header(text) if child == "Step" else None
        if not text.strip() or header is not None:
            found.append(
                Fault("V2", f"<{child}> {number} is empty", (header[0] if header else number,) * (child == "Step"))
            )
    return found


def _escaped_but_tags(text: str) -> str:
    """The text as it should have been written: all escaped but the tags of the format and what is escaped already."""
    parts, here = [], 0
    for match in re.finditer(f"{_TAG.pattern}|{_ENTITY.pattern}", text):
        parts += [_escape(text[here : match.start()]), match[0]]
        here = match.end()
    return "".join([*parts, _escape(text[here:])])


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _missing(found: Sequence[object]) -> list[int]:
    return [number for number, one in enumerate(found, start=1) if one is None]


def _numbers(numbers: Sequence[int], what: str) -> list[Fault]:
    """V5 and V9."""
    faults = []
    if twice := sorted(n for n, times in Counter(numbers).items() if times > 1):
        faults.append(Fault("V5", f"{what} {_some(twice)} is there more than once"))
    if list(numbers) != list(range(1, len(numbers) + 1)):
        faults.append(Fault("V9", f"{what}s are numbered {_cut(str(list(numbers)))}, not 1 to {len(numbers)} in order"))
    return faults


def _dependencies(planned: Sequence[Outline]) -> list[Fault]:
    """V6 and V8."""
    known = {outline.n for outline in planned}
    faults = []
    for outline in planned:
        if late := [dep for dep in outline.deps if dep >= outline.n]:
            faults.append(Fault("V6", f"step {outline.n} depends on [{_some(late)}], which do not come before it"))
        if lost := [dep for dep in outline.deps if dep not in known]:
            faults.append(Fault("V8", f"step {outline.n} depends on [{_some(lost)}], which the plan does not have"))
    return faults


def _titles(planned: Sequence[Outline], written: Sequence[tuple[int, str]], outlines: int, steps: int) -> list[Fault]:
    """V7."""
    faults = []
    if outlines != steps:
        faults.append(Fault("V7", f"{outlines} outlines and {steps} steps"))
    titles, headed = {outline.n: outline.title for outline in planned}, dict(written)
    if len(planned) == outlines and len(written) == steps and (odd := sorted(titles.keys() ^ headed.keys())):
        where = tuple(n for n in odd if n in titles)
        faults.append(Fault("V7", f"steps [{_some(odd)}] stand in one of plan and execution only", where))
    return faults + [
        Fault("V7", f"step {n} is {_cut(titles[n])} in the plan and {_cut(headed[n])} above its text", (n,))
        for n in sorted(titles.keys() & headed.keys())
        if titles[n] != headed[n]
    ]


def _agreement(planned: Sequence[Outline], names: Collection[str]) -> list[Fault]:
    """V10: what the left side names of what steps produce is what the dependencies produce."""
    right = {outline.n: outline.right for outline in planned}
    produced = set(right.values())
    known = produced | set(names)
    faults = []
    for outline in planned:
        named = {name for name in split_names(outline.left, known) if name in produced}
        listed = {right[dep] for dep in outline.deps if dep in right}
        if named != listed:
            odd = ", ".join(sorted(named ^ listed))
            faults.append(Fault("V10", f"step {outline.n}: title and dependencies do not agree on {_cut(odd)}"))
    return faults


def split_names(left: str, known: Collection[str]) -> list[str]:
    """The names on the left of a title, where a name may itself hold a comma: the longest known name at each place."""
    parts = left.split(", ")
    with_commas = [name for name in known if ", " in name] if len(parts) > 1 else ()
    if not with_commas:
        return parts
    sizes = sorted({1 + name.count(", ") for name in with_commas}, reverse=True)
    names, here = [], 0
    while here < len(parts):
        ends = (here + size for size in sizes if here + size <= len(parts))
        end = next((end for end in ends if ", ".join(parts[here:end]) in known), here + 1)
        names.append(", ".join(parts[here:end]))
        here = end
    return names


def _connected(planned: Sequence[Outline]) -> list[Fault]:
    """V11: there is a first step, and from every step a way to a last one, along the dependencies."""
    if not planned:
        return []
    if all(outline.deps for outline in planned):
        return [Fault("V11", "no step is without dependencies, so none can begin")]
    if all(dep < outline.n for outline in planned for dep in outline.deps):
        return []  # no step waits for a later one, so each leads on until one that nothing waits for
    known = {outline.n for outline in planned}
    steps = [Step(o.n, tuple(str(dep) for dep in o.deps if dep in known) or ("",), str(o.n), ()) for o in planned]
    return [
        Fault("V11", fault) for fault in Net.of_steps(steps).faults() if "leads nowhere" in fault or "final" in fault
    ]


def _some(numbers: Sequence[int]) -> str:
    """Ten of them, and whether there are more."""
    return ", ".join([*map(str, numbers[:10]), *["..."] * (len(numbers) > 10)])


def _cut(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
