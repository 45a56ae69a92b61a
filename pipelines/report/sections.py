"""From the facts of a version to the sections of its page; a section for which there is nothing is not there."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tracemill.pipelines.cards.summaries import shown_summary
from tracemill.pipelines.report.blocks import (
    Block,
    Figure,
    Numbers,
    Section,
    Steps,
    Text,
    Tiles,
    cell,
    share,
    table,
    tokens,
)
from tracemill.pipelines.report.charts import Bars, Boxes, Shares
from tracemill.pipelines.report.facts import VERDICTS, Counts, Facts, Group, Histogram, Lengths, Passed
from tracemill.pipelines.report.funnel import Funnel
from tracemill.pipelines.report.methods import method_blocks
from tracemill.pipelines.versions.lineage import shown_accuracy


def sections_of(facts: Facts, extra: Sequence[Section] = ()) -> list[Section]:
    """The page from top to bottom. `extra` are sections that are not made of facts alone; they come behind what the method says."""
    made = [
        Section("glance", "At a glance", [_tiles(facts), *_partial(facts)]),
        Section("funnel", "From problems to rows", [*_faults(facts.funnel), Steps(facts.funnel, facts.ref)], _FUNNEL),
        Section("lengths", "Lengths", list(_lengths(facts))),
        Section("accuracy", "How often it is right", list(_accuracy(facts))),
        Section("method", "What the method says", list(_method(facts))),
        *extra,
        Section("budget", "Tokens, and what a trainer cuts off", list(_budget(facts))),
        Section("forecast", "Forecast and outcome", list(_forecast(facts))),
        Section("origin", "Where it comes from", list(_origin(facts))),
    ]
    return [section for section in made if section.blocks]


_FUNNEL = (
    "Nothing leaves without a reason: at each level, what was kept back opens into its reasons, and a reason into rows that it "
    "befell, with the evidence."
)


# ---- first of all


def _tiles(facts: Facts) -> Tiles:
    manifest = facts.manifest
    rows, problems = manifest["tables"]["rows"]["rows"], manifest.get("problems", {})
    tiles = [
        ("rows", f"{rows:,}", "chosen for training"),
        ("problems", f"{sum(problems.values()):,}", f"{problems.get('chosen', 0):,} of them gave a row"),
    ]
    if facts.passed:
        first = facts.passed[0]
        open_ = f", {first.undecided:,} undecided" if first.undecided else ""
        right = share(first.right, first.samples)
        tiles.append(("samples right", right, f"of {first.samples:,} by {first.role}{open_}"))
    if facts.lengths is not None:
        tiles.append(("tokens", tokens(facts.lengths.total), f"median {facts.lengths.median:,} a trace"))
    licences = sorted({str(source.get("licence", "unknown")) for source in manifest.get("sources", ())})
    if licences:
        tiles.append(("licence", ", ".join(licences), "as the recipe states it"))
    if level := manifest.get("determinism"):
        tiles.append(("repeatable", level["level"], "determinism level"))
    return Tiles(tuple(tiles))


def _partial(facts: Facts) -> Iterator[Block]:
    if not facts.manifest["complete"]:
        why = facts.manifest.get("why_partial", "the build was stopped")
        yield Text("partial", f"This version is partial: {why}. Problems are missing; what is here is whole.")


def _faults(funnel: Funnel) -> Iterator[Block]:
    for place, fault in enumerate(funnel.faults):
        yield Text(
            f"fault{place}", f"The counts do not add up: {fault}. `tracemill fsck` says whether the version is whole."
        )


def funnel_chart(facts: Facts) -> Bars | None:
    """The levels as bars, the stages between traces and chosen traces each with what it let through."""
    labels, counts = [], []
    for level in facts.funnel.levels:
        labels.append(level.name.partition(",")[0])
        counts.append(level.count)
        left = level.count
        for drop in level.drops[:-1] if level.unit == "trace" else ():
            left -= drop.count
            labels.append(f"after {drop.stage.rpartition(':')[2]}")
            counts.append(left)
    if not any(counts):
        return None
    told = "; ".join(f"{label}: {count:,}" for label, count in zip(labels, counts, strict=True))
    return Bars(
        name="funnel",
        title="From problems to rows",
        said=f"Bars that grow shorter. {told}.",
        x="",
        y="rows, problems, traces",
        labels=tuple(labels),
        series=(("", tuple(counts)),),
        across=True,
    )


# ---- lengths


def _lengths(facts: Facts) -> Iterator[Block]:
    if facts.lengths is None:
        yield Text("none", "No trace has a number of tokens.")
        return
    counted = " and ".join(facts.lengths.tokenizers) or "nobody known"
    yield Figure(lengths_chart(facts), f"Counted by: {counted}.")
    if facts.samples is not None:
        what = "Everything that was drawn, right or wrong, whatever became of it."
        yield Figure(_histogram("samples", "Tokens of all samples", "samples", facts.samples), what)
    if facts.levels:
        yield Figure(
            Boxes(
                name="alphas",
                title="Tokens of the chosen chains by alpha",
                said=f"A box for each of {len(facts.levels)} alphas, from the 25th to the 75th percentile, with whiskers to the 5th and 95th.",
                x="alpha",
                y="tokens",
                labels=tuple(level.name for level in facts.levels),
                boxes=tuple((level.p5, level.p25, level.median, level.p75, level.p95) for level in facts.levels),
            ),
            "Box: the middle half; bar: the median; whiskers: 5 to 95 %.",
        )


def lengths_chart(facts: Facts) -> Bars:
    """The histogram of the chosen traces; call it where there are lengths."""
    assert facts.lengths is not None  # noqa: S101 - a mistake of the caller
    return _histogram("lengths", "Tokens of the chosen traces", "traces", facts.lengths.histogram)


def _histogram(name: str, title: str, unit: str, found: Histogram) -> Bars:
    total = sum(map(sum, found.bins))
    fullest = max(range(len(found.bins)), key=lambda place: sum(found.bins[place]))
    said = (
        f"A histogram of {total:,} {unit}, {found.width:,} tokens a bar. The fullest bar begins at {fullest * found.width:,} tokens and has "
        f"{sum(found.bins[fullest]):,}; the longest has {found.most:,} tokens."
    )
    return Bars(
        name=name,
        title=title,
        said=said,
        x="tokens",
        y=unit,
        labels=tuple(f"{place * found.width:,}" for place in range(len(found.bins))),
        edges=tuple(_short(place * found.width) for place in range(len(found.bins))),
        series=_by_verdict(found.bins),
    )


def _short(number: int) -> str:
    return f"{number / 1000:g}k" if number >= 1000 else str(number)


def _by_verdict(bins: tuple[Counts, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Those verdicts that occur; the first where none does."""
    series = [(name, tuple(counts[place] for counts in bins)) for place, name in enumerate(VERDICTS)]
    return tuple(one for one in series if any(one[1])) or (series[0],)


