r"""How a solution is cut into steps, and how steps are put before a model that is to go on from them.

    headers       "# Step 1\nA is 8.\n# Step 2\nB is 9.\n# Answer\n\\boxed{9}\n# END!"   <-->   ["A is 8.", "B is 9.\n# Answer\n\\boxed{9}"]
    paragraphs    "A is 8.\n\nB is 9.\n\nSo \\boxed{9}."                            <-->   ["A is 8.", "B is 9.", "So \\boxed{9}."]

Steps are clean: no header, no stop text. The answer belongs to the step before it, under its own header, as in the trees that were
released with HRM (arXiv:2503.13551).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tracemill.schemas.steps import split_steps

Steps = Literal["headers", "paragraphs"]

_HEADER = re.compile(r"^[ \t]*#+[ \t]*step[ \t]*\d+[ \t]*[:.]?[ \t]*", re.IGNORECASE | re.MULTILINE)
ANSWER, END = "# Answer", "# END!"

_PROMPTS: dict[Steps, str] = {
    "headers": (
        "{question}\n\nSolve this one step at a time. Put the line `# Step 1` before the first step, `# Step 2` before the second, and "
        "so on. After the last step write the line `# Answer`, under it the final answer within \\boxed{}, and end with `# END!`."
    ),
    "paragraphs": (
        "{question}\n\nPlease reason step by step, with a blank line between steps, and put your final answer within \\boxed{}."
    ),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """One of the two ways to write steps."""

    name: Steps

    @property
    def prompt(self) -> str:
        """What asks for this layout, unless a recipe says it in the words of its model."""
        return _PROMPTS[self.name]

    @property
    def stop(self) -> tuple[str, ...] | None:
        """What ends a whole solution; None where the model's own end does."""
        return (END,) if self.name == "headers" else None

    def split(self, text: str) -> list[str]:
        """The steps that a model wrote, none of them empty. Without a header in it, a text in `headers` is one step.

        Where the end mark is missing, the last step goes on to the end of the text; what follows the mark is no part of it.
        """
        if self.name == "paragraphs":
            return split_steps(text)
        return [stripped for step in _HEADER.split(text.partition(END)[0]) if (stripped := step.strip())]

    def prefix(self, steps: Sequence[str], *, opened: bool = False) -> str | None:
        """The text that a solution with these steps begins with; None for none. `opened` writes the header of the next step, too."""
        if self.name == "paragraphs":
            return "".join(f"{step}\n\n" for step in steps) or None
        text = "".join(f"# Step {number}\n{step}\n" for number, step in enumerate(steps, start=1))
        return text + (f"# Step {len(steps) + 1}\n" if opened else "") or None

    def step_stop(self, height: int) -> tuple[str, ...]:
        """What ends the single step that leads to this height."""
        return (f"# Step {height + 1}", END) if self.name == "headers" else ("\n\n",)

    def one(self, text: str, finished: bool) -> tuple[str, bool]:
        """The first step of a text that was to hold one, and whether the solution ends with it.

        In `headers` it does where it holds an answer; in `paragraphs` where the model, and no blank line, ended it.
        """
        steps = self.split(text)
        step = steps[0] if steps else ""
        if self.name == "headers":
            return step, ANSWER.lower() in step.lower()
        return step, finished and len(steps) == 1 and not text.rstrip(" \t").endswith("\n\n")
