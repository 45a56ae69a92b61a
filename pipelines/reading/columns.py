"""What the columns of one source mean: from a `Row` to a `Problem`, or `Unusable` with the reason.

{"id": 7, "question": "6 * 7?", "answer": 42.0, "a": {"solution": "6 * 7 = 42", "ok": true}}
    ▶ Problem(problem_id="7", gold="42", responses={"a.solution": "6 * 7 = 42"}, meta={"a.ok": True})
"""

import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from itertools import pairwise
from typing import Any

from tracemill.pipelines.reading.conversations import (
    is_conversation,
    last_question,
    read_answered,
    read_messages,
    read_tools,
)
from tracemill.pipelines.reading.rawrow import Unusable, pick, scalars, text_of, wrong_type
from tracemill.schemas.recipe import Source
from tracemill.schemas.request import Message
from tracemill.schemas.rows import Given, Problem, qid

GIVEN = (
    "chains",
    "question_entities",
    "answer_entities",
    "kp_list",
    "kp_kept",
    "steps",
    "difficulty",
    "tools",
    "trace",
)
"""Keys of a source that name a column and have no default."""
EVERY = "*"
"""In `columns`: all columns of the row that have no other use."""
PROBLEMS_OWN = frozenset(
    {"id", "problem_id", "question", "gold", "difficulty", "messages", "tools", "key", "source", "licence"}
)
"""Columns of rows that say what a problem is and where it comes from: never a trace's own."""
_SHOWN = 200
_MANY = 20
_ABSENT = object()


