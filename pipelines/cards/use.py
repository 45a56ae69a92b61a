"""What a card tells to do with a version: train on it with TRL, and make it again. Tests run both as they stand on the card."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

TRAINERS: Mapping[str, tuple[str, str, str]] = {
    "trl-dpo": ("DPO", "pairs", "Two answers to one prompt, the better one first; `kind` says what makes it better."),
    "trl-kto": ("KTO", "answers", "Every answer that is right or wrong, each by itself."),
    "trl-grpo": ("GRPO", "prompts", "Prompts, and the gold as `solution`, for reinforcement with a checkable reward."),
}
"""By view: TRL's name of the method, what its rows are, and what they hold."""
SOURCE_COLUMNS = {"id": "problem_id", "question": "question", "answer": "gold", "difficulty": "difficulty"}
"""What a source is read for that stands in the table `problems`, too, and where."""
SOURCE_SETTINGS = {*SOURCE_COLUMNS, "path", "split", "answer_format", "licence", "limit"}
"""What a source may say without anything else of its rows being needed."""
WRITERS = {".jsonl": "write_ndjson", ".parquet": "write_parquet"}


def training(manifest: Mapping[str, Any], schemas: Mapping[str, pa.Schema], views: Mapping[str, int]) -> str:
    """Snippets for TRL: supervised on the chosen traces, and the other methods where the version has their views."""
    parts = [*_supervised(manifest, schemas), *(_on(view, manifest) for view in TRAINERS if view in views)]
    if "trl-prm" in views:
        parts.append(
            "The config `trl-prm` is for TRL's PRMTrainer, which 1.13 was the last release to have: `pip install trl==1.13.0`."
        )
    if not parts:
        return ""
    name = (manifest.get("models", {}).get("solver") or {}).get("name") or "MODEL"
    comment = "who wrote the answers; any other model's folder or Hub id will do"
    head = f"""## Train on it

With TRL 1.16; `here` and `load_dataset` as above. TRL cuts rows at 1,024 tokens unless `max_length` says otherwise.

```python
model = "{name}"  # {comment}
```"""
    return "\n\n".join([head, *parts])


def _supervised(manifest: Mapping[str, Any], schemas: Mapping[str, pa.Schema]) -> Iterator[str]:
    table = "traces" if "traces" in schemas else "rows"
    columns = schemas[table].names if table in schemas else []
    if "messages" not in columns or not manifest["tables"][table]["rows"]:
        return
    filters = [str(step.get("use")) for step in manifest.get("recipe", {}).get("filters", ())]
    wrong_too = "correct" in columns and "correct" not in filters
    right = '\nrows = rows.filter(lambda row: row["correct"])  # wrong and undecided answers are in it, too' * wrong_too
    keep = 'if name != "tools"' if "tools" in columns else ""
    dropped = f"[name for name in rows.column_names {keep}]" if keep else "rows.column_names"
    yield f"""SFT, on the answers and not on the prompts:

```python
from trl import SFTConfig, SFTTrainer


def learnt(row):
    return {{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}}


rows = load_dataset(here, "{table}", split="train"){right}
rows = rows.map(learnt, remove_columns={dropped})
args = SFTConfig(output_dir="sft", max_length=None)
trainer = SFTTrainer(model, args=args, train_dataset=rows)
trainer.train()
```"""


def _on(view: str, manifest: Mapping[str, Any]) -> str:
    name, rows, about = TRAINERS[view]
    rewards, imports, length = "", "", "max_length=None"
    if name == "GRPO":
        solver = manifest.get("recipe", {}).get("models", {}).get("solver", {})
        length = f"max_completion_length={solver.get('max_tokens', 4096)}"
        rewards, imports = "accuracy_reward, ", "\nfrom trl.rewards import accuracy_reward"
    return f"""{name}. {about}

```python
from trl import {name}Config, {name}Trainer{imports}

{rows} = load_dataset(here, "{view}", split="train")
args = {name}Config(output_dir="{name.lower()}", {length})
trainer = {name}Trainer(model, {rewards}args=args, train_dataset={rows})
trainer.train()
```"""


def again(manifest: Mapping[str, Any]) -> str:
    """How to make the version again: what is needed, the command, and what comes out."""
    recipe = manifest.get("recipe", {})
    sources = recipe.get("source", ())
    needs = [*_sources(sources), *_plugins(manifest), *_models(manifest)]
    finish = (
        "" if manifest["complete"] else " The same command with a larger budget goes on where this version stopped."
    )
    parts = [
        "## Build it again",
        f"With tracemill {manifest['tracemill']}, in a copy of this folder:",
        "```sh\ntracemill build recipe.toml\n```",
        "It needs\n\n" + "\n".join(f"- {need}" for need in needs) if needs else "",
        _from_problems(sources),
        f"What the store's journal holds is replayed, not sampled again; without that journal, Determinism above says what to "
        f"expect.{finish} `recipe.toml` has every setting spelt out; `manifest.json` has the library versions, and the sha256 of "
        "every file.",
    ]
    return "\n\n".join(part for part in parts if part)


def _sources(sources: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for source in sources:
        if path := source.get("path"):
            yield f"the source `{path}` beside `recipe.toml`: its sha256 stands under Sources"
        elif ref := source.get("ref"):
            yield f"the version `{ref}` in the store"


def _plugins(manifest: Mapping[str, Any]) -> Iterator[str]:
    for name in manifest.get("plugins", ()):
        if ".py:" in name:
            yield f"the plug-in `{name.partition(':')[0]}`: its sha256 stands in `manifest.json` under `plugins`"


def _models(manifest: Mapping[str, Any]) -> Iterator[str]:
    engines = manifest.get("recipe", {}).get("engines", {})
    for role, model in manifest.get("models", {}).items():
        engine = role if role in engines else "solver"
        kind = engines.get(engine, {}).get("kind")
        address = f"`--set 'engines.{engine}.base_urls=[\"http://host:8000/v1\"]'`"
        at = f", at its address: {address}" if kind == "openai" else ""
        if kind != "scripted":
            yield f"the model `{model.get('name', 'unknown')}` ({role}){at}"


def _from_problems(sources: Sequence[Mapping[str, Any]]) -> str:
    """How the source is made again from the table `problems`, where that has all that was read of it."""
    if len(sources) != 1:
        return ""
    [source] = sources
    name = str(source.get("path", ""))
    write = WRITERS.get(name[name.rfind(".") :]) if "." in name else None
    more = {key for key, value in source.items() if value} - SOURCE_SETTINGS
    if write is None or more:
        return ""
    wanted = {str(source.get(key, key)): at for key, at in SOURCE_COLUMNS.items()}
    columns = ", ".join(f'"{column}": "{at}"' for column, at in wanted.items())
    plain = (
        ""
        if source.get("answer_format", "plain") == "plain"
        else ", with `--set source.0.answer_format=plain` behind the command"
    )
    return f"""Without that source, its problems come from here{plain}. The same is asked, and rows agree as far as Determinism
says; the version has another name, because the bytes of its source count.

```python
import polars as pl

columns = {{{columns}}}
problems = pl.read_parquet("problems/*.parquet")
problems.select(pl.col(at).alias(name) for name, at in columns.items()).{write}("{name}")
```"""
