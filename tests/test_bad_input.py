"""Bad input through the real command line: one clear message, the exit code of the contract, nothing lost, no traceback."""

import fcntl
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tracemill.pipelines.cli import app
from tracemill.pipelines.store import Store

RECIPE = """
name = "sums"

[source]
path = "problems.jsonl"

[model]
name = "scripted-solver"
max_tokens = 64

[engine]
kind = "scripted"

[synth]
use = "sample"
n = 2
"""
ROWS = [{"id": f"p{i}", "question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(4)]
GIVEN = RECIPE.partition("[model]")[0].replace("[source]", '[source]\nresponse = "solution"')


@dataclass
class Desk:
    """A folder with a recipe and its problems, and the command line."""

    folder: Path

    def recipe(self, text: str) -> None:
        (self.folder / "recipe.toml").write_text(text, encoding="utf-8")

    def rows(self, *rows: Any) -> None:
        lines = (row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows)
        (self.folder / "problems.jsonl").write_bytes(b"".join(lines))

    def run(self, command: str, *args: str, recipe: bool = True) -> Result:
        named = [str(self.folder / "recipe.toml")] if recipe else []
        return CliRunner().invoke(app, [command, *named, "--store", str(self.folder / "store"), *args])

    def refused(self, command: str = "build", *args: str, code: int = 2) -> str:
        """The message of a command that has to fail with this code, without a traceback and with nothing sampled."""
        result = self.run(command, *args)
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        assert "This error occurred in" not in result.output, "what polars thinks of its own expression"
        if code == 2:
            assert self.journaled() == 0, "tokens were spent before the mistake was found"
        message = result.stderr[result.stderr.index("tracemill: ") + len("tracemill: ") :]
        assert message.strip()
        return message

    def built(self, *args: str, command: str = "build") -> dict[str, Any]:
        result = self.run(command, "--json", *args)
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout.splitlines()[-1]))

    def reasons(self) -> list[tuple[str, str]]:
        """Stage and reason of everything that was turned down."""
        rejected = Store(self.folder / "store").open("sums").scan("rejected").collect()
        return rejected.select("stage", "reason").rows()

    def journaled(self) -> int:
        from tracemill.synth.journal import Journal

        folder = self.folder / "store" / ".journal"
        if not folder.is_dir():
            return 0
        with Journal(folder) as journal:
            return len(journal)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path)
    desk.recipe(RECIPE)
    desk.rows(*ROWS)
    return desk


def edited(old: str, new: str) -> str:
    assert old in RECIPE
    return RECIPE.replace(old, new, 1)


KEYS = {
    "a key of the recipe": (edited("[source]", "tolerat = 3\n[source]"), "'tolerat'; did you mean 'tolerate'?"),
    "a table of the recipe": (RECIPE + '[[filter]]\nuse = "correct"\n', "'filter'; did you mean 'filters'?"),
    "a key of a source": (edited("path =", 'licens = "MIT"\npath ='), "'source.0.licens'; did you mean 'licence'?"),
    "a key of the model": (edited("max_tokens", "temprature = 1.0\nmax_tokens"), "did you mean 'temperature'?"),
    "a key of the engine": (edited('kind = "s', 'base_url = "x"\nkind = "s'), "did you mean 'base_urls'?"),
    "an argument of the engine": (edited('kind = "s', 'args = { latenc = 1 }\nkind = "s'), "did you mean 'latency'?"),
    "a key of the budget": (RECIPE + "[budget]\ntoken = 4\n", "'budget.token'; did you mean 'tokens'?"),
    "an option of the method": (RECIPE + "k = 3\n", "sample has no option 'k'; known: n, prompt, temperature"),
    "an option of a filter": (
        RECIPE + '[[filters]]\nuse = "length"\nat_mos = 3\n',
        "length has no option 'at_mos'; did you mean 'at_most'?",
    ),
    "an option of a selector": (RECIPE + '[[select]]\nuse = "keep"\nprefers = "x"\n', "did you mean 'prefer'?"),
    "an option of a problem filter": (
        edited("[model]", '[[source.keep]]\nuse = "characters"\ncolum = "question"\n[model]'),
        "characters has no option 'colum'; did you mean 'column'?",
    ),
    "an option of a view": (RECIPE + "[views]\ntrl-sft = { from = 1 }\n", "did you mean 'form'?"),
    "a format": (RECIPE + "[views]\ntrl-stf = true\n", "unknown format 'trl-stf'; did you mean 'trl-sft'?"),
    "an option of verify": (RECIPE + '[verify]\nextrac = "boxed"\n', "extrac"),
    "a method": (edited('"sample"', '"sampel"'), "no 'sampel' in synth/; did you mean 'sample'?"),
    "a filter": (RECIPE + '[[filters]]\nuse = "corect"\n', "no 'corect' in filters/; did you mean 'correct'?"),
    "a selector": (RECIPE + '[[select]]\nuse = "kep"\n', "no 'kep' in selectors/; did you mean 'keep'?"),
    "a kind of engine": (
        edited('"scripted"\n\n[synth]', '"script"\n\n[synth]'),
        "'vllm', 'openai', 'hf' or 'scripted'",
    ),
    "a way to verify": (RECIPE + '[verify]\nuse = "maths"\n', "did you mean 'math'?"),
    "a way to extract": (RECIPE + '[verify]\nextract = "box"\n', "'boxed', 'gsm8k', 'last_number' or 'tag'"),
}


