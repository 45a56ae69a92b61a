"""Secrets and personal data: what is found, where, how seldom mathematics is taken for it, and that none of it is repeated."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROBLEMS
from tracemill.filters.personal_data import personal_data
from tracemill.filters.secrets import secrets
from tracemill.filters.spans import Span, without_overlaps
from tracemill.pipelines.build import build
from tracemill.pipelines.store import Store
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Recipe
from tracemill.schemas.request import Request

pytest.importorskip("detect_secrets", reason="needs the extra: pip install 'tracemill[pii]'")
Make = Callable[..., Recipe]
DATA = Path(os.environ.get("TRACEMILL_TEST_DATA", Path(__file__).parents[1].parent / "shared" / "data"))

# Put together here, so that nothing in this file has the form of a key.
MIXED = "aB3" * 12
KEYS = {
    "aws_access_key": "AKIA" + "ABCDEFGHIJ234567",
    "github_token": "ghp_" + MIXED,
    "gitlab_token": "glpat-" + MIXED[:20],
    "slack_token": "xoxb-" + "123456789012-" + "abcdefabcdef",
    "stripe_access_key": "sk_live_" + MIXED[:24],
    "openai_token": "sk-" + MIXED[:20] + "T3BlbkFJ" + MIXED[:20],
    "private_key": "BEGIN RSA " + "PRIVATE KEY",
    "sendgrid_api_key": "SG." + MIXED[:22] + "." + (MIXED * 2)[:43],
    "telegram_bot_token": "110201543:" + "AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1",
    "npm_tokens": "//registry.npmjs.org/:_authToken=" + "npm_" + MIXED,
    "basic_auth_credentials": "hunter2hunter",
}


async def seen(score: Any, text: str | None, **options: Any) -> dict[str, Any]:
    trace = {"id": "p/a", "messages": [{"role": "assistant", "content": text}], "question": text}
    found = await score(trace, None, **options)
    return dict(found)


async def kinds(score: Any, text: str, **options: Any) -> list[tuple[str, str]]:
    """Kind and text of what is found."""
    name = score.__name__
    row = await seen(score, text, **options)
    spans = [(span["kind"], text[span["start"] : span["end"]]) for span in row[f"{name}_spans"]]
    assert row[name] == len(spans)
    assert sum(count["value"] for count in row[f"{name}_kinds"]) == len(spans)
    return spans


@pytest.mark.parametrize("kind", KEYS)
async def test_a_key_is_found_with_its_kind_and_its_place(kind: str):
    key = KEYS[kind]
    shown = f"https://me:{key}@host.net/x" if kind == "basic_auth_credentials" else key
    text = f"First add 2 and 3.\nThen use {shown} for it.\nSo \\boxed{{5}}.\n"
    [(found, span)] = await kinds(secrets, text)
    assert found == kind
    assert key in span or span in key


async def test_a_key_is_found_twice_where_it_stands_twice_and_in_a_line_longer_than_a_piece():
    key = KEYS["github_token"]
    assert await kinds(secrets, f"{key} and\n{key}") == [("github_token", key)] * 2
    for before in (9_990, 8_990, 25_000):
        assert await kinds(secrets, "x" + " y" * (before // 2) + f" {key} " + "z " * 9_000) == [("github_token", key)]


async def test_guesses_find_what_only_looks_random_and_are_off_unless_asked_for():
    text = f'password = "hunter{2}hunter"\nkey = "{"0f1e2d3c4b5a69788796a5b4c3d2e1f0"}"'
    assert await kinds(secrets, text) == []
    assert {kind for kind, _ in await kinds(secrets, text, guesses=True)} >= {
        "secret_keyword",
        "hex_high_entropy_string",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("write to jane.doe+x@mail.uni-x.de.", [("email", "jane.doe+x@mail.uni-x.de")]),
        ("call +49 30 901820, or +1 (650) 253-0000", [("phone", "+49 30 901820"), ("phone", "+1 (650) 253-0000")]),
        ("card 4111 1111 1111 1111 please", [("card", "4111 1111 1111 1111")]),
        ("card 378282246310005", [("card", "378282246310005")]),
        ("to DE89 3704 0044 0532 0130 00 now", [("iban", "DE89 3704 0044 0532 0130 00")]),
        ("to GB82WEST12345698765432", [("iban", "GB82WEST12345698765432")]),
        ("from 8.8.8.8 and 2001:4860:4860::8888", [("ip_address", "8.8.8.8"), ("ip_address", "2001:4860:4860::8888")]),
        ("Äpfel\nfür a@b.org", [("email", "a@b.org")]),
    ],
)
async def test_personal_data_is_found_with_its_kind_and_its_place(text: str, found: list[tuple[str, str]]):
    assert await kinds(personal_data, text) == found


@pytest.mark.parametrize(
    "text",
    [
        "jane@example.com and x@y.test are nobody's",
        "4111 1111 1111 1112 has a wrong check digit",
        "0000000000000000 is a number",
        "3.1415926535897932 + 4111111111111111.5 = 1e16",
        "DE89 3704 0044 0532 0130 01 has wrong check digits",
        "127.0.0.1, 192.168.0.1, ::1 and 10.0.0.1 are nobody's",
        "650 253 0000 without a country",
        "a@b and 5+3 = 8, +12, x+1 2 3",
        "see 1.2.3.4.5 and at 12:30:45",
        "",
    ],
)
async def test_what_only_looks_like_it_is_left_alone(text: str):
    assert await kinds(personal_data, text) == []


async def test_a_region_finds_numbers_as_they_are_written_there_and_kinds_leave_others_out():
    text = "(650) 253-0000 or a@b.org"
    assert await kinds(personal_data, text, region="US") == [("phone", "(650) 253-0000"), ("email", "a@b.org")]
    assert await kinds(personal_data, text, kinds=("email",)) == [("email", "a@b.org")]


async def test_a_column_may_be_empty_and_a_wrong_one_is_named():
    assert await seen(secrets, None, column="question", name="q") == {"q": None, "q_kinds": None, "q_spans": None}
    with pytest.raises(RecipeError, match="no column 'questoin'; it has: id, messages, question"):
        await seen(personal_data, "x", column="questoin")
    with pytest.raises(RecipeError, match="'messages' holds list, not text"):
        await seen(personal_data, "x", column="messages")


def test_of_two_kinds_for_one_place_the_longer_counts():
    assert without_overlaps(
        [Span(5, 9, "b"), Span(0, 6, "a"), Span(0, 4, "c"), Span(9, 12, "d"), Span(9, 12, "d")]
    ) == [
        Span(0, 6, "a"),
        Span(9, 12, "d"),
    ]


async def test_a_megabyte_in_one_line_is_read_to_its_end():
    key = KEYS["aws_access_key"]
    assert await kinds(secrets, "A1b2C3d4 " * 120_000 + key) == [("aws_access_key", key)]
    assert await kinds(personal_data, "1" * 1_000_000 + " a@b.org") == [("email", "a@b.org")]
    assert (
        await kinds(secrets, "x" * 1_000_000) == []
    )  # minutes, and the time limit, where the square of a piece is taken
    assert await kinds(personal_data, "a." * 300_000 + "@" + "b." * 200_000) == []


def test_rows_with_secrets_are_dropped_by_where_and_no_column_repeats_one(recipe: Make, store: Store):
    key = KEYS["aws_access_key"]

    def reply(request: Request) -> str:
        shown = f" with {key} for a@b.org" if request.index == 0 else ""
        return rf"so{shown} \boxed{{{request.index}}}"

    score = [{"use": "secrets"}, {"use": "personal_data"}]
    filters = [{"use": "where", "sql": "secrets = 0 AND personal_data = 0"}]
    dataset = build(recipe(score=score, filters=filters, select=[]), store, reply=reply).dataset
    rows, rejected = dataset.scan().collect(), dataset.scan("rejected").collect()
    assert (len(rows), len(rejected)) == (3 * len(PROBLEMS), len(PROBLEMS))
    assert set(rejected["reason"]) == {"not_met"}
    assert not any(key in text for text in rejected["evidence"])
    kept = json.loads(rejected["row"][0])
    assert key not in json.dumps(
        {name: value for name, value in kept.items() if name.startswith(("secrets", "personal"))}
    )
    start = kept["secrets_spans"][0]["start"]
    assert kept["content"][start : kept["secrets_spans"][0]["end"]] == key


@pytest.mark.parametrize(
    ("score", "says"),
    [
        ({"use": "secrets", "column": ""}, "column = ''"),
        ({"use": "personal_data", "kinds": []}, "kinds is empty"),
        ({"use": "personal_data", "kinds": ["name"]}, "kinds.0: Input should be 'email'"),
        ({"use": "personal_data", "region": "Germany"}, "region = 'Germany'"),
        ({"use": "secrets", "name": "n-1"}, "name = 'n-1'"),
    ],
)
def test_options_that_cannot_work_are_refused(score: dict[str, Any], says: str, recipe: Make, store: Store):
    with pytest.raises(RecipeError, match=says):
        build(recipe(score=[score]), store)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}; set TRACEMILL_TEST_DATA")
async def test_mathematics_is_not_taken_for_secrets_or_personal_data():
    texts = [json.loads(line)["solution"] for line in (DATA / "math500" / "test.jsonl").read_text().splitlines()]
    lines = (DATA / "gsm8k" / "train.jsonl").read_text().splitlines()[:1000]
    texts += [json.loads(line)["question"] + json.loads(line)["answer"] for line in lines]
    for score in (secrets, personal_data):
        assert [found for text in texts for found in await kinds(score, text)] == []
