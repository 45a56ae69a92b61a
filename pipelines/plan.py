"""Everything a recipe names, found and checked: what stands here can run. Nothing has been sampled yet."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

from tracemill.pipelines.export import find_view
from tracemill.pipelines.judging.cases import Cases, read_cases
from tracemill.pipelines.judging.deciding import check_decided
from tracemill.pipelines.reading.benchmarks import read_benchmarks
from tracemill.pipelines.reading.columns import EVERY
from tracemill.pipelines.recipes import catalog
from tracemill.pipelines.recipes.catalog import Plugin
from tracemill.pipelines.recipes.foresee import check_steps, recipes_fault, trace_types
from tracemill.pipelines.versions.parquet import sha256_of
from tracemill.schemas.benchmarks import Benchmarks
from tracemill.schemas.errors import RecipeError
from tracemill.schemas.levels import Levels
from tracemill.schemas.recipe import EngineTable, Recipe, Source, Step
from tracemill.schemas.rows import Problem
from tracemill.schemas.tables import COMMON, Kind, declared
from tracemill.schemas.views import MADE_OF, View
from tracemill.synth.backends.scripted import Reply
from tracemill.synth.embed import Embedder, open_embedder
from tracemill.synth.fit import check_one_tokenizer
from tracemill.synth.models import open_role
from tracemill.synth.roles import Role
from tracemill.synth.verify import Verifier


@dataclass(frozen=True)
class Plan:
    """A recipe whose every name is resolved."""

    recipe: Recipe
    method: Plugin
    scores: tuple[Plugin, ...]
    filters: tuple[Plugin, ...]
    selectors: tuple[Plugin, ...]
    keeps: tuple[tuple[Plugin, ...], ...]
    """Problem filters by source."""
    views: Mapping[str, View]
    """Ready-made exports by format."""
    roles: Mapping[str, Role]
    verifier: Verifier
    files: Mapping[str, str]
    """SHA-256 of each file and folder that the method reads beside the sources, by its name."""
    embedder: Embedder | None = None
    """What selectors by meaning get as their `engine`."""
    benchmarks: Benchmarks | None = None
    """What the filter `contaminated` and the selector `decontaminate` look for."""
    calibrations: tuple[Cases, ...] = ()
    """Cases that a judge is asked about before the first problem, the method's first."""

    @cached_property
    def synthesis(self) -> str:
        """Hash of all that decides an outcome besides the problem: method, models, verification, scores and our own code."""
        parts = {
            "method": [self.method.name, self.method.options, self.method.code],
            "scores": [[score.name, score.options, score.code] for score in self.scores],
            "roles": {
                name: [
                    role.model,
                    role.defaults,
                    role.system,
                    role.template_kwargs,
                    role.think,
                    role.run_seed,
                    role.seeds,
                    [level.adapter for level in role.levels.values()],
                ]
                for name, role in self.roles.items()
            },
            "verify": self.verifier.identity,
            "files": self.files,
            "code": code_hash(),
        }
        return hashlib.sha256(msgspec.json.encode(parts, order="sorted", enc_hook=_plain)).hexdigest()

    @cached_property
    def columns(self) -> pa.Schema:
        """The columns of traces beyond the common ones, as method and scores declare them."""
        makers: dict[str, tuple[Plugin, pa.Field[Any]]] = {}
        for maker in (self.method, *self.scores):
            for column in declared(maker.columns() or {}, where=f"{maker.name}: COLUMNS"):
                if column.name in makers:
                    _check_shared(column, maker, *makers[column.name])
                makers.setdefault(column.name, (maker, column))
        return pa.schema([column for _, column in makers.values()])

    @property
    def all_declared(self) -> bool:
        """Whether traces will have the common columns and `columns`, and no others."""
        if any(source.columns for source in self.recipe.source):
            return False  # of what type is known when they are read
        return all(maker.columns() is not None for maker in (self.method, *self.scores))

    @cached_property
    def own_tables(self) -> Mapping[str, pa.Schema]:
        """The method's own tables as its TABLES declares them: they are in every version, with rows or without."""
        tables: Mapping[str, Mapping[str, Kind]] = self.method.about("TABLES", {})
        return {
            name: declared(columns, where=f"{self.method.name}: TABLES[{name!r}]") for name, columns in tables.items()
        }

    @property
    def verifier_facts(self) -> dict[str, Any]:
        """How answers are found and compared, for a manifest."""
        verify = self.recipe.verify
        return {"use": verify.use, "extract": verify.extract, "identity": self.verifier.identity}

    @property
    def plugin_hashes(self) -> dict[str, str]:
        """The hash of the code of each plug-in, by its name in the recipe."""
        return {p.name: p.code for p in (self.method, *self.scores, *self.filters, *self.selectors)}

    @property
    def folds(self) -> bool:
        """Whether a row is something else than a trace: the method folds, and its option `layout` is not `long`."""
        return self.method.about("fold", None) is not None and self.method.options.get("layout") != "long"

    def fold(self, traces: pl.LazyFrame) -> pl.LazyFrame:
        """The rows that the method makes of chosen traces, whole problems of them."""
        rows: pl.LazyFrame = self.method.ask(self.method.about("fold", None), traces)
        return rows

    @property
    def neighbours(self) -> int:
        """How many further problems the method may look at beside each one."""
        count: int = self.method.about("NEIGHBOURS", 0)
        return count

    def outcome_key(self, problem: Problem, beside: Sequence[Problem] = ()) -> str:
        """What an outcome in the spool is good for: this problem, `beside` these neighbours, under this synthesis."""
        texts = [msgspec.json.encode(one, order="sorted", enc_hook=_plain) for one in (problem, *beside)]
        return hashlib.sha256(self.synthesis.encode() + b"".join(texts)).hexdigest()

    def engine_of(self, selector: Plugin) -> dict[str, Any]:
        """The argument `engine` for a selector that has one, where the recipe names an encoder."""
        return {"engine": self.embedder} if self.embedder is not None and selector.takes("engine") else {}

    def accepted(self, traces: Sequence[Mapping[str, Any]]) -> int:
        """How many of one problem's traces every filter keeps."""
        if not traces:
            return 0
        # with the types of the table: a column that is null in all of a problem's traces has none of its own
        frame = pl.DataFrame(list(traces), schema_overrides=trace_types(), infer_schema_length=None)
        rejected = [plugin.call().is_not_null() for plugin in self.filters]
        with recipes_fault("filters"):
            return frame.filter(~pl.any_horizontal(rejected)).height if rejected else frame.height


