"""What a person at the terminal sees of a build, and what `tracemill status` reads: nothing here decides anything."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from tracemill.pipelines.build import Built
    from tracemill.pipelines.running.tally import Tally


class Report:
    """Says nothing; the base of those that do."""

    every: float = 1.0
    """Seconds between two updates."""

    def step(self, name: str) -> None:
        """The build enters a step that may take a while."""

    def update(self, tally: Tally) -> None:
        """How far the synthesis is."""

    def done(self, built: Built) -> None:
        """The version stands."""

    def close(self) -> None:
        """The build is over, however it ended."""


class Several(Report):
    """Tells each of several reports."""

    def __init__(self, reports: Sequence[Report]) -> None:
        self._reports = reports
        self.every = min((report.every for report in reports), default=1.0)

    def step(self, name: str) -> None:
        for report in self._reports:
            report.step(name)

    def update(self, tally: Tally) -> None:
        for report in self._reports:
            report.update(tally)

    def done(self, built: Built) -> None:
        for report in self._reports:
            report.done(built)

    def close(self) -> None:
        for report in self._reports:
            report.close()


class ProgressFile(Report):
    """Keeps `progress.json` in the work folder: always whole, because it is replaced and never written in place."""

    def __init__(self, work: Path) -> None:
        self._file = work / "progress.json"
        self._facts: dict[str, Any] = {"pid": os.getpid(), "started": _now(), "step": "starting"}

    def step(self, name: str) -> None:
        self._write(step=name)

    def update(self, tally: Tally) -> None:
        self._write(step="sampling", **snapshot(tally))

    def done(self, built: Built) -> None:
        self._write(step="done", version=built.dataset.version, complete=built.why_partial is None)

    def _write(self, **facts: Any) -> None:
        self._facts.update(facts, updated=_now())
        draft = self._file.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(self._facts) + "\n", encoding="utf-8")
        draft.replace(self._file)


class Lines(Report):
    """Plain lines, for a log file or a pipe: one every ten seconds and one a step."""

    def __init__(self, stream: TextIO, *, between: float = 10.0) -> None:
        self._stream, self._between = stream, between
        self._last, self._whole = 0.0, False

    def step(self, name: str) -> None:
        self.say(name)

    def update(self, tally: Tally) -> None:
        whole = tally.done == tally.total
        if time.monotonic() - self._last >= self._between or (whole and not self._whole):
            self._last, self._whole = time.monotonic(), whole
            self.say(line(tally))
            for note in tally.notes:
                self.say(note)

    def say(self, text: str) -> None:
        """Write one line."""
        self._stream.write(f"{datetime.now():%H:%M:%S} {text}\n")  # noqa: DTZ005 - the reader's own clock
        self._stream.flush()


class Panel(Report):
    """One live panel that is redrawn in place."""

    every = 0.5

    def __init__(self, console: Console, name: str) -> None:
        from rich.live import Live

        self._name = name
        self._step = "starting"
        self._live = Live(console=console, refresh_per_second=2, transient=True)
        self._live.start()

    def step(self, name: str) -> None:
        self._step = name
        self._live.update(self._drawn(None))

    def update(self, tally: Tally) -> None:
        self._step = "sampling"
        self._live.update(self._drawn(tally))

    def close(self) -> None:
        self._live.stop()

    def _drawn(self, tally: Tally | None) -> RenderableType:
        from rich.panel import Panel as Box
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        if tally is None:
            grid.add_row(self._step)
            return Box(grid, title=self._name, title_align="left")
        shot = snapshot(tally)
        grid.add_row(
            "problems", f"{tally.done:,} of {tally.total:,}", ProgressBar(max(1, tally.total), tally.done, width=30)
        )
        grid.add_row("samples", f"{shot['samples_new']:,} new", f"{shot['samples_replayed']:,} replayed")
        grid.add_row("tokens", f"{shot['tokens_new']:,} new", f"{shot['tokens_per_second']:,.0f} a second")
        grid.add_row("left", span(shot["eta_seconds"]), _clock(shot["eta_seconds"]))
        if shot["truncated"]:
            grid.add_row("truncated", f"{shot['truncated']:,} new", "ran into max_tokens")
        for reason, count in tally.reasons.most_common(5):
            grid.add_row("not right" if reason in ("wrong", "undecided") else "turned down", f"{count:,}", reason)
        for note in (*tally.notes, *([f"stopping: {tally.stopped}"] if tally.stopped else [])):
            grid.add_row("note", "", note)
        return Box(grid, title=f"{self._name}: {self._step}", title_align="left")


def snapshot(tally: Tally) -> dict[str, Any]:
    """The numbers of a run at this moment."""
    elapsed = max(1e-9, time.monotonic() - tally.started)
    fresh = tally.done - tally.reused
    left = tally.total - tally.done
    return {
        "problems": tally.total,
        "done": tally.done,
        "failed": tally.failed,
        "traces": tally.rows,
        "samples_new": tally.meter.samples_new,
        "samples_replayed": max(0, tally.meter.samples_replayed),  # below 0 while a pass replays what the last one drew
        "truncated": tally.meter.truncated,
        "tokens_new": tally.meter.tokens_new,
        "tokens_per_second": tally.meter.tokens_new / elapsed,
        "elapsed_seconds": elapsed,
        "eta_seconds": left * elapsed / fresh if fresh else None,
        "reasons": dict(tally.reasons.most_common(20)),
        "longest_open": [[problem_id, round(seconds, 1)] for problem_id, seconds in tally.longest()],
        "stopped": tally.stopped,
        "shards": tally.shards,
    }


def line(tally: Tally) -> str:
    """One line that says how far a run is."""
    shot = snapshot(tally)
    reasons = ", ".join(f"{reason[:60]} {count:,}" for reason, count in tally.reasons.most_common(4))
    cut = f"{shot['truncated']:,} truncated, " if shot["truncated"] else ""
    return (
        f"{tally.done:,}/{tally.total:,} problems, samples {shot['samples_new']:,} new {shot['samples_replayed']:,} replayed, {cut}"
        f"{shot['tokens_per_second']:,.0f} tok/s, left {span(shot['eta_seconds'])}{f', {reasons}' if reasons else ''}"
    )


def span(seconds: float | None) -> str:
    """A duration as people say it: 1d 4h, 2h 5m, 3m 20s."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part}{smaller}"
    return f"{whole}s"


def _clock(seconds: float | None) -> str:
    """When it will be finished, by the reader's clock."""
    if seconds is None:
        return ""
    end = datetime.now() + timedelta(seconds=seconds)  # noqa: DTZ005 - the reader's own clock
    return f"done {end:%H:%M}" if seconds < 72000 else f"done {end:%a %d %b %H:%M}"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
