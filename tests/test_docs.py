"""What docs/ says is so: the pages that list things are complete, the examples run, the promises about sampling anew hold."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from pydantic import BaseModel
from typer.testing import CliRunner

from tracemill.pipelines.build import Built, build
from tracemill.pipelines.cli import app
from tracemill.pipelines.recipes import catalog, options
from tracemill.pipelines.store import Store
from tracemill.schemas import errors
from tracemill.schemas.recipe import (
    BenchmarkTable,
    Budget,
    EmbedderTable,
    EngineTable,
    Judging,
    ModelTable,
    Recipe,
    ReportTable,
    Source,
    Step,
    VerifyTable,
    load_recipe,
)
from tracemill.schemas.request import Sampling
from tracemill.schemas.views import MADE_OF
from tracemill.synth import hints, mixchain, petri_trace
from tracemill.synth.hints.strategies import STRATEGIES
from tracemill.synth.models import open_role
from tracemill.synth.petri_trace.validators import CHECKS
from tracemill.synth.step_tree.pairs import PAIR_COLUMNS
from tracemill.synth.step_tree.rows import ROW_COLUMNS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PROBLEMS = ROOT / "data" / "problems" / "arith.jsonl"


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(text: str, title: str) -> str:
    """From a heading to the next of its level or above."""
    level, after = title.split(" ")[0], text.split(f"\n{title}\n", 1)[1]
    return re.split(rf"^#{{1,{len(level)}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def rows_of(text: str) -> Iterator[list[str]]:
    """The cells of every table row, heads and rules left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    for number, line in enumerate(lines):
        rule_next = number + 1 < len(lines) and lines[number + 1].startswith("| ---")
        if not line.startswith("| ---") and not rule_next:
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


# ---- options.md


def test_the_page_of_options_is_what_the_code_says():
    assert read("options.md") == "\n\n".join(options.page()) + "\n", (
        "python -m tracemill.pipelines.recipes.options > docs/options.md"
    )


