"""`Talk.`: small talk of one short sentence, never about sums: what a mixture holds besides arithmetic.

## Question                  -->   Hello, Tom.
Say hello to Tom.
"""

import hashlib
import re

from tracemill.synth.tiny.asking import Text, rendered
from tracemill.synth.tiny.problems import CONTAINERS, ITEMS, NAMES, Dice
from tracemill.synth.tiny.texts import Span

TALK = "Talk."
KINDS = (
    ("Say hello to {a}.", "Hello, {a}."),
    ("Say goodbye to {a}.", "Goodbye, {a}."),
    ("Thank {a} for the {x}.", "Thank you for the {x}, {a}."),
    ("Wish {a} a good day.", "Have a good day, {a}."),
    ("Say sorry to {a} for the {x}.", "Sorry for the {x}, {a}."),
    ("{a} likes {x}. What does {a} like?", "{a} likes {x}."),
    ("{a} likes {x}. {b} likes {y}. Who likes {y}?", "{b} likes {y}."),
    ("{a} likes {x}. {b} likes {y}. Who likes {x}?", "{a} likes {x}."),
    ("Do you like {x}?", "Yes, I like {x}."),
    ("Ask {a} for the {x}.", "Can I have the {x}, {a}?"),
    ("Ask {a} where the {x} are.", "Where are the {x}, {a}?"),
    ("Tell {a} that {b} is here.", "{b} is here, {a}."),
    ("Ask {a} how {b} is.", "How is {b}, {a}?"),
    ("Give the {x} to {a}.", "Here are the {x}, {a}."),
    ("{a} is old. Is {a} old?", "Yes, {a} is old."),
    ("Say hello to {a} and {b}.", "Hello, {a} and {b}."),
    ("What do you put into {c}?", "I put {x} into {c}."),
    ("Where are the {x}?", "The {x} are in the {c}."),
)
"""What is said and what is answered; where the answer has a thing that the question has not, any one will do."""
LISTS = (
    ("Say hello to {}.", "Hello, {}.", NAMES),
    ("Say goodbye to {}.", "Goodbye, {}.", NAMES),
    ("Who is here? {} are here.", "{} are here.", NAMES),
    ("I like {}.", "You like {}.", ITEMS),
    ("Ask for the {}.", "Can I have the {}?", ITEMS),
)
LISTED_COUNTS = 2.0
SLOTS = {"a": NAMES, "b": NAMES, "x": ITEMS, "y": ITEMS, "c": CONTAINERS}
HELD_BACK = 8
"""One in so many sentences is kept for measuring."""


def talking(dice: Dice) -> Text:
    """A sentence and its answer, of those that are trained on."""
    while True:
        question, answer, _ = exchange(dice)
        if not is_held_back(question):
            return Text(rendered({"Question": question}, TALK), [Span(answer)])


def listing(dice: Dice) -> Text:
    """A longer sentence of names or things that comes back: copying, which the talk needs, in little space."""
    begin, reply, words = dice.pick(LISTS)
    *firsts, last = dice.pick_distinct(words, dice.between(2, min(6, len(words))))
    many = f"{', '.join(firsts)} and {last}"
    return Text(rendered({"Question": begin.format(many)}, TALK), [Span(reply.format(many), LISTED_COUNTS)])


def exchange(dice: Dice) -> tuple[str, str, int]:
    """A sentence, an answer to it, and of which of the kinds they are."""
    kind = dice.between(0, len(KINDS) - 1)
    (a, b), (x, y) = dice.pick_distinct(NAMES, 2), dice.pick_distinct(ITEMS, 2)
    slots = {"a": a, "b": b, "x": x, "y": y, "c": dice.pick(CONTAINERS)}
    question, answer = (text.format(**slots) for text in KINDS[kind])
    return question, answer, kind


def is_answer(question: str, answer: str) -> bool:
    """Whether the answer is one that the question allows."""
    return any(
        said and re.fullmatch(_pattern(reply, said.groupdict()), answer)
        for sentence, reply in KINDS
        for said in [re.fullmatch(_pattern(sentence, {}), question)]
    )


def _pattern(text: str, known: dict[str, str]) -> str:
    """A sentence with its slots: what is known stands in them, else any name or thing, the same wherever it comes again."""
    seen: set[str] = set()

    def slot(found: re.Match[str]) -> str:
        name = found[1]
        if name in known:
            return re.escape(known[name])
        again = name in seen
        seen.add(name)
        return f"(?P={name})" if again else f"(?P<{name}>{'|'.join(SLOTS[name])})"

    return re.sub(r"\\\{(\w)\\\}", slot, re.escape(text))


def is_held_back(question: str) -> bool:
    return hashlib.sha256(question.encode()).digest()[0] % HELD_BACK == 0


def is_listed(question: str) -> bool:
    """Whether `listing` could have written it: such a sentence measures nothing."""
    return any(re.fullmatch(re.escape(begin).replace(r"\{\}", ".+ and .+"), question) for begin, _, _ in LISTS)
