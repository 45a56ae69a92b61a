"""Where a version comes from, in the forms that its id, its manifest and its card need."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from tracemill.pipelines.cards.accuracy import Estimate, accuracy_table
from tracemill.pipelines.cards.card import CardFacts, CardTable
from tracemill.pipelines.cards.summaries import shown_summary
from tracemill.pipelines.choosing.staging import Staged
from tracemill.pipelines.curate import Decisions
from tracemill.pipelines.judging.facts import judging_facts
from tracemill.pipelines.plan import Plan, code_hash
from tracemill.pipelines.reading.benchmarks import identity_of_benchmarks
from tracemill.pipelines.reading.mixing import Taken
from tracemill.pipelines.reading.sources import source_name
from tracemill.pipelines.recipes.catalog import Plugin
from tracemill.pipelines.recipes.toml import to_toml
from tracemill.pipelines.running.outcomes import RoleCounts
from tracemill.pipelines.versions.determinism import determinism
from tracemill.pipelines.versions.manifest import Count, MadeFrom, ModelFacts, Rate, SampleCounts, SourceFacts
from tracemill.schemas.recipe import FILES, Recipe, Source
from tracemill.synth.models import ENGINE_KEYS
from tracemill.synth.roles import Role


def identity_of(plan: Plan, source_hashes: Sequence[str]) -> dict[str, Any]:
    """The recipe without engines and paths, and the content of its sources: what counts for the version id."""
    recipe = plan.recipe.model_dump(
        mode="json",
        exclude={"engines", "models", "embedder", "benchmarks", "source", "tolerate", "budget", "report"},
        exclude_none=True,
    )
    sources = [
        {**source.model_dump(mode="json", exclude={"path"}, exclude_none=True), "sha256": digest}
        for source, digest in zip(plan.recipe.source, source_hashes, strict=True)
    ]
    return {
        **recipe,
        "source": sources,
        "models": {name: _asked(role) for name, role in plan.roles.items()},
        **({"embedder": plan.embedder.identity} if plan.embedder else {}),
        **_benchmarks(plan),
        **_calibrations(plan),
        "verify": {**plan.recipe.verify.model_dump(mode="json"), "use": _base(plan.recipe.verify.use)},
        "synth": _without_folders(_plugin(plan.method)),
        "score": [_plugin(plugin) for plugin in plan.scores],
        "filters": [_plugin(plugin) for plugin in plan.filters],
        "select": [_plugin(plugin) for plugin in plan.selectors],
        "budget": plan.recipe.budget.model_dump(mode="json", include={"tokens", "accepted_rows"}),
    }


def _benchmarks(plan: Plan) -> dict[str, Any]:
    if plan.benchmarks is None:
        return {}
    return {"benchmarks": identity_of_benchmarks(plan.benchmarks, plan.recipe.benchmarks)}


def _calibrations(plan: Plan) -> dict[str, Any]:
    """Planted cases change no row, and a version says how its judge did on them: another set makes another version."""
    if not plan.calibrations:
        return {}
    return {
        "calibration": [
            {"use": _base(cases.plugin.name), "sha256": cases.sha256, "least_accuracy": cases.least_accuracy}
            for cases in plan.calibrations
        ]
    }


def resolved_toml(recipe: Recipe) -> str:
    """The recipe with every default spelt out; paths are cut to their last part, for a version may be published."""
    return to_toml(portable(recipe))


def portable(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, without the folders of the machine it ran on."""
    table = recipe.model_dump(mode="json", exclude={"report"}, exclude_none=True)
    for engine in table[
        "engines"
    ].values():  # defaults that mean nothing to its kind would be refused by whoever builds it
        for key in engine.keys() - ENGINE_KEYS[engine["kind"]]:
            del engine[key]
    return dict(_without_folders(table))


PLACES = {"path", "calibration", "name", "tokenizer", "template", "script", "use", *FILES}
"""Keys that may hold a path; a text such as `system = "/no_think"` only looks like one."""


def _without_folders(value: Any, *, place: bool = False) -> Any:
    if isinstance(value, Mapping):
        return {
            key: _without_folders(item, place=place or key in PLACES or key == "args")
            for key, item in value.items()
            if key not in ("base_urls", "segments", "ship_every")
        }
    if isinstance(value, list):
        return [_without_folders(item, place=place) for item in value]
    return value.rpartition("/")[2] if place and isinstance(value, str) and value.startswith("/") else value


