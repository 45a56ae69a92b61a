"""The tree that every search grows: a node is a prefix of a solution, known by the steps on the way to it.

Prefixes are read along the parents and never stored, so that a node moved elsewhere takes its whole subtree with it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

LeafKind = Literal["correct", "wrong", "undecided", "height_limit", "error"]


@dataclass(slots=True, eq=False)
class Node:
    """One step of a solution, and what was counted below it."""

    step: str
    """Clean text: no header, no stop text; empty at the root."""
    name: str = "n000000"
    """Unique within the tree and the same in every run."""
    parent: "Node | None" = None
    children: list["Node"] = field(default_factory=list)
    mult: int = 1
    """How many identical siblings this node stands for."""
    leaf_kind: LeafKind | None = None
    """What ended here; None at an inner node and at a prefix that was only probed."""
    n_correct: int = 0
    n_total: int = 0
    """Complete solutions counted below: leaves of the tree, or rollouts drawn from this prefix. Undecided ones are among them."""
    n_undecided: int = 0
    low: float | None = None
    high: float | None = None
    """Interval of the true share of correct continuations, where one was asked for."""
    n_tokens: int = 0
    """Of the step."""
    visits: int = 0
    search_iter: int | None = None
    """The iteration of the search that made it."""
    is_first_error: bool = False
    non_monotone: bool = False
    label_hard: int | None = None
    """1 where the value is above the threshold of the search, 0 where it is not, None where that is unknown."""
    label_source: Literal["drawn", "implied", "outcome", "human"] | None = None
    """What the hard label rests on: rollouts from this prefix, a right solution that goes through it, or the answer that ends here."""
    rollout_tokens: int = 0
    """Tokens of the rollouts that were drawn from this prefix, or of the draws that looked for the next step."""
    merged: tuple[str, ...] = ()
    """Names of the nodes whose steps were joined into this one's, itself among them; empty where nothing was."""
    key: str | None = None
    """The key of the completion that the step was cut from."""
    steps_left: int | None = None
    """The fewest further steps of a right solution drawn from here, where that is known of more than the nodes below."""

    @property
    def height(self) -> int:
        """Steps up to here: 0 at the root."""
        return len(self.path()) - 1

    def path(self) -> list["Node"]:
        """The nodes from the root to this one, both among them."""
        way: list[Node] = []
        node: Node | None = self
        while node is not None:
            way.append(node)
            node = node.parent
        return way[::-1]

    def steps(self) -> list[str]:
        """The steps up to and with this one."""
        return [node.step for node in self.path()[1:]]

    def add(self, child: "Node") -> "Node":
        child.parent = self
        self.children.append(child)
        return child


def walk(root: Node) -> Iterator[Node]:
    """Every node, breadth first: parents before their children, siblings in order."""
    waiting = deque([root])
    while waiting:
        node = waiting.popleft()
        yield node
        waiting.extend(node.children)
