"""What a version says of its judges, by its manifest: on the card, on the screen, and to whoever would publish it."""

from collections.abc import Iterator, Mapping
from typing import Any


def unmeasured(manifest: Mapping[str, Any]) -> list[str]:
    """The judges of a version that nobody measured, each with the steps that decide by its word."""
    return [
        f"{judge['use']} ({', '.join(judge['by'])}{' of ' + judge['of'] if 'of' in judge else ''})"
        for judge in manifest.get("judged", ())
        if not judge["calibrated"]
    ]


def calibration_rows(manifest: Mapping[str, Any]) -> list[dict[str, str]]:
    """The measured accuracies for people, a row a judge; those that are not good and bad cases have no sides."""
    return [_shown(found) for found in manifest.get("calibration", ())]


def calibration_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    """The same for the screen, and which judges nobody measured."""
    for found in manifest.get("calibration", ()):
        row = _shown(found)
        sides = f", good kept {row['good kept']}, bad caught {row['bad caught']}" if row["good kept"] else ""
        yield f"judge     {row['judge']}: right about {row['accuracy']} cases{sides}, undecided {row['undecided']}"
    for judge in unmeasured(manifest):
        yield f"judge     {judge} was never measured on known cases: `calibration` in the recipe"


def _shown(found: Mapping[str, Any]) -> dict[str, str]:
    models = ", ".join(found["models"].values())
    return {
        "judge": f"{found['use']} by {models}" if models else str(found["use"]),
        "cases": f"{found['cases']:,}",
        "accuracy": _share(found["accuracy"]),
        "good kept": _share(found.get("good_kept")),
        "bad caught": _share(found.get("bad_caught")),
        "undecided": f"{found['undecided']:,}",
    }


def _share(share: Mapping[str, Any] | None) -> str:
    if share is None or share["mean"] is None:
        return ""
    return f"{share['part']} of {share['whole']}, {share['mean']:.3f} [{share['low']:.3f}, {share['high']:.3f}]"
