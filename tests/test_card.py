"""The card of a version tells the truth, and every config it lists opens with the real library."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import solve
from tracemill.pipelines.build import build
from tracemill.pipelines.cards.card import CardFacts, CardTable
from tracemill.pipelines.cards.parts import MEANING, features
from tracemill.pipelines.recipes.toml import to_toml
from tracemill.pipelines.store import Dataset, MadeFrom, Store
from tracemill.schemas.tables import PROBLEMS, REJECTED, ROWS, SAMPLES

MADE_FROM: MadeFrom = {
    "recipe": {"name": "arith", "synth": {"use": "sample", "n": 4}},
    "sources": [{"name": "arith.jsonl", "sha256": "ab" * 32, "licence": "MIT", "rows": 5}],
    "models": {
        "solver": {"name": "tiny-reasoner", "revision": "0123abcd", "verified": True},
        "judge": {"name": "served", "revision": None, "verified": False},
    },
    "engines": {"solver": {"engine": "scripted"}},
    "problems": {"chosen": 3, "none_chosen": 2},
    "counts": [
        {"stage": "chosen", "reason": "", "rows": 3},
        {"stage": "filter:correct", "reason": "wrong | or\nundecided", "rows": 2},
    ],
    "determinism": {"level": "L3", "promise": "a rebuild from this journal is this version."},
}
FACTS = CardFacts(
    about="Small sums, solved in words.",
    tables=[
        CardTable(title="Accuracy", rows=[{"k": 1, "pass@k": 0.61234567}, {"k": 4, "pass@k": None}], note="Means.")
    ],
    tags=["arithmetic"],
    limits=["The problems are made by a program."],
)


def commit(tmp_path: Path, *, rows: int = 3, complete: bool = True, facts: CardFacts = FACTS, **made: Any) -> Dataset:
    trace = {"messages": [{"role": "user", "content": "1+1?"}], "correct": True, "n_tokens": 5}
    with Store(tmp_path / "store").draft("arith") as draft:
        draft.table("rows", ROWS, [[{"id": f"p{i}/solve-0000", "problem_id": f"p{i}", **trace} for i in range(rows)]])
        draft.table("problems", PROBLEMS, [[{"problem_id": f"p{i}", "roles": [{"role": "solver"}]} for i in range(5)]])
        draft.table("samples", SAMPLES, [[{"key": f"k{i}", "token_ids": [1, 2]} for i in range(5)]])
        draft.table("rejected", REJECTED, [])
        draft.table("steps", pa.schema([("id", pa.string()), ("score", pa.float32())]), [[{"id": "a", "score": 0.5}]])
        return draft.commit(
            recipe_toml="", identity={}, manifest={**MADE_FROM, **made}, complete=complete, card=facts  # type: ignore[typeddict-item]
        )  # fmt: skip


def card_of(dataset: Dataset) -> tuple[dict[str, Any], str]:
    _, front, body = (dataset.path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


LOAD = """
import json, sys, yaml
from pathlib import Path
from datasets import load_dataset
out = {}
for folder in sys.argv[1:]:
    front = yaml.safe_load(Path(folder, "README.md").read_text(encoding="utf-8").split("---\\n")[1])
    names = [config["config_name"] for config in front["configs"]]
    sizes = {name: load_dataset(folder, name, split="train").num_rows for name in names}
    default = load_dataset(folder)["train"]
    out[folder] = {"sizes": sizes, "default": default.column_names, "first": default[0]}
print(json.dumps(out))
"""


def offline(tmp_path: Path, cwd: Path, *command: str) -> str:
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    run = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=50
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_every_listed_config_opens_with_datasets_and_rows_is_the_default_unless_it_is_empty(tmp_path: Path):
    full, empty = commit(tmp_path, rows=3), commit(tmp_path, rows=0)
    paths = [str(full.path), str(empty.path)]
    found = json.loads(offline(tmp_path, tmp_path, "-c", LOAD, *paths).splitlines()[-1])
    assert found[paths[0]]["sizes"] == {"rows": 3, "problems": 5, "samples": 5, "steps": 1}
    assert found[paths[0]]["default"] == ROWS.names
    assert found[paths[0]]["first"]["messages"] == [{"role": "user", "content": "1+1?"}]
    assert found[paths[1]]["sizes"] == {"samples": 5, "problems": 5, "steps": 1}
    assert found[paths[1]]["default"] == SAMPLES.names


MOVE = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from datasets import load_dataset
import test_card
for folder, rows in (("a", 3), ("a", 2), ("a", 3), ("b", 1)):
    test_card.commit(Path(folder), rows=rows)
    assert load_dataset(f"{folder}/store/arith/latest", split="train").num_rows == rows
"""


def test_latest_opens_what_it_points_to_though_datasets_caches_by_the_name_of_a_folder(tmp_path: Path):
    offline(tmp_path, tmp_path, "-c", MOVE, str(Path(__file__).parent))


