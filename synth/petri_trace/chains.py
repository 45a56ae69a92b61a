"""Chains of reasoning as lines of text, and what is wrong with those that cannot be used.

    1: FH->LS->MLH1->MMR          ->     (("FH", "LS", "MLH1", "MMR"), ("FH", "MLH1"))
    2: FH->MLH1

The form is MedVerse's (arXiv:2602.07529, released curation scripts): numbers from 1 without a gap, `->` between the nodes. Nodes are
compared after Unicode NFC and without white space around them; case counts. What later text formats split on cannot be
part of a name.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Chains = tuple[tuple[str, ...], ...]

FORBIDDEN = (";", "->", "[", "]", "<", ">", "\n", "\r")
"""What no name may hold: plans are split on it."""
LONGEST = 200
"""Characters of a name; not stated in the paper; our default."""

_LINE = re.compile(r"\s*(\d{1,9})\s*:(.*)", re.DOTALL)
_UNWRITTEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
"""Control characters, line breaks beside those of FORBIDDEN, and what XML cannot write."""
_SHOWN = 120


class Unusable(Exception):
    """Chains that no plan can be made of: a short fixed reason, and what a person needs to agree."""

    def __init__(self, reason: str, **evidence: Any) -> None:
        super().__init__(f"{reason}: {evidence}")
        self.reason, self.evidence = reason, evidence


def read(given: str | Iterable[Sequence[str]], *, longest: int = LONGEST) -> Chains:
    """The chains of a text of numbered lines, or of lists of names; Unusable for the first thing that is wrong.

    Reasons: empty_candidate_set, bad_chain (no number, no `->`), chain_numbers (not 1, 2, 3 ...), and those of `name`.
    A chain that is there twice counts once.
    """
    parts = _of_lines(given) if isinstance(given, str) else [list(chain) for chain in given]
    for chain in parts:
        if len(chain) < 2:
            raise Unusable("bad_chain", says="a chain has two nodes or more, with -> between them", chain=_cut(chain))
    chains = tuple(dict.fromkeys(tuple(name(node, longest=longest) for node in chain) for chain in parts))
    if not chains:
        raise Unusable("empty_candidate_set", says="there is no chain")
    return chains


def _of_lines(text: str) -> list[list[str]]:
    found = []
    for number, line in enumerate((line for line in re.split(r"\r?\n", text) if line.strip()), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise Unusable(
                "bad_chain", says="a line begins with its number and a colon, such as 1: A->B", line=_cut(line)
            )
        if int(match[1]) != number:
            raise Unusable("chain_numbers", says="lines are numbered 1, 2, 3 ...", expected=number, found=int(match[1]))
        found.append(match[2].split("->"))
    return found


def write(chains: Iterable[Sequence[str]]) -> str:
    """The lines of chains, numbered from 1."""
    return "\n".join(f"{number}: {'->'.join(chain)}" for number, chain in enumerate(chains, start=1))


def name(text: str, *, longest: int = LONGEST) -> str:
    """The one form of an entity's name; Unusable with empty_entity, entity_too_long or entity_characters."""
    trimmed = unicodedata.normalize("NFC", text).strip()
    if all(unicodedata.category(character) == "Cf" for character in trimmed):  # zero-width ones: nothing to be seen
        raise Unusable("empty_entity", says="a node without a name")
    if len(trimmed) > longest:
        raise Unusable("entity_too_long", characters=len(trimmed), at_most=longest, begins=trimmed[:_SHOWN])
    if bad := [mark for mark in FORBIDDEN if mark in trimmed]:
        raise Unusable("entity_characters", says=f"a name may not hold {bad[0]!r}", entity=_cut(trimmed))
    if held := _UNWRITTEN.search(trimmed):
        raise Unusable("entity_characters", says=f"a name may not hold {held[0]!a}", entity=_cut(ascii(trimmed)))
    return trimmed


def evidence(fault: Unusable, **more: Any) -> Mapping[str, Any]:
    """What a rejection shows of it."""
    return {**fault.evidence, **more}


def _cut(value: str | Sequence[str]) -> str:
    text = value if isinstance(value, str) else "->".join(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
