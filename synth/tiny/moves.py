r"""`Next move.`: a solution made move by move over notes that are folded or raw.

## Notes                     -->   C is A less B: 24 - 16 = 8.      a step, whose note is the next number
1. A = 24                          commit: C = 8
2. B = 16                    or    expand: 1                        a look at a note that the step will take
1. A is 3 times 8: 3 * 8 = 24.     fold: 1                          once the step behind it is written
2. B is A less 5: 24 - 5 = 19.
                                   answer: \boxed{8}                all steps committed, all notes folded
"""

import re
from dataclasses import dataclass, field

from tracemill.synth.tiny.asking import Text, rendered
from tracemill.synth.tiny.problems import LETTERS, Dice, WordProblem
from tracemill.synth.tiny.texts import Span, meaning, written

MOVE = "Next move."
LOOKS = 40
"""Percent of the steps with something to look at that look first."""
MOVE_COUNTS = 1.5
STEP = re.compile(r"([A-E]) is ([^\n:]+): ([^\n=]+) = (\d+)\.\ncommit: \1 = \4")
TURN = re.compile(r"(expand|fold): (\d+)")
END = re.compile(r"answer: \\boxed\{(\d+)\}")


@dataclass(slots=True)
class Notebook:
    """Notes as they are shown, in two forms each, and which of them are raw."""

    raw_texts: list[str] = field(default_factory=list)
    folded_texts: list[str] = field(default_factory=list)
    raw: set[int] = field(default_factory=set)
    answer: str | None = None

    @property
    def shown(self) -> str:
        both = zip(self.raw_texts, self.folded_texts, strict=True)
        notes = (raw if number in self.raw else folded for number, (raw, folded) in enumerate(both, 1))
        return "\n".join(f"{number}. {note}" for number, note in enumerate(notes, 1))

    def take(self, move: str) -> bool:
        """Carries a move out; False if it is no legal move here."""
        if step := STEP.fullmatch(move):
            if step[1] != LETTERS[len(self.raw_texts)]:
                return False
            self.raw_texts.append(move.partition("\n")[0])
            self.folded_texts.append(f"{step[1]} = {step[4]}")
            return True
        if turn := TURN.fullmatch(move):
            number, opens = int(turn[2]), turn[1] == "expand"
            if not 1 <= number <= len(self.raw_texts) or (number in self.raw) == opens:
                return False
            self.raw ^= {number}
            return True
        if (end := END.fullmatch(move)) and not self.raw and self.raw_texts:
            self.answer = end[1]
            return True
        return False


def step(problem: WordProblem, number: int) -> str:
    equation = problem.equations[number]
    letter = LETTERS[number]
    return f"{meaning(problem, number)}: {written(equation)}.\ncommit: {letter} = {equation.value}"


def right_move(dice: Dice, problem: WordProblem, notes: Notebook) -> str:
    """What to do over these notes; a step that takes notes is at times put off for a look at one of them."""
    done = len(notes.raw_texts)
    if notes.raw and done and any(number - 1 in problem.sources[done - 1] for number in notes.raw):
        return f"fold: {min(notes.raw)}"
    if done == problem.difficulty:
        return f"answer: \\boxed{{{problem.answer}}}"
    if not notes.raw and problem.sources[done] and dice.chance(LOOKS):
        return f"expand: {dice.pick(problem.sources[done]) + 1}"
    return step(problem, done)


def trajectory(dice: Dice, problem: WordProblem) -> list[tuple[str, str]]:
    """The notes and the move over them, from none to the answer."""
    notes, found = Notebook(), []
    while notes.answer is None:
        move = right_move(dice, problem, notes)
        found.append((notes.shown, move))
        if not notes.take(move):
            raise AssertionError(move)
    return found


def asked(question: str, notes: str) -> str:
    return rendered({"Question": question, "Notes": notes}, MOVE)


def moving(dice: Dice, problem: WordProblem) -> Text:
    """One move of a trajectory."""
    notes, move = dice.pick(trajectory(dice, problem))
    return Text(asked(problem.question, notes), [Span(move, MOVE_COUNTS)])