# ---- plugins.md


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A folder with the examples of plugins.md, and the problems they ask for."""
    text = read("plugins.md")
    for code in blocks(text, "python"):
        name = re.match(r"# file: (\w+\.py)\n", code)
        assert name is not None, f"an example without a file name: {code[:60]}"
        (tmp_path / name[1]).write_text(code, encoding="utf-8")
    [recipe] = blocks(text, "toml")
    (tmp_path / "mine.toml").write_text(recipe, encoding="utf-8")
    shutil.copy(PROBLEMS, tmp_path / "arith.jsonl")
    return tmp_path


def built(folder: Path, *overrides: str, store: str = "store") -> Built:
    return build(load_recipe(folder / "mine.toml", overrides), Store(folder / store))


def test_the_plugins_of_the_guide_make_a_dataset_together(examples: Path):
    dataset = built(examples).dataset
    rows, rejected = dataset.scan().collect(), dataset.scan("rejected").collect()
    assert rows.height > 0
    assert set(rows["look"]) == {1, 2}
    assert {"n_words", "n_different"} <= set(rows.columns)
    assert {re.sub(r":.*/", ":", stage) for stage in rejected["stage"]} == {
        "filter:correct",
        "filter:varied.py:varied",
        "select:pick.py:share",
    }
    assert rows.height + rejected.height == 200 * 2 * 2
    looks = dataset.scan("looks").collect()
    assert looks.height == 200 * 2
    assert set(looks["before"]) <= {"equal", "different", "undecided"}


def test_the_guides_method_draws_only_the_difference_when_n_grows(examples: Path):
    first = built(examples, "source.0.limit=10").tally.meter
    more = built(examples, "source.0.limit=10", "synth.n=3").tally.meter
    assert (first.samples_new, more.samples_new, more.samples_replayed) == (40, 20, 40)


def test_replies_of_ones_own_answer_in_place_of_the_script_that_ships(examples: Path):
    script = f"engine.script={examples / 'replies.py'}:reply"
    samples = built(examples, "source.0.limit=5", script).dataset.scan("samples").collect()
    assert all(text.startswith("I thought ") for text in samples["text"])


# ---- method-guide.md


@pytest.fixture
def worked(tmp_path: Path) -> Path:
    """A folder with the files of method-guide.md."""
    for language in ("python", "toml"):
        for code in blocks(read("method-guide.md"), language):
            name = re.match(r"# file: (\w+\.\w+)\n", code)
            assert name is not None, code[:60]
            (tmp_path / name[1]).write_text(code, encoding="utf-8")
    [problems] = blocks(read("method-guide.md"), "json")
    (tmp_path / "problems.jsonl").write_text(problems, encoding="utf-8")
    return tmp_path


def test_the_eleventh_recipe_passes_its_own_test(worked: Path):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(worked),
    ]
    ran = subprocess.run(
        [*command, "test_reflection_count.py"], cwd=worked, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, "3 passed" in ran.stdout) == (0, True), ran.stdout + ran.stderr


def test_the_eleventh_recipe_builds_and_names_its_paper(worked: Path):
    shutil.copy(PROBLEMS, worked / "problems.jsonl")
    dataset = build(
        load_recipe(worked / "reflection_count.toml", ["source.0.limit=40", "synth.n=8"]), Store(worked / "s")
    ).dataset
    assert 0 < dataset.scan().collect().height <= 160
    assert "arxiv.org/abs/2602.12113" in (dataset.path / "README.md").read_text()


# ---- step-trees.md


@pytest.mark.parametrize("number", [0, 1])
def test_the_recipes_of_the_step_tree_guide_load_and_their_options_are_known(number: int, tmp_path: Path):
    (tmp_path / "guide.toml").write_text(blocks(read("step-trees.md"), "toml")[number])
    recipe = load_recipe(tmp_path / "guide.toml")
    assert recipe.synth
    catalog.find("synth", recipe.synth)


def test_the_step_tree_guide_names_every_column_of_rows_and_pairs_and_every_format():
    guide = read("step-trees.md")
    rows = section(guide, "## Rows")
    cells = [row[0] for row in rows_of(rows.partition("**Which nodes.**")[0])]
    assert set(ROW_COLUMNS) == {name.strip(" `") for cell in cells for name in cell.split(",")}
    for name in (*PAIR_COLUMNS, "value", "m", "r"):
        assert f"`{name}`" in rows
    formats = {row[0].strip("`") for row in rows_of(section(guide, "## Views"))}
    assert formats == {name for name, (method, _) in MADE_OF.items() if method == "step_tree"}


# ---- petri-traces.md


def test_the_recipe_of_the_petri_guide_loads_and_its_options_are_known(tmp_path: Path):
    whole, grounded = blocks(read("petri-traces.md"), "toml")
    model = '[model]\nname = "any"\nmax_tokens = 9\n'
    (tmp_path / "nets.toml").write_text(whole)
    (tmp_path / "grounded.toml").write_text(f'name = "grounded"\n{model}{grounded}')
    shutil.copy(ROOT / "data" / "graphs" / "medical.csv", tmp_path / "graph.csv")
    (tmp_path / "MedEmbed-large-v0.1").mkdir()
    (tmp_path / "MedEmbed-large-v0.1" / "modules.json").write_text("[]")
    for name in ("nets.toml", "grounded.toml"):
        recipe = load_recipe(tmp_path / name)
        assert recipe.synth
        catalog.find("synth", recipe.synth)


@pytest.mark.timeout(180)  # torch, transformers and datasets are imported
def test_the_examples_of_the_petri_guide_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Together and in order, on a dataset that a scripted model made; torch and transformers are the real ones."""
    reasoner = str(ROOT / "data" / "models" / "tiny-reasoner")
    overrides = ("engine.kind=scripted", f"models.solver.tokenizer={reasoner}", "models.solver.dtype=auto")
    recipe = load_recipe(ROOT / "data" / "recipes" / "petri-medical.toml", overrides)
    made = build(recipe, Store(tmp_path / "store"), reply=lambda _: r"so it is \boxed{A}").dataset
    monkeypatch.chdir(tmp_path)
    examples = "\n".join(blocks(read("petri-traces.md"), "python"))
    code = examples.replace("data/store/petri-arith/latest", str(made.path)).replace(
        "data/models/tiny-reasoner", reasoner
    )
    said: dict[str, Any] = {}
    exec(code, said)
    assert said["mine"]["pos_start"] == said["row"]["pos_start"]  # the same tokenizer and template: the same layout
    assert said["mask"].shape == (1, said["row"]["seq_len"], said["row"]["seq_len"])
    assert (tmp_path / "net.pnml").read_text().startswith("<?xml")
    assert (tmp_path / "net.svg").read_text().startswith("<svg")


