"""Why a row is in one version and not in the other, or is not the same in both: read off manifests and tables.

    differing rows ──▶ their problem in A and B ──▶ their traces in A and B, chosen or turned down ──▶ the first reason that holds

A filter or selector is called changed where its options or its code are other ones in the two manifests; where they
are the same it chose otherwise, since what came to it was other. What no table and no manifest tells is `method changed`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from tracemill.pipelines.versions.dataset import Dataset
from tracemill.schemas.tables import ROWS

CHANGES = ("added", "removed", "changed")
OF_THE_SOURCE = ("question", "gold", "target", "source", "licence", "difficulty", "tools")
"""Columns of rows that come from the source as they are."""
OF_THE_VERDICT = ("verdict", "correct", "answer")
PLUGINS = ("score", "filters", "select")
"""Parts of a manifest's identity that are lists of plug-ins."""
ABSENT = object()
PIECE = 1 << 17
"""Differing rows whose traces are looked up at once."""

_TRACE = {"id": pl.String, "problem_id": pl.String, "key": pl.String, "verdict": pl.String, "content": pl.String}
_DOWN = {"id": pl.String, "problem_id": pl.String, "stage": pl.String, "reason": pl.String, "row": pl.String}
_PROBLEM = {
    "problem_id": pl.String,
    "question": pl.String,
    "gold": pl.String,
    "outcome": pl.String,
    "reason": pl.String,
}


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the two manifests say that the versions were made from, as far as it differs: path, a, b; null: not there."""
    found = list(_unlike(_keyed(a["identity"]), _keyed(b["identity"]), ""))
    for part in ("plugins", "verifier"):
        found += _unlike(a.get(part, {}), b.get(part, {}), part)
    if a.get("code") != b.get("code"):
        found.append(("code", a.get("code"), b.get("code")))
    told = {path for path, _, _ in found}
    doubled = {f"verifier.{name}" for name in ("use", "extract") if f"verify.{name}" in told}
    return [{"path": path, "a": mine, "b": theirs} for path, mine, theirs in found if path not in doubled]


def _keyed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity by the keys of a recipe, as far as they can be told from the layers of a manifest.

    Plug-ins go by name and not by place, so that one more in front does not change the others.
    """
    keyed = {key: _by_name(value) if key in PLUGINS else value for key, value in identity.items()}
    if isinstance(synth := keyed.get("synth"), Mapping) and isinstance(synth.get("options"), Mapping):
        keyed["synth"] = {**{key: value for key, value in synth.items() if key != "options"}, **synth["options"]}
    if isinstance(models := keyed.get("models"), Mapping):
        keyed["models"] = {role: _settings(asked) for role, asked in models.items()}
    return keyed


def _settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    inner = {key: value for part in ("model", "sampling") for key, value in asked.get(part, {}).items()}
    return {**inner, **{key: value for key, value in asked.items() if key not in ("model", "sampling")}}