@pytest.mark.parametrize("misspelt", KEYS)
def test_what_is_misspelt_is_named_with_what_was_meant(desk: Desk, misspelt: str):
    text, message = KEYS[misspelt]
    desk.recipe(text)
    assert message in desk.refused()


@pytest.mark.parametrize(
    ("n", "message"),
    [
        ('"8"', "n: Input should be a valid integer (got '8')"),
        ("8.5", "n: Input should be a valid integer (got 8.5)"),
        ("8.0", "n: Input should be a valid integer (got 8.0)"),
        ("true", "n: Input should be a valid integer (got True)"),
        ("[8]", "n: Input should be a valid integer (got [8])"),
        ("-1", "n = -1: draw at least one solution"),
        ("0", "n = 0: draw at least one solution"),
        ("1000000000", "n = 1000000000: at most 100,000 solutions"),
        ("99999999999999999999", "synth.n = 99999999999999999999: a number of a recipe is finite and fits in 64 bits"),
        ("nan", "synth.n = nan"),
    ],
)
def test_an_option_of_the_wrong_type_or_size_shows_its_value_and_what_is_wanted(desk: Desk, n: str, message: str):
    desk.recipe(edited("n = 2", f"n = {n}"))
    assert message in desk.refused()


SHAPES = {
    "nothing": ("", "missing 'name'"),
    "a source that is a number": (edited('[source]\npath = "problems.jsonl"', "").replace('"\n', '"\nsource = 3\n', 1), "source: Input should be a valid array (got 3)"),
    "a list of numbers for sources": ('name = "x"\nsource = [3]', "source.0: Input should be an object (got 3)"),
    "models that are a number": ('name = "x"\nmodels = 3\n[source]\npath = "x"', "models: Input should be an object"),
    "engines that are a text": ('name = "x"\nengines = "x"\n[source]\npath = "x"', "engines: Input should be an object"),
    "filters that are a table": (RECIPE + '[filters]\nuse = "correct"', "filters: Input should be a valid array"),
    "filters that are names": ('filters = ["correct"]\n' + RECIPE, "filters.0: Input should be an object"),
    "a step without use": (RECIPE + "[[filters]]\nat_most = 3", "missing 'filters.0.use'"),
    "a method that is a text": ('synth = "sample"\n' + RECIPE.partition("[synth]")[0], "synth: Input should be an object"),
    "no model": (edited('[model]\nname = "scripted-solver"\nmax_tokens = 64\n\n[engine]\nkind = "scripted"\n', ""), "missing [model]"),
    "no max_tokens": (edited("max_tokens = 64", ""), "missing 'models.solver.max_tokens'"),
    "no synth": (RECIPE.partition("[synth]")[0], "missing [synth]"),
    "a model twice": (RECIPE + '[models.solver]\nname = "x"\nmax_tokens = 3', "[model] is short for [models.solver]"),
    "an engine for no model": (RECIPE + '[engines.judge]\nkind = "scripted"', "engines.judge has no models.judge"),
    "a temperature that is no number": (edited("max_tokens", "temperature = nan\nmax_tokens"), "temperature = nan"),
    "an engine's argument of the wrong type": (edited('kind = "s', 'args = { latency = "x" }\nkind = "s'), "latency = 'x'"),
    "two places of one source": (edited("path =", 'hub = "a/b"\npath ='), "exactly one of path, hub and ref"),
    "a filter that does nothing": (RECIPE + '[[filters]]\nuse = "length"', "needs at_least, at_most or both"),
    "a budget of nothing": (RECIPE + "[budget]\ntokens = 0", "greater than 0 (got 0)"),
    "thousands of brackets": ("a = " + "[" * 5000 + "]" * 5000, "not a readable TOML file"),
    "a curate recipe without responses": (RECIPE.partition("[synth]")[0] + "#curate", "response = '...'"),
    "a curate recipe with a method": (RECIPE + "#curate", "take [synth] out"),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_recipe_of_the_wrong_shape_says_what_is_missing_or_wanted(desk: Desk, shape: str):
    text, message = SHAPES[shape]
    desk.recipe(text)
    assert message in desk.refused("curate" if text.endswith("#curate") else "build")


@pytest.mark.parametrize("name", ["../x", "a/b", "a..b", "", ".hidden", "Sums", "x" * 81, "a\\u0000b", "é"])
def test_a_name_that_could_leave_the_store_is_no_name(desk: Desk, name: str):
    desk.recipe(edited('"sums"', f'"{name}"'))
    assert "a name is 1 to 80 of a-z 0-9 . _ -" in desk.refused()
    assert not list(desk.folder.parent.glob("x"))


COLUMNS = {
    "a condition on a column that no trace has": ('[[filters]]\nuse = "where"\nsql = "nothere > 3"', '"nothere"'),
    "a condition that is none": ('[[filters]]\nuse = "where"\nsql = "n_tokens"', "not a condition"),
    "a condition that compares words with numbers": ('[[filters]]\nuse = "where"\nsql = "answer > 3"', "cannot compare"),
    "a condition that is no SQL": ('[[filters]]\nuse = "where"\nsql = "((("', "is not a condition in SQL"),
    "characters of a column that no trace has": (
        '[[filters]]\nuse = "characters"\ncolumn = "nothere"\nat_most = 3',
        'characters: unable to find column "nothere"',
    ),
    "characters of a number": ('[[filters]]\nuse = "characters"\ncolumn = "n_tokens"\nat_most = 3', "expected `String`"),
    "groups by a column that no trace has": ('[[select]]\nuse = "keep"\nper = ["nothere"]', "no column ['nothere']"),
}  # fmt: skip


@pytest.mark.parametrize("step", COLUMNS)
def test_a_step_that_fits_no_column_is_wrong_before_the_first_token(desk: Desk, step: str):
    text, message = COLUMNS[step]
    desk.recipe(RECIPE + text)
    assert message in desk.refused()
    assert message in desk.refused("check")


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ('use = "where"\nsql = "nothere > 3"', 'unable to find column "nothere"'),
        ('use = "correct"', 'source.0.keep: correct: unable to find column "correct"'),
        ('use = "characters"\ncolumn = "nothere"\nat_most = 3', 'source.0.keep: characters: unable to find column "nothere"'),
    ],
)  # fmt: skip
def test_a_problem_filter_that_fits_no_column_is_wrong_before_the_first_token(desk: Desk, keep: str, message: str):
    desk.recipe(edited("[model]", f"[[source.keep]]\n{keep}\n[model]"))
    assert message in desk.refused()
    assert message in desk.refused("check")