def test_the_petri_guide_names_every_column_and_every_check():
    guide = read("petri-traces.md")
    cells = [row[0] for row in rows_of(section(guide, "## What comes out"))]
    assert set(petri_trace.COLUMNS) == {name.strip(" `") for cell in cells for name in cell.split(",")}
    checks = {row[0]: row[1].strip("`") for row in rows_of(section(guide, "## What is checked"))}
    assert checks == CHECKS


# ---- mixchain.md


def test_the_recipes_of_the_mixchain_guide_load_and_their_options_are_known(tmp_path: Path):
    texts = blocks(read("mixchain.md"), "toml")
    for text in texts:
        file = tmp_path / re.match(r"# file: ([\w-]+\.toml)\n", text)[1]  # type: ignore[index]
        file.write_text(text, encoding="utf-8")
        recipe = load_recipe(file)
        assert recipe.synth is not None
        catalog.find("synth", recipe.synth)
        for step in recipe.select:
            catalog.find("selectors", step)
    assert len(texts) == 2


def test_the_mixchain_guide_names_every_column_of_its_traces():
    named = {row[0].strip("`") for row in rows_of(section(read("mixchain.md"), "## What comes out"))}
    assert set(mixchain.COLUMNS) <= named


# ---- hints.md


def test_the_recipe_of_the_hints_guide_loads_and_its_options_are_known(tmp_path: Path):
    [text] = blocks(read("hints.md"), "toml")
    (tmp_path / "hints.toml").write_text(text, encoding="utf-8")
    recipe = load_recipe(tmp_path / "hints.toml")
    assert recipe.synth is not None
    assert catalog.find("synth", recipe.synth).name == "hints"


def test_the_hints_guide_names_every_column_table_and_strategy():
    page = read("hints.md")
    names = {name for row in rows_of(section(page, "## What comes out")) for name in re.findall(r"`(\w+)`", row[0])}
    assert {*hints.COLUMNS, *hints.TABLES} <= names
    told = {name for row in rows_of(section(page, "## Strategies")) for name in re.findall(r"`(\w+)`", row[0])}
    assert told == {*STRATEGIES, "given"}


def test_the_guide_to_scores_lists_them_all_and_its_recipes_are_known():
    text = read("scores.md")
    assert {row[0].strip("`") for row in rows_of(text.partition("\n## ")[0])} == set(catalog.names("score"))
    for code in blocks(text, "python"):
        exec(compile(code, "scores.md", "exec"), {})
    for recipe in blocks(text, "toml"):
        found = tomllib.loads(recipe)
        for key, kind in (("score", "score"), ("filters", "filters"), ("select", "selectors")):
            for step in found.get(key, ()):
                asked = {name: value for name, value in step.items() if name not in ("calibration", "least_accuracy")}
                assert catalog.find(kind, Step.model_validate(asked))


def test_the_guide_to_scores_measures_a_judge(tmp_path: Path):
    text = read("scores.md")
    [measured] = [code for code in blocks(text, "toml") if code.startswith("# file: measured.toml")]
    (tmp_path / "mine.toml").write_text(measured, encoding="utf-8")
    [cases] = blocks(text, "json")
    (tmp_path / "cases.jsonl").write_text(cases, encoding="utf-8")
    shutil.copy(PROBLEMS, tmp_path / "arith.jsonl")
    (tmp_path / "says.py").write_text(
        "def reply(request):\n    return '1' if 'percent' not in str(request.prompt) else '?'\n"
    )
    made = built(tmp_path, "source.0.limit=3", f"engine.script={tmp_path}/says.py:reply")
    [found] = made.dataset.manifest()["calibration"]
    assert [found[side]["part"] for side in ("accuracy", "good_kept", "bad_caught")] == [1, 1, 0]


def test_the_guide_to_selection_runs_and_its_options_are_known():
    text = read("selection.md")
    for code in blocks(text, "python"):
        exec(compile(code, "selection.md", "exec"), {})
    steps = [step for recipe in blocks(text, "toml") for step in tomllib.loads(recipe)["select"]]
    assert all(catalog.find("selectors", Step.model_validate(step)) for step in steps)
    assert {step["use"] for step in steps} >= {"semantic_dedup", "decontaminate"}


