"""Prompts with places: `{question}` and the like, filled all at once."""

import re

_PLACE = re.compile(r"\{(\w+)\}")


def fill(template: str, **parts: object) -> str:
    r"""`template` with each {place} that is named in `parts` replaced, at once: what is put in is not looked at again.

    A place that nobody names stays as it is, and so do other braces, as those of `\boxed{x}`.
    """
    return _PLACE.sub(lambda place: str(parts.get(place[1], place[0])), template)