def test_a_column_that_only_some_rows_have_is_null_in_the_others(desk: Desk):
    desk.rows(*[{**row, "level": i} if i % 2 else row for i, row in enumerate(ROWS)])
    desk.recipe(edited("[model]", '[[source.keep]]\nuse = "where"\nsql = "level >= 1"\n[model]'))
    assert desk.built()["rejected"] == 2
    assert desk.reasons() == [("problem_filter", "unknown")] * 2


def test_a_column_of_numbers_and_words_is_text_in_every_row(desk: Desk):
    desk.rows(*[{**row, "level": level} for row, level in zip(ROWS, [1, "1", 2.5, None], strict=True)])
    desk.recipe(edited("[model]", '[[source.keep]]\nuse = "where"\nsql = "level = \'1\'"\n[model]'))
    desk.built()
    assert sorted(desk.reasons()) == [("problem_filter", "not_met"), ("problem_filter", "unknown")]


def test_columns_that_a_score_may_add_are_not_refused_in_advance(desk: Desk):
    (desk.folder / "mine.py").write_text("async def words(trace, engine):\n    return {'words': 3}\n")
    steps = (
        '[[score]]\nuse = "./mine.py:words"\n[[filters]]\nuse = "where"\nsql = "words >= 3"\n[[select]]\nuse = "keep"\n'
    )
    desk.recipe(RECIPE + steps)
    desk.built()
    desk.recipe(RECIPE + steps.replace("words >= 3", "wordz >= 3"))
    result = desk.run("build")
    assert result.exit_code == 2
    assert 'unable to find column "wordz"' in result.stderr
    assert "This error occurred" not in result.stderr