def made_from(
    plan: Plan,
    source_hashes: Sequence[str],
    taken: Sequence[Taken],
    staged: Staged,
    decisions: Decisions,
    lost: Sequence[Mapping[str, Any]],
    tally: Any,
    accuracy: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any] | None,
    why_partial: str | None,
) -> MadeFrom:
    """What the manifest says; none of it is in the version id."""
    facts = MadeFrom(
        recipe=portable(plan.recipe),
        sources=_sources(plan, source_hashes, taken, staged, decisions),
        models=_models(plan),
        engines={name: role.facts() for name, role in plan.roles.items()},
        verifier=plan.verifier_facts,
        problems=_outcomes(staged, decisions),
        counts=_counts(staged, decisions, lost),
        samples={"new": tally.meter.samples_new, "replayed": tally.meter.samples_replayed},
        roles=[_sample_counts(staged.counts[role]) for role in sorted(staged.counts)],
        tokens={"new": tally.meter.tokens_new, "replayed": tally.meter.tokens_replayed},
        accuracy=accuracy,
        determinism=determinism(plan, samples_new=tally.meter.samples_new, samples_of=_drawn(plan, staged)),
        code=code_hash(),
        plugins=plan.plugin_hashes,
        inputs={**plan.files, **{cases.file: cases.sha256 for cases in plan.calibrations}},
    )
    facts.update(judging_facts(plan, tally.calibration))
    if tally.meter.tokens_new > 0 and tally.seconds > 0:
        gpus = max(1, sum(int(role.facts().get("gpus", 1)) for role in plan.roles.values()))
        facts["rate"] = Rate(tokens=tally.meter.tokens_new, seconds=round(tally.seconds, 3), gpus=gpus)
    if summary is not None:
        facts["summary"] = summary
    if plan.benchmarks is not None:
        facts["benchmarks"] = {
            name: {"revision": said.revision, "sha256": said.sha256, "rows": said.rows}
            for name, said in plan.benchmarks.all.items()
        }
    if decisions.facts:
        facts["selected"] = decisions.facts
    if why_partial is not None:
        facts["why_partial"] = why_partial
    return facts


def card_of(
    plan: Plan,
    accuracy: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any] | None,
    found: Sequence[Mapping[str, Any]] = (),
) -> CardFacts:
    """What the card shows beyond the manifest: how often the model is right, or what the method and selectors say of it all."""
    about = f"Reasoning traces made by `{plan.method.name}`, each verified against its gold answer."
    if plan.method.name == "given":
        about = "Given reasoning traces, each verified against its gold answer."
    numbers = shown_accuracy(accuracy)
    note = "Shares with 95 % intervals over problems; undecided verdicts count as samples and never as correct."
    tables = [CardTable(title="Accuracy", rows=numbers, note=note)] if numbers else []
    said = [summary] if summary is not None else []
    tables += [CardTable(title=s["title"], rows=shown_summary(s), note=s["note"]) for s in (*said, *found)]
    limits = ["A correct final answer does not prove that the steps before it are right."]
    return CardFacts(about=about, tables=tables, limits=limits, papers=_papers(plan), meaning=_meaning(plan))


def _meaning(plan: Plan) -> dict[str, str]:
    """What the plug-ins of a recipe say of their columns; the first to name one is heard."""
    found: dict[str, str] = {}
    for plugin in (plan.method, *plan.scores, *plan.filters, *plan.selectors):
        found = {**plugin.about("MEANING", {}), **found}
    return found


def _papers(plan: Plan) -> list[tuple[str, str]]:
    """The papers that the plug-ins of a recipe name at the head of their files, each once, in the order of the recipe."""
    found: dict[str, str] = {}
    for plugin in (plan.method, *plan.scores, *plan.filters, *plan.selectors):
        for text in (plugin.about("__doc__", None), plugin.call.__doc__):
            for paper in re.findall(r"arXiv:\s?(\d{4}\.\d{4,5})", text or ""):
                found.setdefault(paper, _base(plugin.name))
    return [(use, paper) for paper, use in found.items()]


def accuracy_of(plan: Plan, staged: Staged) -> list[dict[str, Any]]:
    """pass@k and maj@k by difficulty, over all traces that were verified, whatever became of them.

    Nothing for a method that draws from several models: between such answers there is no pass@k. It has a summary.
    """
    if plan.method.about("summary", None) is not None:
        return []
    return [
        {name: asdict(value) if isinstance(value, Estimate) else value for name, value in line.items()}
        for line in accuracy_table(staged.traces.scan())
    ]