def resolve(
    recipe: Recipe, *, given: bool = False, runtime: Path, reply: Reply | None = None, vectors: Path | None = None
) -> Plan:
    """Find every plug-in, model and option of `recipe`, or raise a RecipeError that says what to change.

    `given`: the traces are in the source (`tracemill curate`). `runtime` is where running engines leave their records,
    `vectors` where embeddings are kept.
    """
    if given and recipe.synth is None:
        recipe = recipe.model_copy(update={"source": tuple(map(_own_rows, recipe.source))})
    method = catalog.find("synth", _method_step(recipe, given=given))
    _check_given(recipe, method, given=given)
    asks = not given or recipe.score or recipe.synth or recipe.models  # who samples nothing may still count tokens
    roles = roles_of(recipe, levels_of(method), runtime, reply) if asks else {}
    benchmarks = read_benchmarks(recipe.benchmarks) if recipe.benchmarks else None
    plan = Plan(
        recipe=recipe,
        method=method,
        scores=tuple(catalog.find("score", step) for step in recipe.score),
        filters=tuple(catalog.find("filters", step).with_benchmarks(benchmarks) for step in recipe.filters),
        selectors=tuple(catalog.find("selectors", step).with_benchmarks(benchmarks) for step in recipe.select),
        keeps=tuple(
            tuple(catalog.find("filters", step).with_benchmarks(benchmarks) for step in source.keep)
            for source in recipe.source
        ),
        views={
            name: find_view(name, {} if options is True else options)
            for name, options in recipe.views.items()
            if options is not False
        },
        roles=roles,
        verifier=verifier_of(recipe),
        files=_files(method),
        embedder=_embedder(recipe, runtime, vectors or runtime / "vectors"),
        benchmarks=benchmarks,
    )
    plan = replace(plan, calibrations=tuple(_calibrations(plan)))
    _check_benchmarks(plan)
    _check_capabilities(plan)
    _check_tokenizers(plan)
    _check_tools(plan)
    _check_budget(plan)
    _check_tables(plan)
    _check_views(plan)
    check_steps(plan)
    check_decided(plan)
    return plan