def test_the_snippets_of_a_card_run_in_its_folder(tmp_path: Path):
    dataset = commit(tmp_path)
    section = card_of(dataset)[1].partition("## Load it")[2].partition("## ")[0]
    snippets = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(snippets) == 2
    code = "\n".join([snippets[0], "assert rows.num_rows == 3", snippets[1], "assert rows.collect().height == 3"])
    offline(tmp_path, dataset.path, "-c", code)


def test_front_matter_is_what_the_hub_reads(tmp_path: Path):
    front, _ = card_of(commit(tmp_path))
    assert front["license"] == "mit"
    assert front["size_categories"] == ["n<1K"]
    assert front["tags"] == ["tracemill", "reasoning", "arithmetic"]
    assert [c["config_name"] for c in front["configs"]] == ["rows", "samples", "problems", "steps"]
    assert [c.get("default", False) for c in front["configs"]] == [True, False, False, False]
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "rows/*.parquet"}]


@pytest.mark.parametrize(
    ("licences", "front"),
    [
        (["MIT", "mit"], {"license": "other", "license_name": "MIT, mit"}),
        (["Apache-2.0"], {"license": "apache-2.0"}),
        (["unknown"], {"license": "unknown"}),
        ([], {"license": "unknown"}),
        (["MIT", "unknown"], {"license": "other", "license_name": "MIT, unknown"}),
        (["MIT", "CC-BY-4.0"], {"license": "other", "license_name": "CC-BY-4.0, MIT"}),
        (["our own: see \"x\""], {"license": "other", "license_name": "our own: see \"x\""}),
    ],
)  # fmt: skip
def test_licences_are_what_the_sources_state_and_no_more(tmp_path: Path, licences: list[str], front: dict[str, str]):
    sources = [{"name": f"s{i}", "licence": licence, "rows": 1, "sha256": ""} for i, licence in enumerate(licences)]
    found, body = card_of(commit(tmp_path, sources=sources))
    assert {key: found[key] for key in found if key.startswith("license")} == front
    assert ("The licence of a source is unknown" in body) == ("unknown" in front.values() or "unknown" in licences)


def test_the_body_says_how_it_was_made_and_what_became_of_what(tmp_path: Path):
    dataset = commit(tmp_path)
    _, body = card_of(dataset)
    for text in (
        f"Version `{dataset.version}`",
        "Method: `sample` (n 4)",
        "Model (solver): `tiny-reasoner` at revision `0123abcd` (verified)",
        "Model (judge): `served`, revision unknown (unverified)",
        "Determinism L3: a rebuild from this journal is this version.",
        "| chosen |  | 3 |",
        r"| filter:correct | wrong \| or undecided | 2 |",
        "| none_chosen | 2 |",
        "| arith.jsonl | MIT | 5 | `abababababababab` |",
        "| k | pass@k |\n| --- | --- |\n| 1 | 0.6123 |\n| 4 |  |",
        "Tables without rows are not listed as configs: `rejected`.",
        "- The problems are made by a program.",
        "- A model's revision is unverified",
        "tracemill build recipe.toml",
    ):
        assert text in body
    assert "Partial" not in body


def test_a_partial_version_says_so_first(tmp_path: Path):
    dataset = commit(tmp_path, complete=False, why_partial="the budget of 1,000 tokens was reached")
    _, body = card_of(dataset)
    assert body.strip().splitlines()[2].startswith("> **Partial version**: the budget of 1,000 tokens was reached.")
    assert dataset.manifest()["why_partial"] == "the budget of 1,000 tokens was reached"


def test_a_version_without_chosen_rows_says_so_and_what_opens_instead(tmp_path: Path):
    front, body = card_of(commit(tmp_path, rows=0))
    assert "**No row was chosen**: `rows` is empty; the default config is `samples`" in body
    assert front["configs"][0]["default"] is True


def test_a_version_without_any_row_has_no_config_and_says_so(tmp_path: Path):
    with Store(tmp_path / "store").draft("none") as draft:
        draft.table("rows", ROWS, [])
        dataset = draft.commit(recipe_toml="", identity={}, manifest={})
    front, body = card_of(dataset)
    assert "configs" not in front
    assert "`rows` is empty; there is no config to load" in body


VALUE: Any = st.recursive(
    st.text() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine draws slowly
@given(st.dictionaries(st.text(), VALUE, max_size=5))
def test_toml_reads_back_as_it_was(table: dict[str, Any]):
    assert tomllib.loads(to_toml(table)) == table


def test_toml_of_a_recipe_is_written_as_a_person_would():
    table = {
        "name": "a",
        "limit": None,
        "source": [{"path": "x", "licence": "MIT"}],
        "synth": {"use": "sample", "n": 4},
    }
    assert to_toml(table) == (
        'name = "a"\n\n[[source]]\npath = "x"\nlicence = "MIT"\n\n[synth]\nuse = "sample"\nn = 4\n'
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"x", [None]])
def test_toml_refuses_what_a_recipe_cannot_hold(value: Any):
    with pytest.raises(TypeError, match="cannot stand in a recipe"):
        to_toml({"x": value})