def shown_accuracy(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The same for people: estimates with their intervals, and without the columns that repeat another."""
    hidden = {"draws", "undecided", "correct", "pass@1"}
    return [{name: _shown(value) for name, value in line.items() if name not in hidden} for line in lines]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    return "" if value is None else str(value)


def _drawn(plan: Plan, staged: Staged) -> dict[str, int]:
    """Samples by role; given traces are counted too, and nobody drew them."""
    return {role: count.total for role, count in staged.counts.items() if role in plan.roles}


def _plugin(plugin: Plugin) -> dict[str, Any]:
    return {"use": _base(plugin.name), "options": dict(plugin.options)}


def _base(use: str) -> str:
    """A plug-in's name without the path to its file."""
    return use.rpartition("/")[2]


def _asked(role: Role) -> dict[str, Any]:
    """All that decides what a role answers, as far as it is the same for every request."""
    model = {name: getattr(role.model, name) for name in role.model.__dataclass_fields__}
    drawing = {name: getattr(role.defaults, name) for name in role.defaults.__dataclass_fields__}
    return {
        "model": model,
        "sampling": {**drawing, "stop": list(role.defaults.stop or ())},
        "system": role.system,
        "template_kwargs": dict(role.template_kwargs or {}),
        "think": list(role.think),
        "seed": role.run_seed,
        "seeds": role.seeds,
        **({"levels": [asdict(level.adapter) for level in role.levels.values()]} if role.levels else {}),
    }


def _models(plan: Plan) -> dict[str, ModelFacts]:
    models = {name: _model_facts(role) for name, role in plan.roles.items()}
    if plan.embedder is not None:
        asked = {**plan.embedder.table.model_dump(mode="json", exclude={"name"}), "identity": plan.embedder.identity}
        models["embedder"] = ModelFacts(
            name=plan.embedder.name, revision=plan.embedder.revision, verified=True, asked=asked
        )
    return models


def _model_facts(role: Role) -> ModelFacts:
    revision = role.model.revision
    return ModelFacts(name=role.model.name, revision=revision, verified=revision != "unverified", asked=_asked(role))


def _sources(
    plan: Plan, hashes: Sequence[str], taken: Sequence[Taken], staged: Staged, decisions: Decisions
) -> list[SourceFacts]:
    """What each source gave. Two of one name cannot be told apart in the rows, so their traces are not told."""
    problems = dict(staged.problems.scan().group_by("source").len().collect().iter_rows())
    chosen = decisions.chosen.lazy().select("id", chosen=pl.lit(value=True))
    traces = (
        staged.traces.scan()
        .select("id", "source", "licence")
        .join(chosen, on="id", how="left")
        .group_by("source")
        .agg(pl.len().alias("traces"), pl.col("chosen").sum().cast(pl.Int64), pl.col("licence").unique().sort())
        .collect()
    )
    found = {row["source"]: row for row in traces.to_dicts()}
    names = Counter(map(source_name, plan.recipe.source))
    return [
        _source_facts(source, digest, part, problems, found if names[source_name(source)] == 1 else {})
        for source, digest, part in zip(plan.recipe.source, hashes, taken, strict=True)
    ]


def _source_facts(
    source: Source, digest: str, part: Taken, problems: Mapping[str, int], traces: Mapping[str, Mapping[str, Any]]
) -> SourceFacts:
    name = source_name(source)
    seen = traces.get(name)
    kept = seen["licence"] if seen and source.ref is not None and source.licence == "unknown" else []
    stated = sorted({str(licence or "unknown").strip() for licence in kept}) or [source.licence]
    facts = SourceFacts(
        name=name, sha256=digest, licence=", ".join(stated), rows=problems.get(name, 0), licences=stated
    )
    facts |= {"read": part.read, "refused": part.refused, "repeated": part.repeated, "held": part.held}
    facts |= {"taken": part.problems, "left_out": part.left_out}
    if part.cut is not None:
        facts |= {"why": part.why, "cut": f"{part.cut:016x}"}
    if source.weight is not None:
        facts["weight"] = source.weight
    if seen is not None:
        facts |= {"traces": seen["traces"], "chosen": seen["chosen"]}
    return facts


def _sample_counts(c: RoleCounts) -> SampleCounts:
    return SampleCounts(
        role=c.role,
        total=c.total,
        correct=c.correct,
        undecided=c.undecided,
        truncated=c.truncated,
        unclosed=c.unclosed,
    )


def _outcomes(staged: Staged, decisions: Decisions) -> dict[str, int]:
    problem = pl.col("id").str.replace(r"/[^/]*$", "")
    chosen = decisions.chosen.select(problem.n_unique()).item() if decisions.chosen.height else 0
    counts = Counter(dict(staged.problems.scan().group_by("outcome").len().collect().iter_rows()))
    open_ = counts.pop(None, 0)
    return {"chosen": chosen, "none_chosen": open_ - chosen, **{str(k): n for k, n in sorted(counts.items())}}


def _counts(staged: Staged, decisions: Decisions, lost: Sequence[Mapping[str, Any]]) -> list[Count]:
    """Rows by stage and reason, in the order of the stages."""
    before = Counter(("source", str(row["reason"])) for row in lost)
    before.update(
        {(s, r): n for s, r, n in staged.refused.scan().group_by("stage", "reason").len().collect().iter_rows()}
    )
    counts = [Count(stage=stage, reason=reason, rows=rows) for (stage, reason), rows in sorted(before.items())]
    counts += [
        Count(stage=str(c["stage"]), reason=str(c["reason"]), rows=int(str(c["count"]))) for c in decisions.counts()
    ]
    return [*counts, Count(stage="chosen", reason="", rows=decisions.chosen.height)]
