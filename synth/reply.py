"""Taking a reply apart: what the model thought, and what it says."""


def split_reasoning(text: str, think: tuple[str, str] | None, *, opened: bool = False) -> tuple[str | None, str]:
    """`(reasoning, content)` of a reply; reasoning is None where the model does not think aloud.

    `think` holds the opening and the closing tag. `opened` says that the prompt ended in the opening tag, so that the reply
    begins inside it. Content is what follows the last closing tag: with several blocks of thought, all but the last
    closing tag stay in the reasoning. Thought that never closes leaves no content: an answer in it was not given.
    """
    if think is None:
        return None, text
    opening, closing = think
    if never_closed(text, think, opened=opened):
        return _without(opening, text), ""
    before, closed, after = text.rpartition(closing)
    return (_without(opening, before), after.strip()) if closed else (None, text)


def with_opening(text: str, think: tuple[str, str] | None, *, opened: bool = False) -> str:
    """The reply as a whole turn: with the opening tag in front where the prompt had written that.

    A chat template that opens the thought leaves replies that close what they never opened. Without its opening, a trainer that
    renders the turn would teach just that.
    """
    if think is None:
        return text
    opening, closing = think
    before = text.partition(closing)[0]
    return f"{opening}\n{text}" if opened and opening not in before else text


def never_closed(text: str, think: tuple[str, str], *, opened: bool = False) -> bool:
    """Whether a reply ends inside a thought; `opened` as above."""
    _, closed, after = text.rpartition(think[1])
    return think[0] in after or (opened and not closed)


def _without(opening: str, reasoning: str) -> str:
    return reasoning.strip().removeprefix(opening).strip()