# ---- right and wrong


def _accuracy(facts: Facts) -> Iterator[Block]:
    if chart := accuracy_chart(facts):
        yield Figure(chart, "95 % intervals over problems; undecided verdicts count as samples and never as right.")
    for part in facts.passed[:3]:
        yield Figure(
            _passed(part),
            f"{part.undecided:,} of {part.samples:,} samples are undecided, and count as not right here."
            if part.undecided
            else "",
        )
    if facts.difficulty is not None:
        found = facts.difficulty
        yield Figure(
            Bars(
                name="difficulty",
                title="Problems by difficulty",
                said=f"{len(found.labels)} bars of problems, one for each difficulty that the source names, divided by what became of them.",
                x="difficulty",
                y="problems",
                labels=found.labels,
                series=tuple((name.replace("_", " "), counts) for name, counts in found.outcomes),
            )
        )
    if lines := facts.manifest.get("accuracy"):
        shown = shown_accuracy(lines)
        yield Numbers("passes", "pass@k and maj@k", table(list(shown[0]), [list(line.values()) for line in shown]))


def accuracy_chart(facts: Facts) -> Shares | None:
    """Accuracy by difficulty, where the manifest has it for two or more."""
    lines = [
        line for line in facts.manifest.get("accuracy", ()) if line.get("accuracy") and line["difficulty"] != "all"
    ]
    if len(lines) < 2:
        return None
    shares = tuple((line["accuracy"]["mean"], line["accuracy"]["low"], line["accuracy"]["high"]) for line in lines)
    labels = tuple("none given" if line["difficulty"] is None else str(line["difficulty"]) for line in lines)
    told = "; ".join(f"{label}: {mean:.0%}" for label, (mean, _, _) in zip(labels, shares, strict=True))
    return Shares(
        name="accuracy",
        title="Right answers by difficulty",
        said=f"A point with its interval for each difficulty. {told}.",
        x="difficulty",
        y="right",
        labels=labels,
        shares=shares,
        sizes=tuple(f"{line['problems']:,} problems, {line['draws']:,} draws" for line in lines),
    )


def _passed(part: Passed) -> Bars:
    never, always = part.problems[0], part.problems[-1]
    return Bars(
        name=f"passed-{part.role}",
        title=f"How often a problem was solved ({part.role})",
        said=f"Problems by the share of their samples that is right: {never:,} have none, {always:,} have only right ones, of {sum(part.problems):,}.",
        x="right samples of a problem" if "/" in part.labels[0] else "right samples of a problem, %",
        y="problems",
        labels=part.labels,
        series=(("", part.problems),),
    )


# ---- the method, tokens, forecast, origin


def _method(facts: Facts) -> Iterator[Block]:
    if (summary := facts.manifest.get("summary")) and summary["rows"]:
        yield from method_blocks(summary)
        shown = shown_summary(summary)
        yield Numbers(
            "summary",
            summary["title"],
            table(list(shown[0]), [list(row.values()) for row in shown]),
            summary.get("note", ""),
        )


