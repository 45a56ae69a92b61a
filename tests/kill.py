"""Builds that are killed with SIGKILL again and again: the harness behind tests/test_kill.py and tests/bench/kill.py.

run 1 ──kill after N samples──▶ run 2 ──kill──▶ ... ──▶ a last run to the end, compared with a run that nobody disturbed
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracemill.synth.journal import Journal

MARK = "TRACEMILL_TEST_MARK"


@dataclass
class Ordeal:
    """One store, one recipe, many lives."""

    recipe: Path
    store: Path
    asked: Path | None = None
    """Where the scripted model writes the keys it is asked, a line each."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    kills: int = 0
    options: tuple[str, ...] = ()
    """Further options of the command."""

    def finish(self, store: Path | None = None) -> Mapping[str, Any]:
        """Run to the end; the JSON summary."""
        done = subprocess.run(self._command(store), env=self._env(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def live_until(self, enough: Callable[[], bool], *, timeout: float = 300) -> bool:
        """Run until `enough`, then kill; False where the build ended by itself before that."""
        before = self.journaled()
        asked_before = len(self.keys_asked())
        with subprocess.Popen(
            self._command(), env=self._env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as build:
            end = time.monotonic() + timeout
            while build.poll() is None and not enough():
                assert time.monotonic() < end, "the build neither ended nor got where it was to be killed"
                time.sleep(0.002)
            alive = build.poll() is None
            build.send_signal(signal.SIGKILL)
        self.kills += alive
        again = before & set(self.keys_asked()[asked_before:])
        assert not again, f"{len(again)} samples that were in the journal were asked for again"
        return alive

    def journaled(self) -> set[str]:
        """The keys of all completions that have been asked and are in the journal."""
        folder = self.store / ".journal"
        if self.asked is None or not folder.is_dir():
            return set()
        with Journal(folder) as journal:
            return {key for key, _ in journal.read(set(self.keys_asked()))}

    def keys_asked(self) -> list[str]:
        if self.asked is None or not self.asked.exists():
            return []
        text = self.asked.read_text()
        return text[: text.rfind("\n") + 1].split()

    def journal_entries(self) -> int:
        """How much the journal holds, without disturbing who writes to it."""
        folder = self.store / ".journal"
        if not folder.is_dir():
            return 0
        with Journal(folder) as journal:
            return len(journal)

    def left_behind(self, *, patience: float = 20.0) -> list[int]:
        """Processes that a killed build started and that are still there after a while."""
        end = time.monotonic() + patience
        while (found := self._marked()) and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def _marked(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                if alive and f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended while we looked
        return found

    def _command(self, store: Path | None = None) -> list[str]:
        place = str(store or self.store)
        return [
            sys.executable,
            "-m",
            "tracemill.pipelines.cli",
            "build",
            str(self.recipe),
            "--store",
            place,
            "--json",
            *self.options,
        ]

    def _env(self) -> dict[str, str]:
        return {**os.environ, MARK: self.mark, "PYTHONWARNINGS": "default"}


def lives(seed: int, total: int, kills: int) -> list[int]:
    """At how many samples each life ends: random instants, the same in every run of the test."""
    return sorted(random.Random(seed).sample(range(1, total), kills))
