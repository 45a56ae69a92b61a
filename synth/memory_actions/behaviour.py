"""What makes a trajectory one to learn from, by its operations alone: `C1 C2 E1 F1 C3 A`.

C1 C2 E1 F1 C3           3 commits, 1 expand, 1 fold: fine
E2 F1                    symmetry: note 1 is folded and was never expanded
C1 E1 F1 E1 F1           expands: 2 expands and 1 commit
"""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from tracemill.schemas.words import common_length

ALIKE = Fraction(9, 10)
"""How much of each other two notes in a row may be."""


def counts(ops: Sequence[str]) -> tuple[int, int, int]:
    """Commits, expands and folds."""
    kinds = Counter(op[0] for op in ops)
    return kinds["C"], kinds["E"], kinds["F"]


def fault(ops: Sequence[str]) -> str | None:
    """Why the operations are none to learn from, of those with commits; None where they are.

    In this order: `symmetry`, a fold without an expand of the same note before it; `repeated`, the same operation on the same note twice in a
    row; `expands`, more expands than commits; `busy`, more expands and folds than twice the commits; `partial_suite`, expands without folds.
    """
    commits, expands, folds = counts(ops)
    held: set[str] = set()
    for op in ops:
        if op[0] == "E":
            held.add(op[1:])
        elif op[0] == "F":
            if op[1:] not in held:
                return "symmetry"
            held.remove(op[1:])
    if any(one == other for one, other in pairwise(ops)):
        return "repeated"
    if expands > commits:
        return "expands"
    if expands + folds > 2 * commits:
        return "busy"
    return "partial_suite" if (expands == 0) != (folds == 0) else None


def alike(one: str, other: str) -> Fraction:
    """The longest common subsequence of two texts in words, as a share of the longer one."""
    a, b = one.split(), other.split()
    return Fraction(common_length(a, b), max(len(a), len(b), 1))


def repeats(notes: Sequence[str]) -> int | None:
    """The number, from 1, of the first note that says again what the one before it says."""
    return next((k for k, (one, other) in enumerate(pairwise(notes), start=2) if alike(one, other) > ALIKE), None)