def _calibrations(plan: Plan) -> Iterator[Cases]:
    """The planted cases that steps of the recipe name."""
    own = [*(plan.method.columns() or ())]
    steps = [(plan.recipe.synth, plan.method, "method")] if plan.recipe.synth is not None else []
    steps += [(step, score, "score") for step, score in zip(plan.recipe.score, plan.scores, strict=True)]
    for step, plugin, kind in steps:
        if (cases := read_cases(step, plugin, kind, own)) is not None:
            yield cases


def code_hash() -> str:
    """SHA-256 over every source file of the installed package."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for folder in ("schemas", "synth", "filters", "selectors", "pipelines"):
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _method_step(recipe: Recipe, *, given: bool) -> Step:
    if recipe.synth is not None:
        return recipe.synth
    if not given:
        raise RecipeError('missing [synth]; add `use = "sample"`, or use `tracemill curate` for traces that exist')
    if not all(source.response or source.responses for source in recipe.source):
        raise RecipeError("`tracemill curate` needs the column of the traces: response = '...' in each [[source]]")
    return Step(use="given")


def _own_rows(source: Source) -> Source:
    """A table of the store that is read for its traces: they stand where every version has them, and keep what they are."""
    if source.ref is None or source.response or source.responses:
        return source
    own = {"id": "problem_id", "answer": "gold", "response": "messages", "trace": "id", "columns": (EVERY,)}
    return source.model_copy(update={key: getattr(source, key) or value for key, value in own.items()})


def _check_given(recipe: Recipe, method: Plugin, *, given: bool) -> None:
    """A method that takes what a source brings names the keys of the source in GIVEN; no other runs without a model."""
    if recipe.synth is None:
        return
    keys: tuple[str, ...] = method.about("GIVEN", ())
    if given and not keys:
        raise RecipeError(
            f"`tracemill curate` takes what exists, and {method.name} samples; take [synth] out, or use `tracemill build`"
        )
    if given:
        for index, source in enumerate(recipe.source):
            for key in keys:
                if getattr(source, key) is None:
                    raise RecipeError(
                        f"{method.name} needs source.{index}.{key}: the name of the column that holds them"
                    )
    elif keys:
        raise RecipeError(f"{method.name} samples nothing, it takes what the source brings: use `tracemill curate`")
    elif "solver" not in recipe.models:
        raise RecipeError("missing [model]; name the model that solves the problems and its max_tokens")


def _files(method: Plugin) -> dict[str, str]:
    """What the method's `files` says that it reads, by name with a hash of the content."""
    declare = method.about("files", None)
    named: list[Path] = [Path(path) for path in method.ask(declare)] if declare is not None else []
    for path in named:
        if not path.exists():
            raise RecipeError(f"{method.name}: no file or folder {path}; write it relative to the recipe, with ./")
    return {path.name: _content(path) for path in sorted(named)}