OWN = {
    "a file that is not there": ("", "./nope.py:f", "no file"),
    "a function that is not there": ("async def g(problem, engine): ...", "./mine.py:f", "known: g"),
    "a file that is no Python": ("def f(:", "./mine.py:f", "SyntaxError"),
    "a file that ends the process": ("raise SystemExit(0)", "./mine.py:f", "SystemExit"),
    "a file that raises": ("1 / 0", "./mine.py:f", "ZeroDivisionError"),
    "a function of another form": ("def f(x): ...", "./mine.py:f", "its form is: async def f(problem, engine, *"),
    "annotations that name nothing": (
        "async def f(problem, engine, *, n: 'Nope' = 1): ...",
        "./mine.py:f",
        "annotations cannot be read: name 'Nope' is not defined",
    ),
    "a module that is not there": ("", "nope.module:f", "cannot import 'nope.module'"),
    "no module at all": ("", ":f", "cannot import ''"),
    "a file of ours that is no method": ("", "engine", "no 'engine' in synth/; known: code_plan, "),
}


@pytest.mark.parametrize("own", OWN)
def test_a_method_of_ones_own_that_cannot_run_says_why(desk: Desk, own: str):
    code, use, message = OWN[own]
    (desk.folder / "mine.py").write_text(code)
    desk.recipe(RECIPE.partition("[synth]")[0] + f'[synth]\nuse = "{use}"\n')
    assert message in desk.refused()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f():\n    return 3\n", "mine.py:f returns int; a filter returns a polars expression"),
        ("import polars as pl\ndef f():\n    return pl.col('n_tokens') > 3\n", "mine.py:f gives Boolean"),
        ("import polars as pl\ndef f():\n    return pl.col('nope').is_null()\n", 'unable to find column "nope"'),
    ],
)
def test_a_filter_of_ones_own_that_gives_no_verdict_is_told_its_form(desk: Desk, code: str, message: str):
    (desk.folder / "mine.py").write_text(code)
    desk.recipe(RECIPE + '[[filters]]\nuse = "./mine.py:f"\n')
    assert message in desk.refused()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def f(traces, *, engine=None):\n    return traces\n", "mine.py:f returns LazyFrame; a selector returns a Selection"),
        (
            "from tracemill.schemas.rows import Selection\ndef f(traces):\n    return Selection(rows=traces)\n",
            "leaves out the columns ['evidence', 'reason', 'selected']",
        ),
    ],
)  # fmt: skip
def test_a_selector_of_ones_own_that_returns_no_selection_is_told_its_form(desk: Desk, code: str, message: str):
    (desk.folder / "mine.py").write_text(code)
    desk.recipe(RECIPE + '[[select]]\nuse = "./mine.py:f"\n')
    assert message in desk.refused()


