"""The engine host: a child process of a build that runs vLLM and answers the frames of wire.py.

    python -m tracemill.synth.backends.vllm.host <socket fd> <pid of the build> <runtime folder>

It leads a session of its own, so that Ctrl-C at the terminal does not reach the engine while the build drains, and it
outlives the build by a quarter of a second at most: then it kills its session, EngineCore included.
"""

import asyncio
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from tracemill.synth.backends.vllm import engine as vllm_engine
from tracemill.synth.backends.vllm.guard import follow, leave
from tracemill.synth.backends.vllm.wire import (
    Abort,
    Ask,
    Beat,
    Dead,
    Frames,
    FromHost,
    Hiccup,
    Ready,
    Refusal,
    Setup,
    Stop,
    ToHost,
    Unfit,
    read_one,
)


def main() -> None:
    """Start as the module's docstring says."""
    fd, owner, runtime = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    os.set_inheritable(fd, False)  # an engine that held it would hide from the build that this process died
    threading.Thread(target=follow, args=(owner, runtime), daemon=True).start()
    sock = socket.socket(fileno=fd)
    try:
        setup = read_one(sock, Setup)
    except EOFError:
        return
    if not asyncio.run(_serve(sock, setup)):
        leave(runtime)


async def _serve(sock: socket.socket, setup: Setup) -> bool:
    """Whether the build said goodbye; it has ended without a word where not."""
    frames: asyncio.Queue[ToHost | None] = asyncio.Queue()
    wire = Frames(ToHost, frames.put_nowait, lambda: frames.put_nowait(None))
    await wire.attach(sock)
    try:
        engine, progress = vllm_engine.build(setup.args, len(setup.loras))
        loras = await vllm_engine.load(engine, setup.loras)
        await vllm_engine.warm_up(engine, progress, loras)
        ready = Ready(vllm_engine.facts(engine), engine.vllm_config.scheduler_config.max_num_seqs)
    except vllm_engine.BadArguments as error:
        wire.send(Unfit(str(error), said=True))
        wire.close()
        return True
    except Exception as error:  # noqa: BLE001 - whatever it was, the build has to say it
        wire.send(Unfit(f"{type(error).__name__}: {error}"))
        wire.close()
        return True
    wire.send(ready)
    host = Host(engine, wire, loras)
    beats = asyncio.create_task(host.beat(progress))
    while not isinstance(frame := await frames.get(), Stop | None):
        host.take(frame)
    beats.cancel()
    if frame is not None:
        engine.shutdown()
        wire.close()
    return frame is not None


class Host:
    """Requests in, answers out, a task each."""

    def __init__(self, engine: Any, wire: Frames, loras: "vllm_engine.Loras") -> None:
        self._engine, self._wire = engine, wire
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._requests = vllm_engine.Requests(engine, loras)

    def take(self, frame: ToHost) -> None:
        if isinstance(frame, Ask):
            task = self._tasks[frame.id] = asyncio.create_task(self._answer(frame))
            task.add_done_callback(lambda _: self._tasks.pop(frame.id, None))
        elif isinstance(frame, Abort) and (waiting := self._tasks.get(frame.id)):
            waiting.cancel()

    async def beat(self, progress: "vllm_engine.Progress") -> None:
        while True:
            self._wire.send(Beat(progress.mark))
            if self._engine.errored:
                self._wire.send(Dead("EngineCore died"))
            await asyncio.sleep(1)

    async def _answer(self, ask: Ask) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        frame: FromHost
        try:
            frame = await self._requests.scores(ask) if ask.score else await self._requests.answer(ask)
        except EngineDeadError:
            frame = Dead("EngineCore died")
        except self._requests.refusals as error:
            frame = Refusal(ask.id, str(error))
        except Exception as error:  # noqa: BLE001 - one request failed; the engine lives, and the build decides
            frame = Hiccup(ask.id, f"{type(error).__name__}: {error.__cause__ or error}")
        self._wire.send(frame)


if __name__ == "__main__":
    main()