# ---- recipe.md

PAGES: Mapping[str, type[BaseModel]] = {
    "## The recipe": Recipe,
    "## [[source]]": Source,
    "## [model]": ModelTable,
    "## [engine]": EngineTable,
    "## [embedder]": EmbedderTable,
    "## [benchmarks.NAME]": BenchmarkTable,
    "## [verify]": VerifyTable,
    "## [synth] and [[score]] that judge": Judging,
    "## [budget]": Budget,
    "## [report]": ReportTable,
}


@pytest.mark.parametrize("title", PAGES)
def test_every_key_of_a_recipe_is_explained_with_its_type_and_default(title: str):
    explained = [[row[0].strip("`"), *row[1:3]] for row in rows_of(section(read("recipe.md"), title))]
    assert explained == [[name, *type_and_default(field)] for name, field in PAGES[title].model_fields.items()]


def type_and_default(field: Any) -> list[str]:
    if field.is_required():
        return [options.type_text(field.annotation), "required"]
    default = field.get_default(call_default_factory=True)
    table = isinstance(default, BaseModel)
    return [options.type_text(field.annotation), "`{}`" if table else options.default_text(default)]


OTHER_MODEL: Mapping[str, Any] = {
    "name": "other",
    "max_tokens": 65,
    "revision": "abc",
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "stop": ("###",),
    "system": "Be brief.",
    "template": "{{ messages[0].content }}",
    "chat_template_kwargs": {"enable_thinking": True},
    "think": ("[", "]"),
    "tokenizer": "",  # another folder, made by the test
    "seed": 1,
    "seeds": "none",
    "dtype": "float32",
    "quantization": "fp8",
    "kv_cache_dtype": "fp8",
    "max_model_len": 1024,
}
"""Another value for each key of [model]."""


def test_what_the_page_says_about_the_model_keys_is_what_decides_a_request(tmp_path: Path):
    for name, value in OTHER_MODEL.items():
        other = {name: other_tokenizer(tmp_path) if name == "tokenizer" else value}
        says = {row[0].strip("`"): row[3] for row in rows_of(section(read("recipe.md"), "## [model]"))}[name]
        assert (key_of({}, tmp_path) != key_of(other, tmp_path)) == (says == "samples"), name
    assert OTHER_MODEL.keys() == ModelTable.model_fields.keys()


def key_of(changes: Mapping[str, Any], runtime: Path) -> str:
    base = {
        "name": "m",
        "max_tokens": 64,
        "tokenizer": "tiny-reasoner",
        "template": "{{ messages }}{{ enable_thinking }}",
    }
    engine = EngineTable(kind="openai", base_urls=("http://127.0.0.1:9/v1",), send="tokens")
    role = open_role("solver", ModelTable(**{**base, **changes}), engine, runtime=runtime)
    return role.request("2 + 2?", sampling=Sampling(), prefix=None, tools=None, problem_id="p").key


