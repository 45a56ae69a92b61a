"""Whether an answer equals the gold: equal, different or undecided, at a bounded price.

    text ──extract──▶ answer ──clean──▶ exact, numeric, by shape ──▶ equal | different
                                              │ what needs algebra
                                              ▼
                                   worker processes with math-verify, capped in CPU time and memory ──▶ ... | undecided

`verifier.py` is the way through. Worker processes import this package too, so it loads nothing by itself.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracemill.synth.verify.extract import extract_answer, read_gold
    from tracemill.synth.verify.verifier import Verifier

__all__ = ["Verifier", "extract_answer", "read_gold"]


def __getattr__(name: str) -> Any:
    if name == "Verifier":
        from tracemill.synth.verify.verifier import Verifier

        return Verifier
    if name in ("extract_answer", "read_gold"):
        from tracemill.synth.verify import extract

        return getattr(extract, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