# ---- sources


def test_a_missing_file_or_column_is_named_with_those_that_are_there(desk: Desk):
    desk.recipe(edited("problems.jsonl", "problemz.jsonl"))
    assert "did you mean 'problems.jsonl'?" in desk.refused()
    desk.recipe(edited("path =", 'question = "qestion"\npath ='))
    assert "no column 'qestion'; did you mean 'question'?" in desk.refused()
    desk.recipe(edited("path =", 'answer = "gold"\npath ='))
    assert "no column 'gold'" in desk.refused()


def test_identical_rows_collapse_and_conflicting_ones_are_rejected_whatever_their_spelling(desk: Desk):
    twin = {"id": "cafe\u0301", "question": "1 + 1?", "answer": "3"}
    desk.rows(*ROWS, ROWS[0], {**ROWS[1], "answer": "9"}, {**twin, "id": "caf\u00e9", "answer": "2"}, twin)
    built = desk.built()
    assert (built["problems"], built["rejected"]) == (5, 2)
    assert desk.reasons() == [("source", "conflicting_duplicate")] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"\n \n", "empty; a source holds one row or more"),
        (b'{"id": "a", "question": "\xff\xfe", "answer": "1"}\n', "line 1 is not UTF-8: byte 0xff"),
        (b'[{"id": "a"}]', "one JSON array, not one object a line"),
        (b'{"id": "b", "question": null, "answer": "1"}\n', "no usable problem; rows were refused for: missing_question"),
    ],
)  # fmt: skip
def test_a_file_without_problems_is_an_error_that_says_what_it_holds(desk: Desk, content: bytes, message: str):
    (desk.folder / "problems.jsonl").write_bytes(content)
    assert message in desk.refused()


def test_bad_rows_are_rejected_with_their_reasons_and_the_good_ones_built(desk: Desk):
    desk.rows(
        ROWS[0],
        b'{"id": "nan", "question": NaN, "answer": "1"}\n',
        {"id": "null", "question": None, "answer": "1"},
        {"id": "no-gold", "question": "1?", "answer": None},
        b'{"id": "torn", "question": "1 +',
    )
    built = desk.built()
    assert (built["problems"], built["rejected"]) == (1, 4)
    expected = ["missing_gold", "missing_question", "not_finite", "torn_line"]
    assert sorted(reason for _, reason in desk.reasons()) == expected


def test_more_bad_rows_than_tolerated_stop_the_build_before_it_samples(desk: Desk):
    desk.rows(*ROWS, {"id": "x", "question": None, "answer": "1"})
    desk.recipe(edited("[source]", "tolerate = 0\n[source]"))
    message = desk.refused(code=4)
    assert "tolerate = 0" in message
    assert "missing_question" in message
    assert desk.journaled() == 0


def test_a_line_of_200_megabytes_costs_one_row(desk: Desk):
    with (desk.folder / "problems.jsonl").open("wb") as file:
        file.write(json.dumps(ROWS[0]).encode() + b'\n{"id": "huge", "question": "')
        file.seek(200 << 20, os.SEEK_CUR)  # a hole: zeros that take no room on the disk
        file.write(b'"}\n' + json.dumps(ROWS[1]).encode() + b"\n")
    assert desk.built()["problems"] == 2
    assert desk.reasons() == [("source", "too_long")]


def test_a_zip_bomb_is_stopped_long_before_it_fills_the_disk(desk: Desk):
    bomb = desk.folder / "bomb.jsonl.gz"
    member = gzip.compress((json.dumps(ROWS[0]) + "\n").encode() + b" " * (64 << 20) + b"\n", 9)
    bomb.write_bytes(member * 8)
    desk.recipe(edited("problems.jsonl", "bomb.jsonl.gz"))
    assert "a decompression bomb stops here" in desk.refused()


