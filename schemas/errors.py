"""Every error tracemill raises, from the moment it can happen, with the exit code it ends in.

TracemillError
├── RecipeError        2   the recipe, an input file, the store or an endpoint is wrong; nothing was sampled
├── ProblemFailed      -   one problem cannot be synthesized; it is recorded and the run goes on
├── BackendError       -   one request failed; which of the two decides what happens next
│   ├── RequestRefused     the backend will never answer this request: its problem fails, the run goes on
│   └── EngineLost     3   the backend is gone; the run stops and resumes from its journal
├── HubLost            3   the Hub, or wherever a version is published to, stopped answering; run again to go on
├── SegmentsLost       3   where segments of the journal are shared stopped answering; run again to send what is left
├── WorkersLost        3   the Dask scheduler, or the last of its workers, is gone; run again to go on
├── LawBroken          4   a promise would be broken, so the run stops and says which
│   ├── LockHeld           another build of this dataset is running
│   ├── JudgeRefused       a judge is right about fewer planted cases than the recipe asks for
│   ├── TooManyFailures    more rows and problems failed than `tolerate` allows
│   ├── ShardsMissing      a version is to be gathered, and problems of it have no outcome yet
│   └── CountsDiffer       rows went in that did not come out: a bug, never published
├── DiskFull           6   nothing is half-written; make room and run again
└── Interrupted  130/143   SIGINT or SIGTERM: drained, resumable
"""

from typing import ClassVar


class TracemillError(Exception):
    """Base of every error raised on purpose; the message says what, the value, what is allowed, what to do."""

    exit_code: ClassVar[int] = 1


class RecipeError(TracemillError):
    """The recipe, an input file, the store folder or an endpoint is wrong. Raised before the first token."""

    exit_code = 2


class ProblemFailed(TracemillError):
    """A problem that this method cannot solve: an overlong prompt, an unparsable reply."""


class BackendError(TracemillError):
    """A request that was not answered."""


class RequestRefused(BackendError):
    """The backend will not answer this request however often it is asked: too long, invalid, poisonous."""


class EngineLost(BackendError):
    """The backend stopped answering and could not be brought back."""

    exit_code = 3


class HubLost(TracemillError):
    """What a version is published to stopped answering. What went up stays there and is not sent again."""

    exit_code = 3


class SegmentsLost(TracemillError):
    """Samples did not reach the place where machines share them. They are on this disk, and the next run sends them."""

    exit_code = 3


class WorkersLost(TracemillError):
    """The scheduler of a spread build, or its last worker, is gone. What was sampled stays in the journals."""

    exit_code = 3


class LawBroken(TracemillError):
    """Going on would break a promise of docs/design.md."""

    exit_code = 4


class LockHeld(LawBroken):
    """Another process is building the same dataset in the same store."""


class JudgeRefused(LawBroken):
    """A judge is right about fewer planted cases than the recipe's `least_accuracy`; no problem was worked on."""


class TooManyFailures(LawBroken):
    """More source rows were refused and problems failed than the recipe tolerates."""


class ShardsMissing(LawBroken):
    """Problems of the recipe have no outcome yet; the message says how many of which shard, and what to run."""


class CountsDiffer(LawBroken):
    """A stage let a row disappear."""


class DiskFull(TracemillError):
    """The disk, or a quota, is full."""

    exit_code = 6


class Interrupted(TracemillError):
    """A person or a scheduler asked the run to stop, and it stopped in order."""

    exit_code = 130

    def __init__(self, message: str, *, signal: int) -> None:
        """`signal` is 2 (SIGINT) or 15 (SIGTERM); the exit code is 128 more."""
        super().__init__(message)
        self.exit_code = 128 + signal  # type: ignore[misc]