def other_tokenizer(folder: Path) -> str:
    """The tokenizer that ships with two of its tokens exchanged."""
    shipped = ROOT / "data" / "models" / "tiny-reasoner" / "tokenizer.json"
    tokenizer = json.loads(shipped.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["2"], vocabulary["3"] = vocabulary["3"], vocabulary["2"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return str(folder)


# ---- operations.md


@pytest.fixture
def shared_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recipe.toml, whose engine has the keys of the guide; the place they name is a folder here."""
    shutil.copy(PROBLEMS, tmp_path / "arith.jsonl")
    [keys] = [block for block in blocks(read("operations.md"), "toml") if "segments" in block]
    (tmp_path / "recipe.toml").write_text(
        BASE.replace("[engine]\n", keys.replace("s3://bucket/arith", f"{tmp_path}/shared")), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path / "recipe.toml"


def typed(line: str, **environment: str) -> Result:
    """What a command of a script does, with variables as the scheduler sets them."""
    for name, value in environment.items():
        line = line.replace(f"${name}", value)
    words = shlex.split(line.replace("/256", "/2"))
    return CliRunner().invoke(app, words[words.index("tracemill") + 1 :])


def test_the_slurm_array_of_the_guide_makes_the_version_of_one_process(shared_recipe: Path, tmp_path: Path):
    [script] = blocks(read("operations.md"), "slurm")
    [submit] = [block for block in blocks(read("operations.md"), "bash") if "sbatch" in block]
    assert "#SBATCH --array=0-255%64" in script
    for number in (0, 1):
        done = typed(f"{script.splitlines()[-1]} --store {tmp_path}/node{number}", SLURM_ARRAY_TASK_ID=f"{number}")
        assert done.exit_code == 0, done.output
        assert f"shard {number}/2 done: " in done.output
    gathered = typed(f"{submit.partition('&&')[2]} --quiet --store {tmp_path}/head")
    assert gathered.exit_code == 0, gathered.output
    alone = build(load_recipe(shared_recipe, ["engine={kind='scripted'}"]), Store(tmp_path / "alone")).dataset
    assert Path(gathered.output.strip()).name == alone.version


def test_the_indexed_job_of_the_guide_runs_shards(shared_recipe: Path, tmp_path: Path):
    yaml = pytest.importorskip("yaml")
    [manifest] = blocks(read("operations.md"), "yaml")
    job = yaml.safe_load(manifest)
    assert (job["kind"], job["spec"]["completionMode"], job["spec"]["completions"]) == ("Job", "Indexed", 256)
    [container] = job["spec"]["template"]["spec"]["containers"]
    shell, option, line = container["command"]
    line = line.replace("/recipes/recipe.toml", str(shared_recipe)).replace("/scratch", str(tmp_path))
    assert (shell, option) == ("sh", "-c")
    assert "shard 1/2 done: " in typed(line, JOB_COMPLETION_INDEX="1").output


BASE = """
name = "base"
[source]
path = "arith.jsonl"
limit = 12
[model]
name = "tiny-reasoner"
max_tokens = 64
[engine]
kind = "scripted"
[synth]
use = "sample"
n = 4
[[filters]]
use = "correct"
[[select]]
use = "keep"
"""
CHANGES = [
    (row[0].strip("`"), *row[1:])
    for row in rows_of(section(read("operations.md"), "## What samples anew, and what does not"))
]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a recipe that was built, and the version of that build."""
    folder = tmp_path_factory.mktemp("operations")
    shutil.copy(PROBLEMS, folder)
    (folder / "mine.toml").write_text(BASE, encoding="utf-8")
    first = built(folder)
    assert first.tally.meter.samples_new == 48
    return folder, first.dataset.version


def test_the_table_of_changes_names_one_of_each_kind():
    assert {(drawn, version) for _, drawn, version in CHANGES} == {
        ("the difference", "another"),
        ("nothing", "another"),
        ("nothing", "the same"),
        ("all", "another"),
    }


@pytest.mark.parametrize(("change", "drawn", "version"), CHANGES, ids=[change[0] for change in CHANGES])
def test_a_change_samples_what_the_table_says(change: str, drawn: str, version: str, before: tuple[Path, str]):
    folder, old = before
    if change == 'engine.kind="openai"':  # no server is asked: the keys decide
        assert key_by_kind(folder, "openai") != key_by_kind(folder, "scripted")
        return
    after = built(folder, change)
    meter = after.tally.meter
    assert (meter.samples_new > 0, meter.samples_replayed > 0) == {
        "nothing": (False, True),
        "the difference": (True, True),
        "all": (True, False),
    }[drawn]
    assert (after.dataset.version == old) == (version == "the same")


def key_by_kind(folder: Path, kind: str) -> str:
    where = ["engine.base_urls=['http://127.0.0.1:9/v1']"] if kind == "openai" else []
    recipe = load_recipe(folder / "mine.toml", [f"engine.kind={kind}", *where])
    role = open_role("solver", recipe.models["solver"], recipe.engines["solver"], runtime=folder)
    return role.request("2 + 2?", sampling=Sampling(), prefix=None, tools=None, problem_id="p").key


def test_every_exit_code_is_explained():
    codes = {
        int(code) for row in rows_of(section(read("operations.md"), "## Exit codes")) for code in row[0].split(", ")
    }
    raised = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.TracemillError)
    }
    assert codes == (raised - {errors.TracemillError.exit_code}) | {0, 5, 143}


@pytest.mark.parametrize("page", sorted(page.name for page in DOCS.glob("*.md")))
def test_links_of_the_docs_lead_to_files_that_are_there(page: str):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", read(page)):
        if "://" not in target:
            assert (DOCS / target).exists(), target