@pytest.mark.parametrize(
    ("ref", "message"),
    [("nope", "no dataset 'nope'"), ("../x", "not a name"), ("a@b@c", "write 6 to 16 hex digits, or latest")],
)
def test_a_reference_to_nothing_says_what_there_is(desk: Desk, ref: str, message: str):
    desk.recipe(edited('path = "problems.jsonl"', f'ref = "{ref}"'))
    assert message in desk.refused()


# ---- models and engines


@pytest.mark.parametrize(
    ("made", "kind", "message"),
    [
        ([], "vllm", "no folder"),
        ([""], "vllm", "has no config.json, so it is not a model folder"),
        (["config.json"], "vllm", "has no *.safetensors, so there are no weights"),
        (["tokenizer.json"], "scripted", "tokenizer.json: not a tokenizer"),
    ],
)
def test_a_model_folder_without_what_it_takes_is_named(desk: Desk, made: list[str], kind: str, message: str):
    for name in made:
        (desk.folder / "model").mkdir(exist_ok=True)
        if name:
            (desk.folder / "model" / name).write_text("{}")
    desk.recipe(edited('"scripted-solver"', '"./model"').replace('kind = "scripted"', f'kind = "{kind}"'))
    assert message in desk.refused()


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("", "an openai engine needs base_urls"),
        ('base_urls = ["localhost:8000"]', "write it like http://127.0.0.1:8000/v1"),
        ('base_urls = ["http://127.0.0.1:9/v1"]\napi_key_env = "NOT_SET_ANYWHERE"', "export it first"),
        ('base_urls = ["http://127.0.0.1:9/v1"]', "unreachable"),
    ],
)
def test_a_server_that_is_not_there_is_found_before_anything_is_sampled(desk: Desk, engine: str, message: str):
    desk.recipe(edited('kind = "scripted"', f'kind = "openai"\n{engine}'))
    assert message in desk.refused()


@pytest.mark.parametrize(
    ("script", "message"),
    [("./nope.py:f", "no file"), ("./mine.py", "write './file.py:function'"), ("./mine.py:f", "known: g")],
)
def test_a_script_that_cannot_answer_is_named(desk: Desk, script: str, message: str):
    (desk.folder / "mine.py").write_text("def g(request):\n    return ''\n")
    desk.recipe(edited('kind = "s', f'script = "{script}"\nkind = "s'))
    assert message in desk.refused()


def test_a_script_that_fails_everywhere_commits_nothing(desk: Desk):
    (desk.folder / "mine.py").write_text("def g(request):\n    return 3\n")
    desk.recipe(edited('kind = "s', 'script = "./mine.py:g"\nkind = "s'))
    assert "all 4 problems failed" in desk.refused(code=4)
    assert "no datasets" in desk.run("ls", recipe=False).stdout


# ---- --set, recipes, references


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("synth.n", "write KEY=VALUE"),
        ("=1", "write KEY=VALUE"),
        ("source.3.path=x", "'3' is not one of 0 to 0"),
        ("source.path=x", "source is a list; write a number, such as source.0.path"),
        ("name.x=1", "name is 'sums', not a table"),
        ("name.x.y=1", "there is no table"),
        ("synth.nn=1", "did you mean 'n'?"),
        ("synth.n=abc", "valid integer (got 'abc')"),
        ("model.max_tokens=0", "greater than 0 (got 0)"),
        ("tolerat=1", "did you mean 'tolerate'?"),
    ],
)
def test_an_override_that_fits_nowhere_says_how_to_write_it(desk: Desk, override: str, message: str):
    assert message in desk.refused("build", "--set", override)


def test_a_recipe_that_is_no_recipe_is_refused(desk: Desk):
    place = desk.folder / "recipe.toml"
    place.write_bytes(b"\x00\xff\xfe\x00")
    assert "not a readable TOML file" in desk.refused()
    place.unlink()
    assert "no recipe at" in desk.refused()
    place.mkdir()
    assert "not a readable TOML file" in desk.refused()
    result = CliRunner().invoke(app, ["build", "demo-scriptd", "--store", str(desk.folder / "store")])
    assert result.exit_code == 2
    assert "demo-scripted" in result.stderr


