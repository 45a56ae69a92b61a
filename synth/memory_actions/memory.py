"""The memory that a trajectory works with: steps that are shown as they were written, or folded to their notes; and what a reply does to it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Action = Literal["commit", "expand", "fold", "answer"]

_LINE = re.compile(r"^[ \t]*(commit|expand|fold|answer)[ \t]*:[ \t]*(.*)$", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"#?(\d{1,9})\.?")


@dataclass(frozen=True, slots=True)
class Move:
    """What a reply does: a step with its note, the number of a note, or the answer."""

    action: Action
    arg: int | None = None
    """The note that is expanded or folded."""
    raw: str = ""
    """What stands before the action."""
    note: str = ""

    @property
    def op(self) -> str:
        """Short: `C`, `E1`, `F1`, `A`; a commit's number is the memory's."""
        return self.action[0].upper() + ("" if self.arg is None else str(self.arg))


def read_move(reply: str, close: str = "</think>") -> Move | str:
    """The one action of a reply, or why there is none; a thought before it is no part of the step."""
    said = reply.rpartition(close)[2].strip()
    found = list(_LINE.finditer(said))
    if not found:
        return "no_action"
    if len(found) > 1:
        return "several_actions"
    [line] = found
    action, rest, raw = line[1].lower(), line[2].strip(), said[: line.start()].strip()
    if action == "answer":
        rest = f"{rest}\n{said[line.end() :]}".strip()
        return Move("answer", raw=raw, note=rest) if rest else "empty_action"
    if action == "commit":
        return Move("commit", raw=raw, note=f"{rest}\n{said[line.end() :]}".strip()) if raw and rest else "empty_action"
    number = _NUMBER.fullmatch(rest)
    if number is None:
        return "no_number"
    return Move("expand" if action == "expand" else "fold", int(number[1]), raw=raw)


@dataclass(slots=True)
class Entry:
    """A step that was committed."""

    raw: str
    note: str
    folded: bool = True

    def shown(self) -> str:
        return self.note if self.folded else self.raw


@dataclass(slots=True)
class Memory:
    """All steps so far. What is folded is shown to nobody: the next prompt is made of this alone."""

    entries: list[Entry] = field(default_factory=list)

    def apply(self, move: Move) -> str | None:
        """Do what the move says; why it cannot be done, where it names a note that is not there."""
        if move.action == "commit":
            self.entries.append(Entry(move.raw, move.note))
        elif move.arg is not None:
            if not 1 <= move.arg <= len(self.entries):
                return "unknown_note"
            self.entries[move.arg - 1].folded = move.action == "fold"
        return None

    def notes(self) -> str:
        """A numbered line for each step, as it is shown."""
        return "\n".join(f"{k}. {entry.shown()}" for k, entry in enumerate(self.entries, start=1))

    def unfolded(self, count: Callable[[str], int]) -> int:
        """Tokens that folding saves: those of the raw steps less those of their notes, of what is folded."""
        return sum(count(entry.raw) - count(entry.note) for entry in self.entries if entry.folded)
