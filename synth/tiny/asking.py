r"""How the tasks of tiny-generalist are asked: sections in one user message, and what may already stand behind it.

## Question
Tom has 3 boxes with 8 eggs each. Tom loses 5. How many eggs does Tom have?
## Solution
3 * 8 = 24. 24 - 5 = 19. The answer is \boxed{19}.
## Task
Name the steps.
## Answer
"""

from dataclasses import dataclass

from tracemill.synth.tiny.texts import THINK, Span

Sections = dict[str, str]
"""Title and content of what stands before the task, in the order in which it is shown; what is empty is left out."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text to train on: what is asked, as the chat template renders it, and what follows."""

    asked: str
    spans: list[Span]

    @property
    def answer(self) -> str:
        return "".join(span.text for span in self.spans)


def ask(sections: Sections, task: str) -> str:
    """The user's message."""
    return "".join(f"## {title}\n{content}\n" for title, content in sections.items() if content) + f"## Task\n{task}"


def rendered(sections: Sections, task: str, *, thinking: bool = False) -> str:
    """The message as the chat template renders it, without the token that begins every text."""
    return f"{ask(sections, task)}\n## Answer\n" + (f"{THINK}\n" if thinking else "")
