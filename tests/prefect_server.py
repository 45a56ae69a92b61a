"""A real Prefect server and a real worker, in processes and folders of their own, for as long as a `with` lasts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")
PATIENCE = 240.0
"""Seconds; a run of a flow takes 10 to 20 where nothing else runs, nearly all of it imports."""
MARK = "TRACEMILL_TEST_MARK"
SILENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "NO_COLOR": "1",
    "TERM": "dumb",
}
"""Nothing is sent anywhere."""
QUICK = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
}
"""On a machine that is busy with other tests SQLite is soon locked, so its lock is waited for."""


class Prefect:
    """Nothing of it touches the home of whoever runs the tests, and nothing of it is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.mark = uuid.uuid4().hex
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "TRACEMILL"))}
        self.environment = {
            **inherited,
            **SILENT,
            **QUICK,
            "HOME": str(folder),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_LOCAL_STORAGE_PATH": str(folder / "storage"),
            "PREFECT_SERVER_MEMO_STORE_PATH": str(folder / "memo.toml"),
            "PREFECT_API_URL": self.url,
            MARK: self.mark,
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self._start("server", "server", "start", "--no-ui", "--port", str(self.port))
        self.until(self.health)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in reversed(list(self._running)):
            self.stop(name, signal.SIGTERM)
        left = self.left()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == [], f"processes were left: {left}"

    def start_worker(self, pool: str = "tracemill") -> None:
        """Start it in an empty folder, as a service would be."""
        self._start("worker", "worker", "start", "--pool", pool)

    def stop(self, name: str, number: signal.Signals) -> None:
        """End a process by a signal, and with SIGKILL what it does not end by itself."""
        process = self._running.pop(name)
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")

    def run(self, *command: str, code: int = 0) -> str:
        """Run a Python program as somebody who uses this server; what it says."""
        done = subprocess.run(
            [sys.executable, *command],
            env=self.environment, cwd=self._empty(), text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == code, done.stdout
        return done.stdout

    def begin(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        """The same, not waited for."""
        return self._popen(name, [sys.executable, *command])

    def tracemill(self, *arguments: str, code: int = 0) -> str:
        return self.run("-m", "tracemill.pipelines.cli", *arguments, code=code)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request to the server's API, again where its database was locked or nothing came."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"}, method=method)
        for last in (False, False, True):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or b"null")
            except (urllib.error.HTTPError, TimeoutError) as error:
                if last or (isinstance(error, urllib.error.HTTPError) and error.code != 503):
                    raise
                time.sleep(1)
        raise AssertionError

    def health(self) -> bool:
        try:
            return bool(self.ask("GET", "/health"))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment, oldest first."""
        asked = {"deployments": {"name": {"any_": [deployment]}}, "sort": "START_TIME_ASC"}
        return list(self.ask("POST", "/flow_runs/filter", asked))

    def run_of(self, flow_run: str) -> dict[str, Any]:
        return dict(self.ask("GET", f"/flow_runs/{flow_run}"))

    def begin_run(self, deployment: str, **parameters: Any) -> str:
        """Let the worker run a deployment, `FLOW/NAME`, with other parameters; the id of the run."""
        found = self.ask("GET", f"/deployments/name/{deployment}")
        made = self.ask("POST", f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def cancel(self, flow_run: str) -> None:
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.ask("POST", f"/flow_runs/{flow_run}/set_state", {"state": state})

    def ended(self, flow_run: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """The state that a run ends in."""
        final = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
        self.until(lambda: self.run_of(flow_run)["state_type"] in final, seconds)
        return dict(self.run_of(flow_run)["state"])

    def artifact(self, key: str) -> dict[str, Any] | None:
        """The newest artifact of a key."""
        found = self.ask("POST", "/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"})
        return found[0] if found else None

    def lines(self, flow_run: str) -> str:
        """The log of a run, as the server has it."""
        asked = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC"}
        return "\n".join(line["message"] for line in self.ask("POST", "/logs/filter", asked))

    def until(self, holds: Callable[[], T], seconds: float = PATIENCE) -> T:
        """Wait until something holds, and give it back."""
        end = time.monotonic() + seconds
        while not (found := holds()):
            for name, process in self._running.items():
                assert process.poll() is None, f"{name} ended:\n{self.log(name)}"
            assert time.monotonic() < end, "".join(f"\n== {name}\n{self.log(name)[-3000:]}" for name in self._running)
            time.sleep(0.5)
        return found

    def left(self, *, patience: float = 15) -> list[int]:
        """Processes that were started here, by whomever, and are there still."""
        end = time.monotonic() + patience
        while (found := list(self._marked())) and time.monotonic() < end:
            time.sleep(0.2)
        return found

    def _marked(self) -> Sequence[int]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if not entry.name.isdigit() or f"{MARK}={self.mark}".encode() not in (entry / "environ").read_bytes():
                    continue
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended while we looked, or is not ours
        return found

    def _start(self, name: str, *arguments: str) -> None:
        self._running[name] = self._popen(name, [sys.executable, "-m", "prefect", *arguments])

    def _popen(self, name: str, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(command, env=self.environment, cwd=self._empty(), stdout=log, stderr=log)

    def _empty(self) -> Path:
        (folder := self.folder / "empty").mkdir(exist_ok=True)
        return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