# columns, tokens, papers


def test_the_columns_of_every_table_are_explained_in_the_words_of_the_docs(tmp_path: Path):
    page = (Path(__file__).parent.parent / "docs/tables.md").read_text(encoding="utf-8")
    for table, columns in MEANING.items():
        section = page.split(f"\n## {table}\n")[1].split("\n## ")[0]
        told = dict(re.findall(r"^\| `(\w+)` \| .+? \| (\S.*) \|$", section, re.MULTILINE))
        assert columns == {name: re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text) for name, text in told.items()}
    _, body = card_of(commit(tmp_path))
    for table, schema in {"rows": ROWS, "samples": SAMPLES, "problems": PROBLEMS, "rejected": REJECTED}.items():
        section = body.split(f"### {table}\n")[1].split("\n#")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == schema.names
    assert "| `score` | float | Of the method or selector. |" in body


def test_the_features_of_a_card_are_those_that_datasets_finds(tmp_path: Path):
    wide = pa.schema(
        [
            ("ids", pa.list_(pa.int32())), ("f", pa.float32()), ("raw", pa.binary()), ("b", pa.bool_()),
            ("s", pa.struct([("a", pa.int64()), ("l", pa.list_(pa.string()))])), ("ll", pa.list_(pa.list_(pa.string()))),
        ]
    )  # fmt: skip
    code = (
        "import json, sys, pyarrow.parquet as pq\nfrom datasets import Features\n"
        "print(json.dumps([Features.from_arrow_schema(pq.read_schema(f))._to_yaml_list() for f in sys.argv[1:]]))"
    )
    files = []
    for number, schema in enumerate((ROWS, SAMPLES, PROBLEMS, REJECTED, wide)):
        files.append(str(tmp_path / f"{number}.parquet"))
        pq.write_table(schema.empty_table(), files[-1])
    found = json.loads(offline(tmp_path, tmp_path, "-c", code, *files).splitlines()[-1])
    assert found == [features(schema) for schema in (ROWS, SAMPLES, PROBLEMS, REJECTED, wide)]
    assert features(pa.schema([("when", pa.timestamp("s"))])) is None


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.parquet"))


def test_a_version_loads_without_a_warning(tmp_path: Path):
    code = (
        "import sys\nfrom datasets import load_dataset\nprint(load_dataset(sys.argv[1], 'samples')['train'].num_rows)"
    )
    code = f"import logging, sys\nlogging.basicConfig(stream=sys.stdout)\n{code}"
    said = offline(tmp_path, tmp_path, "-c", code, str(commit(tmp_path).path))
    assert "Ignoring" not in said
    assert said.splitlines()[-1] == "5"


def test_front_matter_tells_types_and_numbers_of_rows(tmp_path: Path):
    dataset = commit(tmp_path)
    front, _ = card_of(dataset)
    assert [(c["config_name"], c["splits"]) for c in front["dataset_info"]] == [
        (name, [{"name": "train", "num_bytes": size(dataset.path / name), "num_examples": n}])
        for name, n in (("rows", 3), ("samples", 5), ("problems", 5), ("steps", 1))
    ]
    assert front["dataset_info"][3]["features"] == [
        {"name": "id", "dtype": "string"}, {"name": "score", "dtype": "float32"},
    ]  # fmt: skip


def test_token_statistics_are_those_of_the_chosen_traces(tmp_path: Path):
    lengths = [5, 10, 9000, 40_001, None]
    with Store(tmp_path / "store").draft("long") as draft:
        draft.table("rows", ROWS, [[{"id": f"p{i}", "n_tokens": n} for i, n in enumerate(lengths)]])
        dataset = draft.commit(recipe_toml="", identity={}, manifest={})
    assert "| 4 | 49,016 | 12,254.0 | 10 | 9,000 | 40,001 | 50.0% | 25.0% | 25.0% |" in card_of(dataset)[1]
    assert dataset.manifest()["lengths"]["max"] == 40_001


def test_papers_of_what_the_recipe_uses_are_cited(tmp_path: Path, recipe: Any):
    select = [{"use": "select2reason", "percent": 50}]
    _, body = card_of(build(recipe(select=select), Store(tmp_path / "store"), reply=solve).dataset)
    assert "`select2reason`: [arXiv:2505.17266](https://arxiv.org/abs/2505.17266)" in body
    assert "## Cite" not in card_of(commit(tmp_path))[1]