@pytest.mark.parametrize("command", ["show", "path", "status", "export"])
def test_what_is_not_in_the_store_is_answered_with_what_is(desk: Desk, command: str):
    desk.built()
    more = ["--to", "trl-sft", "--out", str(desk.folder / "out")] if command == "export" else []
    result = desk.run(command, "sumz", *more, recipe=False)
    assert result.exit_code == 2
    assert "'sumz'" in result.stderr
    assert "sums" in result.stderr


def test_commands_that_read_make_no_store(desk: Desk):
    for command in (["ls"], ["show", "x"], ["path", "x"], ["status"]):
        result = desk.run(*command, recipe=False)
        assert result.exit_code == 2
        assert "no store at" in result.stderr
    assert not (desk.folder / "store").exists()


def test_an_export_overwrites_nothing_and_knows_its_formats(desk: Desk):
    desk.built()
    out = desk.folder / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    args = ["sums", "--to", "trl-sft", "--out", str(out)]
    result = desk.run("export", *args, recipe=False)
    assert result.exit_code == 2
    assert "nothing is overwritten" in result.stderr
    assert [file.name for file in out.iterdir()] == ["precious"]
    result = desk.run("export", "sums", "--to", "trl-stf", "--out", str(desk.folder / "new"), recipe=False)
    assert result.exit_code == 2
    assert "did you mean 'trl-sft'?" in result.stderr


# ---- the store, the disk, other processes


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_store_that_cannot_be_written_is_named(desk: Desk, place: str):
    (desk.folder / "file").write_text("in the way")
    assert "cannot be written to" in desk.refused("build", "--store", str(desk.folder / place))


def test_a_second_build_of_the_same_dataset_is_refused_and_told_who_runs(desk: Desk):
    lock = Store(desk.folder / "store").work_folder("sums") / "lock"
    with lock.open("w") as file:
        file.write("4711")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        for command in ("build", "check", "preview"):
            message = desk.refused(command, code=4)
            assert "another build of 'sums' is running in this store (process 4711)" in message
    desk.built()


