"""Text of a model or a source on a screen: it may hold anything, and a terminal obeys control characters."""


def printable(text: str) -> str:
    """The text with what cannot be printed, line breaks too, written as its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
