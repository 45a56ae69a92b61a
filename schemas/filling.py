"""Prompts with places: `{question}` and the like, looked for by options and filled all at once."""

import re

_PLACE = re.compile(r"\{(\w+)\}")


def fill(template: str, **parts: object) -> str:
    r"""`template` with each {place} that is named in `parts` replaced, at once: what is put in is not looked at again.

    A place that nobody names stays as it is, and so do other braces, as those of `\boxed{x}`.
    """
    return _PLACE.sub(lambda place: str(parts.get(place[1], place[0])), template)


def check_places(option: str, template: str, *places: str) -> None:
    """Raise ValueError for a template that does not show what it is about."""
    for place in places:
        if f"{{{place}}}" not in template:
            raise ValueError(f"{option} = {template!r} lacks {{{place}}}: write it where it belongs")