def _content(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files of a folder."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path)}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def levels_of(method: Plugin) -> Levels | None:
    """The other weights that the method asks for, where it asks for any."""
    declare = method.about("levels", None)
    return method.ask(declare) if declare is not None else None


def roles_of(recipe: Recipe, levels: Levels | None, runtime: Path, reply: Reply | None) -> dict[str, Role]:
    """Every role with its engine; a role without an engine of its own runs on the solver's kind of engine."""
    for stray in sorted(recipe.engines.keys() - recipe.models.keys()):
        raise RecipeError(f"engines.{stray} has no models.{stray} to run")
    fallback = recipe.engines.get("solver", EngineTable())
    if levels is not None and levels.role not in recipe.models:
        raise RecipeError(f"{recipe.synth.use if recipe.synth else 'the method'} needs [models.{levels.role}]")
    return {
        name: open_role(
            name,
            model,
            recipe.engines.get(name, fallback),
            runtime=runtime,
            reply=reply,
            levels=levels if levels is not None and levels.role == name else None,
        )
        for name, model in recipe.models.items()
    }


def verifier_of(recipe: Recipe) -> Verifier:
    solver = recipe.models.get("solver")
    return Verifier(
        use=recipe.verify.use,
        extract=recipe.verify.extract,
        options=recipe.verify.options,
        think=solver.think if solver else None,
    )


def _embedder(recipe: Recipe, runtime: Path, vectors: Path) -> Embedder | None:
    if recipe.embedder is None:
        return None
    if not recipe.select:
        raise RecipeError("[embedder] serves selectors, and the recipe has no [[select]]; take it out")
    return open_embedder(recipe.embedder, runtime=runtime, cache=vectors)


def _check_benchmarks(plan: Plan) -> None:
    """Refuse benchmarks that no step looks for."""
    steps = (*plan.filters, *plan.selectors, *(keep for keeps in plan.keeps for keep in keeps))
    if plan.benchmarks is not None and not any(step.takes("benchmarks") for step in steps):
        raise RecipeError(
            "[benchmarks] serves the filter contaminated and the selector decontaminate, and the recipe has neither; take it out, "
            "or add [[select]] with use = 'decontaminate'"
        )


def _check_capabilities(plan: Plan) -> None:
    """Refuse what a backend cannot do while it costs nothing."""
    for plugin in (plan.method, *plan.scores):
        for role, capabilities in plugin.needs().items():
            if role not in plan.roles:
                raise RecipeError(f"{plugin.name} needs a model for the role {role!r}; add [models.{role}]")
            for capability in capabilities:
                if capability not in plan.roles[role].backend.capabilities:
                    kind = (plan.recipe.engines.get(role) or plan.recipe.engines.get("solver", EngineTable())).kind
                    raise RecipeError(
                        f"{plugin.name} needs {capability!r} of the role {role!r}, and an engine of kind {kind!r} as it is set "
                        f"up cannot do it; it can: {', '.join(sorted(plan.roles[role].backend.capabilities))}"
                    )


def _check_tokenizers(plan: Plan) -> None:
    """Roles between which a plug-in hands on token ids have one tokenizer."""
    for plugin in (plan.method, *plan.scores):
        roles: tuple[str, ...] = plugin.about("ONE_TOKENIZER", ())
        for other in roles[1:]:
            check_one_tokenizer(plugin.name, plan.roles[roles[0]], plan.roles[other])


def _check_tools(plan: Plan) -> None:
    """Refuse tools that no prompt would show."""
    solver = plan.roles.get("solver")
    if solver is None or solver.send == "chat":
        return
    for index, source in enumerate(plan.recipe.source):
        if source.tools is not None and (solver.renderer is None or "tools" not in solver.renderer.reads):
            of = f"the chat template of {solver.renderer.name}" if solver.renderer else "the plain layout"
            raise RecipeError(
                f"source.{index}.tools: {of} shows no tools, so the model would never see them; name a template that does "
                "(models.solver.template), or take `tools` out"
            )


def _check_budget(plan: Plan) -> None:
    """A budget cuts a prefix of finished problems, and with weights loaded in turns none is finished before the last turn."""
    limits = plan.recipe.budget.model_dump(exclude_none=True)
    if limits and any(role.passes() for role in plan.roles.values()):
        raise RecipeError(
            f"budget.{min(limits)}: merged weights are loaded one after another, and no problem is done before the last are; "
            "take [budget] out and bound the build by source.limit"
        )


def _check_tables(plan: Plan) -> None:
    """A method's own tables have names of their own: known before anything is drawn for them."""
    if clash := COMMON & plan.own_tables.keys():
        raise RecipeError(
            f"{plan.method.name} declares a table {min(clash)!r}, which every version has; give it another name"
        )


def _check_views(plan: Plan) -> None:
    """A format of one method's own cannot be written of another's traces: known before they are drawn."""
    for name in plan.views:
        if name not in MADE_OF:
            continue
        method, sign = MADE_OF[name]
        if sign not in plan.columns.names and sign not in plan.own_tables:
            raise RecipeError(
                f"views.{name} needs traces of the method {method}, not of {plan.method.name}; take it out of [views]"
            )
        if name == "mixchain-wide" and not plan.folds:
            raise RecipeError(f'views.{name} needs synth.layout = "wide"; set that, or take it out of [views]')


def _check_shared(column: "pa.Field[Any]", maker: Plugin, before: Plugin, known: "pa.Field[Any]") -> None:
    """Two plug-ins of one file share its COLUMNS; any others that declare the same column get in each other's way."""
    if known.type == column.type and maker.module.__name__ == before.module.__name__ and maker.name != before.name:
        return
    types = f"both as {known.type}" if known.type == column.type else f"as {known.type} and as {column.type}"
    raise RecipeError(
        f"{before.name} and {maker.name} declare the same column {column.name!r}, {types}, and a trace has it once; take one of "
        "them out, or give its columns another name: with its option `name` where it has one, in COLUMNS where it is yours"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")