def _budget(facts: Facts) -> Iterator[Block]:
    if facts.lengths is not None:
        yield from _windows(facts.lengths)
    roles = facts.manifest.get("roles", ())
    if roles:
        of_roles = ("role", "samples", "right", "undecided", "cut off at the limit", "thought never closed")
        names = ("role", "total", "correct", "undecided", "truncated", "unclosed")
        yield Numbers("roles", "Samples", table(of_roles, [[role[name] for name in names] for role in roles]))
    if facts.lengths is not None and len(facts.sources) > 1:
        yield _by_source(facts.sources, facts.lengths.total)


def _windows(found: Lengths) -> Iterator[Block]:
    """What fits into a trainer's context windows, as a picture and in numbers."""
    said = "; ".join(
        f"at {w.tokens:,}: {share(w.tokens_cut, found.total) or '0 %'} of the tokens" for w in found.windows
    )
    yield Figure(
        Bars(
            name="windows",
            title="Tokens that fit into a context window",
            said=f"A bar for each window, divided into tokens kept and tokens cut off. Cut off {said}.",
            x="window, tokens",
            y="tokens",
            labels=tuple(f"{w.tokens:,}" for w in found.windows),
            series=(
                ("kept", tuple(found.total - w.tokens_cut for w in found.windows)),
                ("cut off", tuple(w.tokens_cut for w in found.windows)),
            ),
        ),
        "Of the chosen traces, prompts not included.",
    )
    rows = [
        (f"{w.tokens:,}", w.rows_over, share(w.rows_over, found.rows), w.tokens_cut, share(w.tokens_cut, found.total))
        for w in found.windows
    ]
    yield Numbers(
        "truncation",
        "Truncation",
        table(("window", "traces longer", "share", "tokens cut off", "share of tokens"), rows),
        f"{found.rows:,} traces, {found.total:,} tokens, mean {found.mean:,.0f}, 95 % below {found.p95:,}.",
    )


def _by_source(shown: Sequence[Group], total: int) -> Figure:
    return Figure(
        Bars(
            name="by-source",
            title="Tokens by source",
            said=f"{len(shown)} bars; the largest source, {shown[0].name}, has {share(shown[0].tokens, total)} of the tokens.",
            x="source",
            y="tokens",
            labels=tuple(group.name or "unknown" for group in shown),
            series=(("", tuple(group.tokens for group in shown)),),
            across=True,
        )
    )


def _forecast(facts: Facts) -> Iterator[Block]:
    """What `tracemill preview` foresaw for this very recipe, beside what came; nothing is said of a version that samples nothing."""
    manifest = facts.manifest
    if "forecast" not in manifest:
        if manifest.get("tokens", {}).get("new") or manifest.get("tokens", {}).get("replayed"):
            yield Text(
                "none",
                "Nothing was forecast. Preview a recipe before it is built, and its forecast is kept with the version:",
                "tracemill preview RECIPE",
            )
        return
    drawn = manifest["tokens"]["new"] + manifest["tokens"]["replayed"]
    rate = manifest.get("rate")
    actual: Mapping[str, Any] = {
        "problems": sum(manifest.get("problems", {}).values()),
        "tokens": drawn,
        "accepted rows": next((c["rows"] for c in manifest.get("counts", ()) if c["stage"] == "chosen"), None),
        "seconds": rate["seconds"] if rate else None,
    }
    rows = [
        (
            line["what"],
            *(_rounded(line[end]) for end in ("low", "expected", "high")),
            _rounded(actual[line["what"]]),
            _verdict(line, actual[line["what"]]),
        )
        for line in manifest["forecast"]["lines"]
        if line["what"] in actual
    ]
    note = f"From {manifest['forecast']['probed']:,} problems that were sampled first; seconds are those of the last run, which sampled what was not known yet."
    yield Numbers(
        "forecast", "Forecast by preview, and what came", table(("", "low", "expected", "high", "came", ""), rows), note
    )


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _verdict(line: Mapping[str, Any], value: float | None) -> str:
    """Whether it came as it was foreseen; ends are rounded outwards."""
    if value is None or line["low"] is None or line["high"] is None:
        return ""
    return "below" if value < math.floor(line["low"]) else "above" if value > math.ceil(line["high"]) else "within"


def _origin(facts: Facts) -> Iterator[Block]:
    manifest = facts.manifest
    sources = manifest.get("sources", ())
    if sources:
        head = ("source", "licence", "problems", "sha256")
        rows = [(s["name"], s.get("licence", "unknown"), s.get("rows"), s.get("sha256", "")[:12]) for s in sources]
        yield Numbers(
            "sources", "Sources", table(head, rows), "Licences are what the recipe states; nobody checked them."
        )
    models = [
        (role, m.get("name"), m.get("revision") or "unknown", cell(bool(m.get("verified"))))
        for role, m in manifest.get("models", {}).items()
    ]
    if models:
        yield Numbers("models", "Models", table(("role", "model", "revision", "verified"), models))
    if level := manifest.get("determinism"):
        yield Text("promise", f"Determinism {level['level']}: {level['promise']}")
    yield Text(
        "again",
        f"Made {manifest['created'][:19]} UTC by tracemill {manifest.get('tracemill')}. The whole recipe stands in recipe.toml of the version.",
    )
