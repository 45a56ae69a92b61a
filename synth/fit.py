"""Whether a chat template and a tokenizer are fit for what a recipe asks of them, found out before the first token.

What is refused would spoil every prompt of a build, and silently: a template that opens no assistant's turn, an argument that
it never reads, a system prompt that it drops, a tokenizer that loses digits. What a person should only know is a note.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tracemill.schemas.errors import ProblemFailed, RecipeError
from tracemill.schemas.recipe import suggest
from tracemill.schemas.request import Message
from tracemill.synth.render import Renderer
from tracemill.synth.roles import Role

OURS = ("messages", "tools", "add_generation_prompt")
"""Arguments of a template that every request sets itself."""
_QUESTION, _OTHER, _ANSWER = "What is 6 * 7?", "How many legs has a cat?", "It is 42."
_TEXT = "Let x = 1234567890.\nThen 6 * 7 = 42, and 3/4 < 0.8 + [y];\n\nso the Answer is \\boxed{-5}."
"""What every reasoning model writes: digits, both cases, signs, line breaks, a box."""
_RARE = "é²½αΩ数\u2212≤“”…😀"
"""What a tokenizer may read as something else, and still be of use."""


def check_fit(
    where: str, renderer: Renderer, *, system: str | None, kwargs: Mapping[str, Any], renders: bool
) -> tuple[str, ...]:
    """Raise a RecipeError for what would spoil every prompt; return what a person should know.

    `renders`: prompts are made here. Otherwise a server makes them, by a template that nobody here has seen.
    """
    if not renders:
        return _unread_notes(where, renderer, kwargs)
    _check_arguments(where, renderer, kwargs)
    _check_tokenizer(where, renderer)
    if renderer.template is not None:
        check_template(where, renderer, system, kwargs)
    return _notes(renderer)


def check_arguments_without_template(where: str, kwargs: Mapping[str, Any]) -> None:
    """Where prompts have the plain layout, there is nothing that could read an argument of a template."""
    if kwargs:
        raise RecipeError(
            f"{where}.chat_template_kwargs: there is no chat template to read {', '.join(sorted(kwargs))}; take it out, or "
            "name a template: template = '...', or a tokenizer that brings one"
        )


def check_one_tokenizer(plugin: str, one: Role, other: Role) -> None:
    """Raise a RecipeError unless token ids of `one` mean the same to `other`, which may know further ones."""
    if one.tokenizer == other.tokenizer == "words":
        return  # two scripted engines: their words are the same
    for role in (one, other):
        if role.send != "tokens" or role.renderer is None:
            raise RecipeError(
                f"{plugin} hands token ids from {one.name!r} to {other.name!r}, and {role.name!r} takes none as it is set up; use an "
                "engine of kind vllm or hf, or openai with send = 'tokens' and a tokenizer"
            )
    assert one.renderer is not None and other.renderer is not None  # noqa: S101, PT018 - refused above
    mine, its = (dict(r.tokenizer.get_vocab(with_added_tokens=True)) for r in (one.renderer, other.renderer))
    for token, number in sorted(mine.items(), key=lambda entry: entry[1]):
        if its.get(token) != number:
            raise RecipeError(
                f"{plugin} hands token ids from {one.name!r} to {other.name!r}, so both need one tokenizer; token {token!r} is "
                f"{number} to {one.renderer.name} and {its.get(token, 'unknown')} to {other.renderer.name}: name two models of one family"
            )
    if inserted := [token for token, number in its.items() if token not in mine and number <= max(mine.values())]:
        raise RecipeError(
            f"{plugin} hands token ids from {one.name!r} to {other.name!r}: {other.renderer.name} has {inserted[0]!r} at an id "
            f"that {one.renderer.name} leaves free below its last; name two models of one family"
        )


def _check_arguments(where: str, renderer: Renderer, kwargs: Mapping[str, Any]) -> None:
    if renderer.template is None:
        check_arguments_without_template(where, kwargs)
    for name in kwargs:
        if name in OURS:
            raise RecipeError(f"{where}.chat_template_kwargs: {name!r} is set by every request; take it out")
        if name not in renderer.reads:
            known = renderer.reads - {*OURS, *renderer.special}
            raise RecipeError(
                f"{where}.chat_template_kwargs: the chat template of {renderer.name} never reads {name!r}"
                f"{suggest(name, known)}"
            )


def _unread_notes(where: str, renderer: Renderer, kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    unread = sorted(name for name in kwargs if renderer.template is not None and name not in renderer.reads)
    said = f"the template of {renderer.name} does not read it; whether the server's does, only the server knows"
    return tuple(f"{where}.chat_template_kwargs.{name}: {said}" for name in unread)


def check_template(where: str, renderer: Renderer, system: str | None, kwargs: Mapping[str, Any]) -> None:
    """Show the template a question, a system prompt and an answer, and see what becomes of them."""

    def shown(*turns: Message, opened: bool = True) -> str:
        return renderer.text(turns, add_generation_prompt=opened, **kwargs)

    asked = Message(role="user", content=_QUESTION)
    of = f"the chat template of {renderer.name}"
    try:
        alone = shown(asked)
    except ProblemFailed as refusal:
        raise RecipeError(f"{where}: {refusal}; it was shown nothing but {_QUESTION!r}: mend the template") from refusal
    if alone == shown(Message(role="user", content=_OTHER)):
        raise RecipeError(f"{where}: {of} shows nothing of the question; write {{{{ messages[-1].content }}}} into it")
    if not renderer.encode(alone):
        raise RecipeError(f"{where}: what {of} writes is no token to its tokenizer: {alone[:80]!r}")
    if system is not None:
        _check_system(where, of, alone, lambda: shown(Message(role="system", content=system), asked))
    _check_opening(where, of, alone, lambda *turns: shown(asked, *turns, opened=False))


def _check_system(where: str, of: str, alone: str, with_system: Any) -> None:
    advice = "take `system` out and write it into the method's prompt, or give a template that shows it"
    try:
        text = with_system()
    except ProblemFailed as refusal:
        raise RecipeError(f"{where}.system: {refusal}; {advice}") from refusal
    if text == alone:
        raise RecipeError(f"{where}.system: {of} does not show a system prompt; {advice}")


def _check_opening(where: str, of: str, alone: str, shown: Any) -> None:
    """A prompt has to end where the answer begins.

    Templates of completion models open the answer behind every question, whatever `add_generation_prompt` says; that shows
    where the template is given an answer too: it stands right behind the prompt. Where the template first writes something
    else in between, such as the assistant's header, the prompt lacks it, and the model would go on with the user's turn.
    """
    try:
        if shown() != alone:
            return
        answered = shown(Message(role="assistant", content=_ANSWER))
    except ProblemFailed:
        return  # it takes questions only, so it has no other place for the answer
    header, found, _ = answered.removeprefix(alone).partition(_ANSWER)
    if answered.startswith(alone) and found and header.strip():
        raise RecipeError(
            f"{where}: {of} writes nothing for add_generation_prompt, so the model would go on with the user's turn, though "
            f"an assistant's turn begins with {header!r}; add {{% if add_generation_prompt %}}{{{{ {header!r} }}}}{{% endif %}} "
            "to its end: template = 'file.jinja'"
        )


def _check_tokenizer(where: str, renderer: Renderer) -> None:
    """Refuse a tokenizer that loses what reasoning is made of. Spaces are not compared: many rightly add or join some."""
    back = renderer.tokenizer.decode(list(renderer.encode(_TEXT)), skip_special_tokens=False)
    text, read = _TEXT.replace(" ", ""), back.replace(" ", "")
    if text == read and "so the Answer is" in re.sub(r"\s+", " ", back):
        return
    at = next(
        (i for i, (one, two) in enumerate(zip(text, read, strict=False)) if one != two), min(len(text), len(read))
    )
    lost = "the spaces between words" if text == read else ""
    lost = lost or ("the difference between upper and lower case" if text.lower() == read.lower() else "")
    lost = lost or ("line breaks" if text.replace("\n", "") == read.replace("\n", "") else "")
    lost = lost or f"{text[at : at + 12]!r}, of which it makes {read[at : at + 12]!r}"
    raise RecipeError(
        f"{where}: the tokenizer of {renderer.name} loses {lost}; every prompt would be spoilt: name another one: "
        "tokenizer = 'folder or Hub id'"
    )


def _notes(renderer: Renderer) -> tuple[str, ...]:
    def back(ids: Sequence[int]) -> str:
        return str(renderer.tokenizer.decode(list(ids), skip_special_tokens=False))

    notes = []
    changed = [char for char in _RARE if back(renderer.encode(char)).strip() != char]
    if changed:
        notes.append(f"the tokenizer of {renderer.name} reads these as something else: {' '.join(changed)}")
    if back(renderer.encode("4") + renderer.encode("2")) != "42":
        notes.append(f"the tokenizer of {renderer.name} puts a space before a forced prefix that is given as text")
    return tuple(notes)
