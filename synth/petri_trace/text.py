"""The text of a trace: plan, execution and conclusion in MedVerse's tags, written and read.

    <Plan>
    <Outline> Transient Step 1: A, B -> C; Dependency: [] </Outline>
    </Plan>
    <Execution>
    <Step> Transient Step 1: A, B -> C
    ...
    </Step>
    </Execution>
    <Conclusion>
    Explanation: ...
    Answer: 66
    </Conclusion>

The tags, headers and twelve special tokens are those of the released data (arXiv:2602.07529). `&`, `<` and `>` in names and
texts are written `&amp;`, `&lt;` and `&gt;`, without which "troponin <0.04" is no XML. The arrow of a title stays as it is.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from xml.parsers import expat

from tracemill.synth.petri_trace import chains as chain_lines
from tracemill.synth.petri_trace.net import Entity, Step

SPECIAL_TOKENS = tuple(
    tag
    for name in ("Think", "Plan", "Outline", "Execution", "Step", "Conclusion")
    for tag in (f"<{name}>", f"</{name}>")
)
"""What MedVerse adds to a tokenizer."""
BRIDGE = "I lay out the reasoning paths, turn them into a plan, carry out its steps, and then conclude."
HEADING = "Reasoning paths:"
LARGEST = 4 << 20
"""Characters of a plan or an execution that is read."""

_OUTLINE = re.compile(
    r"Transient Step (\d{1,9}): ((?:(?! -> ).)+) -> (.+); Dependency: \[((?:\d{1,9}(?:, ?\d{1,9})*)?)\]"
)
_HEADER = re.compile(r"Transient Step (\d{1,9}): (.+?) -> (.+)")


def escaped(text: str) -> str:
    if "&" not in text and "<" not in text and ">" not in text:
        return text
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def title(step: Step) -> str:
    """`A, B -> C`, escaped."""
    return _title(step.left, step.right)


@lru_cache(maxsize=1024)
def _title(left: tuple[str, ...], right: str) -> str:
    return f"{escaped(', '.join(left))} -> {escaped(right)}"


def plan_text(steps: Iterable[Step]) -> str:
    lines = (
        f"<Outline> Transient Step {step.n}: {title(step)}; Dependency: {list(step.deps)} </Outline>" for step in steps
    )
    return "\n".join(("<Plan>", *lines, "</Plan>"))


def entity_text(entities: Iterable[Entity]) -> str:
    """The plan over entities, from which the steps follow."""
    lines = (f"<Outline> {e.n}. {escaped(e.name)}; Dependency: {list(e.deps)} </Outline>" for e in entities)
    return "\n".join(("<Plan>", *lines, "</Plan>"))


def step_text(step: Step) -> str:
    return f"<Step> Transient Step {step.n}: {title(step)}\n{escaped(step.text)}\n</Step>"


def execution_text(steps: Iterable[Step]) -> str:
    return "\n".join(("<Execution>", *map(step_text, steps), "</Execution>"))


def conclusion_text(explanation: str, answer: str) -> str:
    return f"<Conclusion>\nExplanation: {escaped(explanation)}\nAnswer: {escaped(answer)}\n</Conclusion>"


def training_parts(
    chains: Iterable[Sequence[str]], steps: Sequence[Step], explanation: str, answer: str
) -> tuple[str, list[str], str]:
    """The whole assistant turn in three: what stands before the first step, a block for each step, and what follows."""
    before = ("<Think>", BRIDGE, "", HEADING, escaped_chains(chains), "", plan_text(steps), "<Execution>", "")
    after = ("</Execution>", conclusion_text(explanation, answer), "</Think>", f"Answer: {answer}")
    return "\n".join(before), [f"{step_text(step)}\n" for step in steps], "\n".join(after)


def escaped_chains(chains: Iterable[Sequence[str]]) -> str:
    """The lines of chains; their arrows stay as they are."""
    return chain_lines.write([escaped(node) for node in chain] for chain in chains)


@dataclass(frozen=True, slots=True)
class Block:
    """A fragment as its tags have it: the root, and its children with their texts."""

    root: str
    children: tuple[tuple[str, str], ...]
    nested: tuple[str, ...]
    """Tags inside a child, which may hold none."""


@dataclass(frozen=True, slots=True)
class Outline:
    n: int
    title: str
    left: str
    right: str
    deps: tuple[int, ...]


class NotXml(ValueError):
    """A fragment that cannot be read, or may not be: it brings a DTD, entities of its own, or is larger than LARGEST."""


def read_block(fragment: str) -> Block:
    """A fragment as XML; NotXml says what it is not. Entities can be declared in a document type only, so nothing expands."""
    if len(fragment) > LARGEST:
        raise NotXml(f"{len(fragment):,} characters; at most {LARGEST:,} are read")
    parser = expat.ParserCreate()
    parser.buffer_text = True
    reader = _Reader()
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(fragment.strip(), True)
    except expat.ExpatError as fault:
        raise NotXml(f"not XML: {fault}") from None
    return Block(reader.root, tuple((tag, "".join(text)) for tag, text in reader.children), tuple(reader.nested))


def readable(fragment: str) -> bool:
    """Whether `read_block` reads it."""
    try:
        read_block(fragment)
    except NotXml:
        return False
    return True


def _refuse(name: str, *_: object) -> None:
    raise NotXml(f"it declares {name!r}: a plan has no document type and no entities of its own")


class _Reader:
    """What expat tells, as far as a block has it."""

    def __init__(self) -> None:
        self.root = ""
        self.children: list[tuple[str, list[str]]] = []
        self.nested: list[str] = []
        self._depth = 0

    def start(self, tag: str, _: object) -> None:
        if self._depth == 0:
            self.root = tag
        elif self._depth == 1:
            self.children.append((tag, []))
        else:
            self.nested.append(tag)
        self._depth += 1

    def end(self, _: str) -> None:
        self._depth -= 1

    def text(self, data: str) -> None:
        if self._depth >= 2 or data.strip():
            self._here().append(data)

    def _here(self) -> list[str]:
        if self._depth < 2:  # text beside the children is a child without a tag
            self.children.append(("", []))
        return self.children[-1][1]


def read_outline(text: str) -> Outline | None:
    """`Transient Step 2: A, B -> C; Dependency: [1]`; None for anything else."""
    match = _OUTLINE.fullmatch(text.strip())
    if match is None:
        return None
    n, left, right, deps = match.groups()
    return Outline(int(n), f"{left} -> {right}", left, right, tuple(map(int, deps.split(","))) if deps else ())


def read_header(text: str) -> tuple[int, str] | None:
    """Number and title in the first line of a step; None where it has none."""
    match = _HEADER.fullmatch(text.strip().partition("\n")[0].strip())
    return (int(match[1]), f"{match[2]} -> {match[3]}") if match else None


def body(text: str) -> str:
    """What follows the first line of a step."""
    return text.strip().partition("\n")[2].strip()


def between(text: str, tag: str) -> str | None:
    """The last `<tag> ... </tag>` of a text, tags and all."""
    start, end = text.rfind(f"<{tag}>"), text.rfind(f"</{tag}>")
    return text[start : end + len(tag) + 3] if 0 <= start < end else None


def inside(text: str, tag: str) -> str | None:
    """The same without the tags."""
    found = between(text, tag)
    return None if found is None else found[len(tag) + 2 : -len(tag) - 3].strip()