class Columns:
    """The mapping of the `[[source]]` of this index; `name` is what rows show as their source."""

    def __init__(self, source: Source, index: int, name: str, *, gold_needed: bool) -> None:
        self._source, self._index, self._name, self._gold_needed = source, index, name, gold_needed
        self.question = source.question or ("question" if source.messages is None else None)
        self.responses = source.responses or ((source.response,) if source.response is not None else ())
        named = (self.question, source.messages, source.id, source.answer, source.options, source.solution)
        carried = [name for name in source.columns if name != EVERY]
        more = (*(getattr(source, name) for name in GIVEN), *self.responses, *carried)
        self.required = {column for column in (*named, *more) if column is not None}
        """The columns that a source must have: all that the recipe names, and the question."""
        self._own_rows = source.ref is not None and source.trace is not None
        """A table of ours: a problem without a gold has passed through once already."""
        self.answers_seen = False
        """Whether a row had the answer column that goes without saying; from then on a row without it is refused."""
        self._used = {*self.required, "id", "question", "answer", "difficulty"}

    @property
    def looks_for_answers(self) -> bool:
        """Whether it is still open if a row without an answer column lacks something."""
        return self._gold_needed and self._source.answer is None and not self.answers_seen

    def look(self, columns: Mapping[str, Any]) -> None:
        """Note whether a row has an answer column."""
        if self.looks_for_answers:
            self.answers_seen = pick(columns, "answer", _ABSENT) is not _ABSENT

    def problem_id(self, columns: Mapping[str, Any]) -> str | None:
        """The id that the row brings; None where the qid is to stand in."""
        value = _present(pick(columns, self._source.id or "id"))
        if value is None:
            if self._source.id is not None:
                raise Unusable("missing_id", column=self._source.id)
            return None
        text = None if isinstance(value, bool) else text_of(value)
        if text is None:
            raise wrong_type(self._source.id or "id", value, "text or a number")
        return text

    def problem(self, columns: Mapping[str, Any], problem_id: str | None) -> Problem:
        """The problem that a row states."""
        source = self._source
        messages = self._messages(columns)
        question = self._question(columns, messages)
        options = self._options(columns)
        return Problem(
            problem_id=problem_id or qid(question if messages is None else json.dumps(messages, ensure_ascii=False)),
            question=question,
            gold=self._gold(columns, options),
            source=self._name,
            source_index=self._index,
            licence=source.licence,
            difficulty=_scalar(columns, source.difficulty or "difficulty"),
            messages=messages,
            tools=self._tools(columns),
            options=options,
            solution=_text(columns, source.solution) if source.solution is not None else None,
            chains=self._chains(columns),
            question_entities=_entities(columns, source.question_entities),
            answer_entities=_entities(columns, source.answer_entities),
            kp_list=(points := self._knowledge_points(columns)),
            kp_kept=self._kept_points(columns, points),
            responses=(responses := self._responses(columns))[0],
            given=responses[1],
            steps=self._steps(columns),
            meta={name: _plain(value) for name, value in scalars(columns) if name not in self._used},
        )

    def _question(self, columns: Mapping[str, Any], messages: tuple[Message, ...] | None) -> str:
        column = self.question or "question"
        text = _text(columns, column)
        if text is None and messages is not None:
            text = last_question(messages)
        if text is None:
            raise Unusable("missing_question", column=column)
        if not text.strip():
            raise Unusable("empty_question", column=column)
        return text

    def _gold(self, columns: Mapping[str, Any], options: tuple[str, ...] | None) -> str | None:
        column = self._source.answer or "answer"
        if self._source.answer is None and not self.answers_seen and pick(columns, column, _ABSENT) is _ABSENT:
            return None
        text = _scalar(columns, column)
        if text is None or not text.strip():
            if self._gold_needed and not self._own_rows:
                raise Unusable("missing_gold", column=column)
            return None
        from tracemill.synth.verify import read_gold

        gold: str | None = read_gold(text, self._source.answer_format, options)
        if gold is None and self._gold_needed:
            raise Unusable(
                "unreadable_gold", column=column, answer_format=self._source.answer_format, ends=text[-_SHOWN:]
            )
        return gold

    def _options(self, columns: Mapping[str, Any]) -> tuple[str, ...] | None:
        if self._source.options is None:
            return None
        value = pick(columns, self._source.options)
        if isinstance(value, Mapping):  # {"A": "...", "B": "..."}
            value = [value[label] for label in sorted(value) if value[label] is not None]
        texts = [text_of(option) for option in value] if isinstance(value, list | tuple) else []
        if not texts or any(text is None for text in texts):
            raise wrong_type(self._source.options, value, "a list of texts, or a text for each letter")
        return tuple(text for text in texts if text is not None)

    def _messages(self, columns: Mapping[str, Any]) -> tuple[Message, ...] | None:
        column = self._source.messages
        if column is None:
            return None
        return read_messages(pick(columns, column), column, answered=bool(self.responses))

    def _tools(self, columns: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...] | None:
        column = self._source.tools
        return None if column is None else read_tools(pick(columns, column), column)

    def _steps(self, columns: Mapping[str, Any]) -> tuple[Any, ...] | None:
        column = self._source.steps
        if column is None:
            return None
        value = _present(pick(columns, column))
        if value is None:
            raise Unusable("missing_steps", column=column)
        if not isinstance(value, list | tuple):
            raise wrong_type(column, value, "a list of steps")
        return tuple(map(_nested, value))

    def _chains(self, columns: Mapping[str, Any]) -> str | tuple[tuple[str, ...], ...] | None:
        column = self._source.chains
        value = None if column is None else _present(pick(columns, column))
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
            return "\n".join(value)
        if isinstance(value, list | tuple) and all(
            isinstance(chain, list | tuple) and all(isinstance(node, str) for node in chain) for chain in value
        ):
            return tuple(tuple(chain) for chain in value)
        raise wrong_type(str(column), value, "a text or a list of lines such as 1: A->B, or a list of lists of names")

    def _knowledge_points(self, columns: Mapping[str, Any]) -> tuple[str, ...] | None:
        column = self._source.kp_list
        if column is None:
            return None
        points = _listed(columns, column, "kp_list")
        if any(not isinstance(point, str) for point in points):
            raise wrong_type(column, points, "a list of texts, or JSON text of one")
        return tuple(points)

    def _kept_points(self, columns: Mapping[str, Any], points: tuple[str, ...] | None) -> tuple[int, ...] | None:
        column = self._source.kp_kept
        if column is None or points is None:
            return None
        kept = _listed(columns, column, "kp_kept")
        if any(isinstance(place, bool) or not isinstance(place, int) for place in kept):
            raise wrong_type(column, kept, "a list of whole numbers, or JSON text of one")
        if outside := [place for place in kept if not 0 <= place < len(points)]:
            raise Unusable("kp_out_of_range", column=column, outside=outside[:_MANY], points=len(points))
        if any(one >= other for one, other in pairwise(kept)):
            raise Unusable("kp_not_ascending", column=column, value=repr(kept)[:_SHOWN])
        return tuple(kept)

    def _responses(self, columns: Mapping[str, Any]) -> tuple[dict[str, str | None], dict[str, Given]]:
        """The traces that a row brings, by column, and what it says of them."""
        texts: dict[str, str | None] = {}
        prompts: dict[str, tuple[Message, ...]] = {}
        for column in self.responses:
            value = pick(columns, column)
            if is_conversation(value):
                prompt, texts[column] = read_answered(value, column)
                if column != self._source.messages:
                    prompts[column] = prompt
            elif isinstance(value, list | tuple):  # several draws of one model: generations
                if any(not isinstance(text, str | None) for text in value):
                    raise wrong_type(column, value, "a text or a list of texts")
                texts |= {f"{column}[{number}]": text for number, text in enumerate(value)}
            elif (text := _text(columns, column)) is not None:
                texts[column] = text
        if self.responses and all(text is None for text in texts.values()):
            raise Unusable("missing_response", columns=list(self.responses))
        carried, licence = self._carried(columns), self._licence_of_row(columns)
        name = self._trace_name(columns, texts)
        given = {
            column: Given(named=name is not None, prompt=prompts.get(column), licence=licence, columns=carried)
            for column in texts
        }
        if name is not None:
            texts, given = (
                dict(zip([name], texts.values(), strict=True)),
                dict(zip([name], given.values(), strict=True)),
            )
        return texts, {column: told for column, told in given.items() if told != Given()}

    def _trace_name(self, columns: Mapping[str, Any], texts: Mapping[str, str | None]) -> str | None:
        """The name that the row has for its one trace; a row id of ours, `problem/name`, gives its last part."""
        column = self._source.trace
        if column is None:
            return None
        if len(texts) > 1:
            raise Unusable("trace_of_several", column=column, traces=len(texts))
        value = _scalar(columns, column)
        name = (value or "").rpartition("/")[2].strip()
        if not name:
            raise Unusable("missing_trace", column=column, value=value)
        return name

    def _carried(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that come along into the traces; what a row lacks is null."""
        if not self._source.columns:
            return {}
        names = [name for name in self._source.columns if name != EVERY]
        if EVERY in self._source.columns:
            free = (
                {"answer"} if self._source.answer not in (None, "answer") else set()
            )  # what counted as a trace's answer
            names += [name for name in columns if name not in (self._used - free) and name not in PROBLEMS_OWN]
        return {name: _nested(pick(columns, name)) for name in dict.fromkeys(names)}

    def _licence_of_row(self, columns: Mapping[str, Any]) -> str | None:
        """The licence that a row of the store has kept, where the recipe states none for the whole source."""
        if self._source.ref is None or self._source.licence != "unknown":
            return None
        return text_of(pick(columns, "licence"))


def _present(value: Any) -> Any:
    """NaN is how data frames write null."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _text(columns: Mapping[str, Any], column: str) -> str | None:
    value = _present(pick(columns, column))
    if value is not None and not isinstance(value, str):
        raise wrong_type(column, value, "text")
    return value


def _listed(columns: Mapping[str, Any], column: str, key: str) -> list[Any]:
    """A column of lists, which a table without lists writes as JSON text."""
    value = _present(pick(columns, column))
    if value is None:
        raise Unusable(f"missing_{key}", column=column)
    read = value
    if isinstance(value, str):
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            raise wrong_type(column, value, "a list, or JSON text of one") from None
    if not isinstance(read, list | tuple):
        raise wrong_type(column, value, "a list, or JSON text of one")
    return list(read)


def _scalar(columns: Mapping[str, Any], column: str) -> str | None:
    value = _present(pick(columns, column))
    text = text_of(value)
    if value is not None and text is None:
        raise wrong_type(column, value, "text or a finite number")
    return text


def _nested(value: Any) -> Any:
    """Lists and objects as they are, and what stands in them plain."""
    if isinstance(value, Mapping):
        return {str(name): _nested(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_nested(inner) for inner in value]
    return _plain(value)


def _entities(columns: Mapping[str, Any], column: str | None) -> tuple[tuple[str, str | None], ...] | None:
    """Names, each with its type or None: of a list of texts, or of objects with `name` and `type`."""
    value = None if column is None else _present(pick(columns, column))
    if value is None:
        return None
    found = [_entity(entity) for entity in value] if isinstance(value, list | tuple) else [None]
    if None in found:
        raise wrong_type(str(column), value, "a list of names, or of objects with name and type")
    return tuple(entity for entity in found if entity is not None)


def _entity(value: Any) -> tuple[str, str | None] | None:
    name, kind = (value.get("name"), value.get("type")) if isinstance(value, Mapping) else (value, None)
    if not isinstance(name, str) or not name.strip() or not isinstance(kind, str | None):
        return None
    return name.strip(), (kind or "").strip() or None


def _plain(value: Any) -> Any:
    """A value of a column that only filters read, as text, number, boolean or null."""
    match _present(value):
        case int() as number if not -(1 << 63) <= number < 1 << 63:
            return str(number)
        case Decimal() as number:
            return text_of(number)
        case datetime() | date() | time() as moment:
            return moment.isoformat()
        case None | bool() | int() | float() | str() as plain:
            return plain
        case other:
            return str(other)
