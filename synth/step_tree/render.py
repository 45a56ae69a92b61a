"""How a step and what came before it are shown to a process reward model: the column `input` of its rows.

    ## Question
    Ben has 3 dorps of books. ...

    ## Previous steps
    # Step 1
    3 * 8 = 24.

    ## Current step
    # Step 2
    8 * 2 = 16.

Headers are counted from 1 whatever the tree called the steps, also where some of them were joined into one.
"""

from collections.abc import Sequence

QUESTION, PREVIOUS, CURRENT = "## Question", "## Previous steps", "## Current step"
ASKED = "The solution goes step by step."


def numbered(steps: Sequence[str], start: int = 1) -> str:
    """The steps under their headers, `# Step 1` and on."""
    return "\n".join(f"# Step {number}\n{step}" for number, step in enumerate(steps, start))


def shown_input(question: str, previous: Sequence[str], current: Sequence[str]) -> str:
    """The whole text; without the block of previous steps where there are none."""
    blocks = [f"{QUESTION}\n{question}", ASKED]
    if previous:
        blocks.append(f"{PREVIOUS}\n{numbered(previous)}")
    blocks.append(f"{CURRENT}\n{numbered(current, len(previous) + 1)}")
    return "\n\n".join(blocks)
