"""Finding plug-ins and checking their options against their signatures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tracemill.pipelines.recipes import catalog
from tracemill.pipelines.recipes.catalog import find, names
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.recipe import Step

OPTIONS = """
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from tracemill.schemas.rows import Outcome

NEEDS = {"solver": ("complete",)}


def check(*, n: int, **_):
    if n == 13:
        raise ValueError("n = 13: bad luck")


async def mine(
    problem,
    engine,
    *,
    n: int = 2,
    share: float = 0.5,
    name: str = "x",
    loud: bool = False,
    kind: Literal["short", "long"] = "short",
    words: tuple[str, ...] = ("a",),
    pair: tuple[int, int] = (1, 2),
    limit: int | None = None,
    mapped: "Mapping[str, float] | None" = None,
    near: Annotated[float, Field(gt=0, le=1)] = 1.0,
    free=None,
):
    return Outcome()


async def demanding(problem, engine, *, must: int):
    return Outcome()


def not_async(problem, engine, *, n: int = 1): ...


async def other_names(p, e): ...


def helper(x): ...
"""


@pytest.fixture
def mine(tmp_path: Path) -> Callable[..., catalog.Plugin]:
    file = tmp_path / "mine.py"
    file.write_text(OPTIONS)

    def found(function: str = "mine", **options: Any) -> catalog.Plugin:
        return find("synth", Step.model_validate({"use": f"{file}:{function}", **options}))

    return found


Mine = Callable[..., catalog.Plugin]


@pytest.mark.parametrize(
    ("kind", "some"),
    [
        ("synth", {"sample", "given"}),
        ("filters", {"correct", "length", "where", "truncated"}),
        ("selectors", {"keep", "pass_rate"}),
        ("score", {"judge_difficulty", "p_true"}),
    ],
)
def test_what_ships_is_found_by_name_and_machinery_is_not(kind: catalog.Kind, some: set[str]):
    found = set(names(kind))
    assert some <= found
    assert not found & {"engine", "journal", "render", "roles", "models", "reply", "bounds", "verify", "backends"}


@pytest.mark.parametrize("use", ["smaple", "engine", "verify", "os", "../synth/sample", "sample.py", "", "sample:", "Sample"])  # fmt: skip
def test_a_name_that_is_no_method_is_refused(use: str):
    with pytest.raises(RecipeError):
        find("synth", Step(use=use))


def test_a_misspelt_name_is_answered_with_the_nearest_one():
    with pytest.raises(
        RecipeError, match=r"no 'smaple' in synth/; did you mean 'sample'\?; one of your own is written"
    ):
        find("synth", Step(use="smaple"))


def test_a_plugin_of_one_kind_is_no_plugin_of_another():
    with pytest.raises(RecipeError, match="no 'keep' in filters/"):
        find("filters", Step(use="keep"))
    with pytest.raises(RecipeError, match="no 'correct' in filters/"):
        find("score", Step(use="correct"))


def test_options_come_with_their_defaults_and_are_bound(mine: Mine):
    plugin = mine(n=3)
    assert plugin.options == {
        "n": 3,
        "share": 0.5,
        "name": "x",
        "loud": False,
        "kind": "short",
        "words": ("a",),
        "pair": (1, 2),
        "limit": None,
        "mapped": None,
        "near": 1.0,
        "free": None,
    }
    assert plugin.call.keywords == plugin.options  # type: ignore[attr-defined]
    assert plugin.about("NEEDS", {}) == {"solver": ("complete",)}
    assert plugin.about("COLUMNS", "undeclared") == "undeclared"


@pytest.mark.parametrize(
    ("option", "given", "bound"),
    [
        ("share", 1, 1.0),
        ("words", ["b", "c"], ("b", "c")),
        ("words", [], ()),
        ("pair", [3, 4], (3, 4)),
        ("limit", 5, 5),
        ("mapped", {"a": 0.5}, {"a": 0.5}),
        ("kind", "long", "long"),
        ("near", 0.5, 0.5),
        ("free", [1, "x", {"a": True}], [1, "x", {"a": True}]),
    ],
)
def test_what_toml_writes_becomes_what_the_annotation_says(mine: Mine, option: str, given: Any, bound: Any):
    value = mine(**{option: given}).options[option]
    assert value == bound
    assert type(value) is type(bound)


@pytest.mark.parametrize(
    ("option", "given", "message"),
    [
        ("n", "3", r"n: Input should be a valid integer \(got '3'\)"),
        ("n", 3.0, r"n: Input should be a valid integer \(got 3.0\)"),
        ("n", True, r"n: Input should be a valid integer \(got True\)"),
        ("share", "0.5", r"share: Input should be a valid number \(got '0.5'\)"),
        ("name", 3, r"name: Input should be a valid string \(got 3\)"),
        ("loud", 1, r"loud: Input should be a valid boolean \(got 1\)"),
        ("kind", "medium", r"kind: Input should be 'short' or 'long' \(got 'medium'\)"),
        ("words", "b", r"words: Input should be a valid array \(got 'b'\)"),
        ("words", ["b", 3], r"words.1: Input should be a valid string \(got 3\)"),
        ("limit", "none", r"limit: Input should be a valid integer \(got 'none'\)"),
        ("near", 0, r"near: Input should be greater than 0 \(got 0\)"),
        ("n", 13, "n = 13: bad luck"),
        ("worts", ["b"], r"has no option 'worts'; did you mean 'words'\?"),
        ("engine", 1, "has no option 'engine'"),
        ("problem", 1, "has no option 'problem'"),
    ],
)
def test_a_wrong_option_is_refused_with_its_value_and_what_is_allowed(
    mine: Mine, option: str, given: Any, message: str
):
    with pytest.raises(RecipeError, match=message):
        mine(**{option: given})


def test_an_option_without_a_default_has_to_be_given(mine: Mine):
    with pytest.raises(RecipeError, match="must: Field required"):
        mine("demanding")
    assert mine("demanding", must=1).options == {"must": 1}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("not_async", r"its form is: async def not_async\(problem, engine, \*, <options>\)"),
        ("other_names", r"its form is: async def other_names\(problem, engine, \*"),
        ("helper", "its form is"),
        ("mien", "has no function 'mien'; did you mean 'mine'?"),
        ("Outcome", "has no function 'Outcome'"),
    ],
)
def test_a_function_of_ones_own_must_have_the_form_of_its_kind(mine: Mine, function: str, message: str):
    with pytest.raises(RecipeError, match=message):
        mine(function)


def test_a_plugin_of_ones_own_is_known_by_its_code_and_named_without_its_folder(mine: Mine, tmp_path: Path):
    before = mine()
    assert before.name == "mine.py:mine"
    (tmp_path / "mine.py").write_text(OPTIONS + "\n# changed\n")
    assert mine().code != before.code


def test_two_files_of_one_name_are_two_plugins(tmp_path: Path):
    for folder, n in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"async def f(problem, engine, *, n: int = {n}): ...\n")
    options = [find("synth", Step(use=f"{tmp_path}/{folder}/mine.py:f")).options for folder in ("a", "b")]
    assert options == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("told", ["0.8", "['look']", "{'look': 1}"])
def test_what_columns_mean_is_text_or_an_error_before_the_first_token(mine: Mine, tmp_path: Path, told: str):
    (tmp_path / "mine.py").write_text(f"{OPTIONS}\nMEANING = {told}\n")
    with pytest.raises(RecipeError, match=r"MEANING of its file is .* give a constant of another kind another name"):
        mine()


def test_a_plugin_may_live_in_an_installed_module():
    assert find("synth", Step(use="tracemill.synth.sample:sample")).options["n"] == 8


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("synth", "filters", "selectors") for name in names(kind)]
)
def test_everything_that_ships_is_taken_with_its_defaults_or_names_the_option_it_needs(kind: catalog.Kind, name: str):
    needs = {
        "length": "needs at_least, at_most or both",
        "characters": "needs at_least",
        "where": "sql: Field required",
        "reflection": "needs at_least, at_most or both",
        "baseline": "kind: Field required",
        "budget": "tokens: Field required",
        "cisc": "confidence: Field required",
        "distinct": "by: Field required",
        "exact_target": "rows: Field required",
        "standardize": "column: Field required",
        "stratified": "by: Field required",
    }
    if name in needs:
        with pytest.raises(RecipeError, match=f"{name}: {needs[name]}"):
            find(kind, Step(use=name))
    else:
        assert find(kind, Step(use=name)).code