def _by_name(plugins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for plugin in plugins:
        again = sum(name.partition("#")[0] == plugin["use"] for name in named)
        named[f"{plugin['use']}#{again + 1}" if again else plugin["use"]] = plugin.get("options", {})
    return named


def _unlike(a: Any, b: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in dict.fromkeys([*a, *b]):
            below = f"{path}.{name}" if path else str(name)
            yield from _unlike(a.get(name, ABSENT), b.get(name, ABSENT), below)
        if list(a) != list(b) and path in PLUGINS and a.keys() == b.keys():
            yield f"{path} (order)", list(a), list(b)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for place, (mine, theirs) in enumerate(zip(a, b, strict=True)):
            yield from _unlike(mine, theirs, f"{path}.{place}")
    elif a != b:
        yield path, None if a is ABSENT else a, None if b is ABSENT else b


class _Recipes:
    """What the manifests say, as the rules below ask it."""

    def __init__(self, manifests: Sequence[Mapping[str, Any]], recipe: Iterable[Mapping[str, Any]]) -> None:
        self.complete = [bool(manifest["complete"]) for manifest in manifests]
        self._paths = [str(line["path"]) for line in recipe]

    def changed(self, *parts: str) -> str:
        """The paths at or below these parts that differ, as text."""
        return ", ".join(path for path in self._paths if path.partition(".")[0].partition(" ")[0] in parts)

    def of_stage(self, stage: str) -> str:
        """What it means that a stage turned a row down in one version only."""
        kind, _, name = stage.partition(":")
        if kind in ("filter", "select"):
            part = "filters" if kind == "filter" else "select"
            own = (f"{part}.{name}", f"plugins.{name}", f"{part} (order)")
            changed = any(
                path == mine or path.startswith((f"{mine}.", f"{mine}#")) for path in self._paths for mine in own
            )
            names = (
                ("filter changed", "filtered otherwise")
                if kind == "filter"
                else ("selector changed", "selected otherwise")
            )
            return names[0] if changed else names[1]
        if kind == "problem_filter":
            keeps = any(path.startswith("source.") and ".keep" in path for path in self._paths)
            return "filter changed" if keeps else "filtered otherwise"
        return {"verify": "verification changed", "score": "score changed", "source": "source changed"}.get(
            kind, "method changed"
        )


REASONS = (
    "source changed",
    "not reached",
    "problem failed",
    "sampled anew",
    "verification changed",
    "score changed",
    "filter changed",
    "filtered otherwise",
    "selector changed",
    "selected otherwise",
    "method changed",
)
"""In this order: of the traces that a folded row is made of, the first reason is the row's."""


def why(
    compared: pl.DataFrame,
    versions: Sequence[Dataset],
    manifests: Sequence[Mapping[str, Any]],
    recipe: Sequence[Mapping[str, Any]],
) -> pl.DataFrame:
    """The differing rows with `reason` and `detail`, in the order they came in; so many at a time that they fit in memory."""
    recipes = _Recipes(manifests, recipe)
    pieces = [_why(piece, versions, recipes) for piece in compared.iter_slices(PIECE)]
    return pl.concat(pieces or [_why(compared, versions, recipes)])


def _why(compared: pl.DataFrame, versions: Sequence[Dataset], recipes: _Recipes) -> pl.DataFrame:
    folded = any("traces" in version.tables() for version in versions)
    by = "problem_id" if folded else "id"
    seen = compared.lazy().with_row_index("at")
    problems = [_problems(version, compared) for version in versions]
    traces = [_traces(version, compared, by) for version in versions]
    both = (
        traces[0]
        .join(traces[1], on=["id", "problem_id"], how="full", coalesce=True, suffix="_b")
        .rename({"id": "trace"})
    )
    if not folded:
        both = both.with_columns(pl.col("trace").alias("id")).drop("problem_id")
    facts = seen.join(both.lazy(), on=by, how="left")
    facts = facts.join(problems[0].lazy(), on="problem_id", how="left")
    facts = facts.join(problems[1].lazy(), on="problem_id", how="left", suffix="_b")
    said = facts.select("at", _verdict(recipes).alias("said"), "stage", "stage_b").collect()
    stages = {*said["stage"].unique(), *said["stage_b"].unique(), *said["said"].struct.field("stage").unique()} - {None}
    said = said.select("at", pl.col("said").struct.unnest())
    told = pl.coalesce(
        "reason",
        pl.col("stage").replace_strict({s: recipes.of_stage(s) for s in stages}, default=None, return_dtype=pl.String),
    )
    rank = pl.col("told").replace_strict({reason: rank for rank, reason in enumerate(REASONS)}, return_dtype=pl.Int64)
    first = (
        said.with_columns(told.alias("told"))
        .sort("at", rank, "vague", "detail", nulls_last=True)
        .group_by("at", maintain_order=True)
        .first()
    )
    named = compared.with_row_index("at").join(
        first.select("at", pl.col("told").alias("reason"), pl.col("detail").fill_null("")), on="at", how="left"
    )
    return named.sort("at").select("change", "id", "problem_id", "reason", "detail", "columns")


def _verdict(recipes: _Recipes) -> pl.Expr:
    """A struct of reason, or the stage that it depends on, and detail: the first rule that holds for a row and a trace of it."""
    change, columns = pl.col("change"), pl.col("columns")
    added, removed = change == "added", change == "removed"
    chosen_a, chosen_b = pl.col("chosen").fill_null(value=False), pl.col("chosen_b").fill_null(value=False)
    there_a, there_b = pl.col("chosen").is_not_null(), pl.col("chosen_b").is_not_null()
    missing_a, missing_b = added & pl.col("outcome").is_null(), removed & pl.col("outcome_b").is_null()
    lost = pl.when(added).then("p_stage").when(removed).then("p_stage_b")
    lost_why = pl.when(added).then("p_reason").when(removed).then("p_reason_b")
    outcome = pl.when(added).then("outcome").when(removed).then("outcome_b")
    both_there = there_a & there_b
    new_question = pl.col("question").ne_missing(pl.col("question_b")) & pl.col("outcome").is_not_null()
    new_question &= pl.col("outcome_b").is_not_null()
    new_key = both_there & (pl.col("key") != pl.col("key_b")).fill_null(value=False)
    new_verdict = both_there & pl.col("verdict").ne_missing(pl.col("verdict_b"))
    new_text = both_there & pl.col("content").ne_missing(pl.col("content_b")) & pl.col("key").is_null()
    new_gold = new_verdict & pl.col("gold").ne_missing(pl.col("gold_b"))
    drawn = recipes.changed("models", "synth")
    by_stage = pl.when(chosen_b & ~chosen_a).then("stage").when(chosen_a & ~chosen_b).then("stage_b")
    stage_why = pl.when(chosen_b & ~chosen_a).then("reason").when(chosen_a & ~chosen_b).then("reason_b")
    only_one = (chosen_a & ~there_b) | (chosen_b & ~there_a)
    from_source = columns.list.set_intersection(pl.lit(list(OF_THE_SOURCE)))
    judged = columns.list.set_intersection(pl.lit(list(OF_THE_VERDICT)))
    own = columns.list.set_difference(pl.lit(ROWS.names)).list.len() == columns.list.len()
    of_selectors = own & pl.lit(bool(recipes.changed("select")) and not recipes.changed("synth"))
    text = pl.concat_str("verdict", "verdict_b", separator=" -> ", ignore_nulls=True)
    listed = columns.list.sort().list.join(", ")
    no_draw = pl.lit(recipes.changed("synth") or "not drawn in the other version")
    rules: list[tuple[pl.Expr, str | None, pl.Expr, pl.Expr | None]] = [
        ((missing_a | missing_b) & lost.is_not_null(), None, pl.concat_str(lost, lost_why, separator=" "), lost),
        (missing_a & pl.lit(not recipes.complete[0]), "not reached", pl.lit("the first version is partial"), None),
        (missing_b & pl.lit(not recipes.complete[1]), "not reached", pl.lit("the second version is partial"), None),
        (missing_a, "source changed", pl.lit("the problem is new"), None),
        (missing_b, "source changed", pl.lit("the problem is gone"), None),
        (outcome == "failed", "problem failed", pl.coalesce(lost_why, pl.lit("")).str.head(80), None),
        ((outcome == "rejected") & lost.is_not_null(), None, pl.concat_str(lost, lost_why, separator=" "), lost),
        (new_question, "source changed", pl.lit("question"), None),
        (new_key & pl.lit(bool(drawn)), "sampled anew", pl.lit(drawn), None),
        (new_key & pl.lit(bool(recipes.changed("source"))), "source changed", pl.lit("prompt"), None),
        (new_key, "sampled anew", pl.lit("another request; no key of the recipe tells why"), None),
        (new_gold, "source changed", pl.lit("gold"), None),
        (new_text, "source changed", pl.lit("response"), None),
        (new_verdict, "verification changed", text, None),
        (by_stage.is_not_null(), None, pl.concat_str(by_stage, stage_why, separator=" "), by_stage),
        (only_one, "method changed", no_draw, None),
        (from_source.list.len() > 0, "source changed", from_source.list.sort().list.join(", "), None),
        (judged.list.len() > 0, "verification changed", judged.list.sort().list.join(", "), None),
        (of_selectors, "selector changed", listed, None),
    ]
    said = _said("method changed", listed, None, vague=True)
    for holds, reason, detail, stage in reversed(rules):
        this = _said(reason, detail, stage, vague=False)
        said = pl.when(holds.fill_null(value=False)).then(this).otherwise(said)
    return said


def _said(reason: str | None, detail: pl.Expr, stage: pl.Expr | None, *, vague: bool) -> pl.Expr:
    return pl.struct(
        pl.lit(reason, pl.String).alias("reason"),
        (pl.lit(None, pl.String) if stage is None else stage).alias("stage"),
        detail.alias("detail"),
        pl.lit(vague).alias("vague"),
    )


def _problems(version: Dataset, compared: pl.DataFrame) -> pl.DataFrame:
    """What became of the problems of the differing rows in one version; those that the source lost have no outcome."""
    wanted = compared.lazy().select("problem_id").unique()
    there = columns_of(version, "problems", _PROBLEM).drop("reason").join(wanted, on="problem_id", how="semi")
    lost = (
        columns_of(version, "rejected", _DOWN).filter(pl.col("id").is_null()).join(wanted, on="problem_id", how="semi")
    )
    failed = columns_of(version, "problems", _PROBLEM).filter(pl.col("outcome") == "failed")
    failed = failed.join(wanted, on="problem_id", how="semi")
    lost = pl.concat(
        [
            lost.select("problem_id", pl.col("stage").alias("p_stage"), pl.col("reason").alias("p_reason")),
            failed.select("problem_id", pl.lit("method").alias("p_stage"), pl.col("reason").alias("p_reason")),
        ]
    ).unique("problem_id", keep="first", maintain_order=True)
    return there.join(lost, on="problem_id", how="full", coalesce=True).collect(engine="streaming")


def _traces(version: Dataset, compared: pl.DataFrame, by: str) -> pl.DataFrame:
    """The traces in question in one version: `chosen`, or turned down with stage and reason; texts as their hashes."""
    wanted = compared.lazy().select(by).unique()
    table = "traces" if "traces" in version.tables() else "rows"
    chosen = columns_of(version, table, _TRACE).join(wanted, on=by, how="semi")
    down = columns_of(version, "rejected", _DOWN).filter(pl.col("id").is_not_null()).join(wanted, on=by, how="semi")
    text = {name: pl.col("row").str.json_path_match(f"$.{name}").alias(name) for name in ("key", "verdict", "content")}
    found = pl.concat(
        [
            chosen.with_columns(pl.lit(value=True).alias("chosen"), *(_null(n) for n in ("stage", "reason"))),
            down.select("id", "problem_id", *text.values(), pl.lit(value=False).alias("chosen"), "stage", "reason"),
        ]
    )
    hashed = found.with_columns(pl.col("content").hash())
    return hashed.unique("id", keep="first", maintain_order=True).collect(engine="streaming")


def _null(name: str) -> pl.Expr:
    return pl.lit(None, pl.String).alias(name)


def columns_of(version: Dataset, table: str, wanted: Mapping[str, Any]) -> pl.LazyFrame:
    """These columns of a table; null where it lacks one, no rows where the version lacks the table."""
    if table not in version.tables():
        return pl.LazyFrame(schema=dict(wanted))
    frame = version.scan(table)
    have = frame.collect_schema()
    return frame.select(
        pl.col(name).cast(kind) if name in have else pl.lit(None, kind).alias(name) for name, kind in wanted.items()
    )


def evidence_of(version: Dataset, ids: Iterable[str]) -> dict[str, Any]:
    """The evidence against these rows in a version that turned them down."""
    wanted = list(ids)
    if not wanted:
        return {}
    down = columns_of(version, "rejected", {"id": pl.String, "evidence": pl.String})
    rows = down.filter(pl.col("id").is_in(wanted)).collect(engine="streaming").iter_rows()
    return {str(row_id): as_data(text) for row_id, text in rows}


def as_data(text: str | None) -> Any:
    """JSON text as data, or the text where it is none."""
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return text