def start(desk: Desk, *args: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tracemill.pipelines.cli", "build", str(desk.folder / "recipe.toml")]
    return subprocess.Popen(
        [*command, "--store", str(desk.folder / "store"), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def test_sigterm_drains_and_the_next_run_ends_as_if_nothing_had_been(desk: Desk):
    desk.rows(*[{"id": f"p{i:03}", "question": f"{i} + 1?", "answer": str(i + 1)} for i in range(300)])
    desk.recipe(edited('kind = "s', 'at_once = 8\nargs = { latency = 0.05 }\nkind = "s'))
    with start(desk, "--json") as build:
        while desk.journaled() < 20:
            assert build.poll() is None, build.communicate()
            time.sleep(0.05)
        build.send_signal(signal.SIGTERM)
        out, err = build.communicate(timeout=60)
    assert build.returncode == 143, err
    assert json.loads(out.splitlines()[-1])["exit_code"] == 143
    assert "run the same command again to go on" in err
    assert "stopped, resumable" in desk.run("status", recipe=False).stdout
    kept = desk.journaled()
    rest = desk.built("--set", "engine.args={}")
    assert (rest["samples_replayed"], rest["samples_new"]) == (kept, 600 - kept)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system of two megabytes")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_fills_up_ends_in_6_with_nothing_half_written_and_can_be_gone_on_with(desk: Desk, small_disk: Path):
    reply = (
        "import random\n\n\ndef long(request):\n    return random.Random(request.key).randbytes(3000).hex() + ' ok'\n"
    )
    (desk.folder / "mine.py").write_text(reply)
    desk.rows(*[{"id": f"p{i:03}", "question": f"{i} + 1?", "answer": str(i + 1)} for i in range(200)])
    desk.recipe(edited('kind = "s', 'script = "./mine.py:long"\nkind = "s'))
    store = small_disk / "store"
    message = desk.refused("build", "--store", str(store), code=6)
    assert "disk" in message
    assert "run again" in message
    assert list(store.glob("sums/*/manifest.json")) == []
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    rest = desk.built("--store", str(store))
    assert rest["complete"]
    assert rest["samples_replayed"] > 0
    assert rest["samples_replayed"] + rest["samples_new"] == 400


def test_a_limit_on_file_sizes_is_a_full_disk_too(desk: Desk):
    (desk.folder / "mine.py").write_text(
        "import random\n\n\ndef long(request):\n    return random.Random(request.key).randbytes(3000).hex() + ' ok'\n"
    )
    desk.rows(*[{"id": f"p{i:03}", "question": f"{i} + 1?", "answer": str(i + 1)} for i in range(200)])
    desk.recipe(edited('kind = "s', 'script = "./mine.py:long"\nkind = "s'))

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    with start(desk, before=limit) as build:
        _, err = build.communicate(timeout=60)
    assert build.returncode == 6, err
    assert "Traceback" not in err
    assert desk.built()["complete"]


def test_a_problem_filter_that_changes_takes_effect_on_what_was_built_before(desk: Desk):
    def keep(sql: str) -> str:
        return edited("[model]", f'[[source.keep]]\nuse = "where"\nsql = "{sql}"\n[model]')

    desk.recipe(keep("problem_id = 'p1'"))
    desk.built()
    desk.recipe(keep("problem_id = 'p2'"))
    assert desk.built()["samples_new"] == 2
    rows = Store(desk.folder / "store").open("sums").scan("rows").collect()
    assert set(rows["problem_id"]) == {"p2"}


def test_a_filter_of_ones_own_is_named_without_the_folder_it_lies_in(desk: Desk):
    (desk.folder / "mine.py").write_text(
        "import polars as pl\nfrom tracemill.schemas.plugins import reject\n\n\n"
        "def never():\n    return reject(pl.lit(True), 'never')\n"
    )
    desk.recipe(RECIPE + '[[filters]]\nuse = "./mine.py:never"\n')
    desk.built()
    assert set(desk.reasons()) == {("filter:mine.py:never", "never")}


def test_an_answer_that_no_trace_of_a_problem_has_breaks_no_budget(desk: Desk):
    (desk.folder / "mine.py").write_text("def silent(request):\n    return 'I cannot tell.'\n")
    steps = '[[filters]]\nuse = "characters"\ncolumn = "answer"\nat_most = 9\n[budget]\naccepted_rows = 3\n'
    desk.recipe(edited('kind = "s', 'script = "./mine.py:silent"\nkind = "s') + steps)
    assert desk.built()["rows"] == 0


@pytest.mark.parametrize("harm", ["missing", "damaged"])
@pytest.mark.parametrize(
    "command",
    [
        "explain sums p0",
        "diff sums sums@{other}",
        "diff sums@{other} sums",
        "show sums --as trl-sft",
        "export sums --to trl-sft --out {out}",
    ],
)
def test_a_version_that_cannot_be_read_is_named_with_the_command_that_says_more(desk: Desk, command: str, harm: str):
    other = desk.built("--set", "synth.n=1")["version"]
    now = desk.built()
    rows, out = Path(now["path"]) / "rows" / "part-00000.parquet", desk.folder / "out"
    data = rows.read_bytes()
    rows.unlink()
    if harm == "damaged":
        rows.write_bytes(data[:4] + bytes(byte ^ 255 for byte in data[4:]))
    name, *more = command.format(other=other, out=out).split()
    done = desk.run(name, *more, recipe=False)
    assert (done.exit_code, type(done.exception)) == (4, SystemExit), done.output
    assert f"`tracemill fsck sums@{now['version']}`" in done.stderr
    assert not out.exists()


def test_what_a_source_wrote_commands_no_terminal_from_a_table() -> None:
    from tracemill.pipelines.asking.screens import columns

    told = "\n".join(columns([{"difficulty": "\x1b[31m\u202eeasy\nhard\x9b", "problems": 3}]))
    assert told.splitlines()[1:] == [r"  \x1b[31m\u202eeasy\nhard\x9b  3"]
