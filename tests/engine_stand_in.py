"""Stands in for the engine host: the same frames, session and watch over the build, and no vLLM.

    python engine_stand_in.py <socket fd> <pid of the build> <runtime folder>

What a prompt says is done: `die`, `die once <file>`, `hang once <file>` (beats without progress), `stop once <file>`
(SIGSTOP), `last <seconds>` (with progress), `forever`, `refuse`, `hiccup <times>`, `aborted?`. Everything else is answered
with the prompt, the prefix and the seed. `[engine.args]` may hold `unfit`, `crash`, `deaf` or `child`.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path

from tracemill.synth.backends.vllm.guard import follow, leave
from tracemill.synth.backends.vllm.wire import (
    Abort,
    Answer,
    Ask,
    Beat,
    Frames,
    Hiccup,
    Ready,
    Refusal,
    Scores,
    Setup,
    Stop,
    ToHost,
    Unfit,
    read_one,
)


class StandIn:
    def __init__(self) -> None:
        self.frames: asyncio.Queue[ToHost | None] = asyncio.Queue()
        self.wire = Frames(ToHost, self.frames.put_nowait, lambda: self.frames.put_nowait(None))
        self.mark = 0
        self.hung = False
        self.aborted: list[int] = []
        self.hiccups: dict[str, int] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self, sock: socket.socket, setup: Setup) -> bool:
        await self.wire.attach(sock)
        if "unfit" in setup.args:
            print("ValueError: the root of it all", flush=True)
            self.wire.send(Unfit(setup.args["unfit"]))
            self.wire.close()
            return True
        self.wire.send(Ready({"engine": "stand-in"}, seats=8))
        beats = asyncio.create_task(self.beat())
        while not isinstance(frame := await self.frames.get(), Stop | None):
            if isinstance(frame, Ask):
                self.tasks[frame.id] = asyncio.create_task(self.answer(frame))
            elif isinstance(frame, Abort):
                self.aborted.append(frame.id)
                self.tasks[frame.id].cancel()
        beats.cancel()
        if frame is not None:
            await asyncio.sleep(0.3)  # as long as an engine needs
            print("goodbye", flush=True)
        self.wire.close()
        return frame is not None

    async def beat(self) -> None:
        while True:
            self.wire.send(Beat(self.mark))
            await asyncio.sleep(0.05)

    async def answer(self, ask: Ask) -> None:
        word, rest = self.order(ask)
        if word == "refuse":
            self.wire.send(Refusal(ask.id, "it is too long"))
        elif word == "hiccup" and self.hiccups.setdefault(rest, int(rest)):
            self.hiccups[rest] -= 1
            self.wire.send(Hiccup(ask.id, "RuntimeError: once more"))
        else:
            await self.misbehave(word, rest)
            await asyncio.sleep(0.01 if ask.id % 2 else 0.03)
            if not self.hung:
                self.reply(ask)

    def order(self, ask: Ask) -> tuple[str, str]:
        assert isinstance(ask.prompt, str)
        word, _, rest = ask.prompt.partition(" ")
        if rest.startswith("once "):
            marker = Path(rest.removeprefix("once "))
            word = "say" if marker.exists() else word
            marker.touch()
        return word, rest

    async def misbehave(self, word: str, rest: str) -> None:
        if word in ("die", "stop"):
            await asyncio.sleep(0.02)  # some others are answered before
            os.kill(os.getpid(), signal.SIGKILL if word == "die" else signal.SIGSTOP)
        elif word == "hang":
            self.hung = True
        elif word == "forever":
            await asyncio.sleep(1000)
        elif word == "last":
            for _ in range(int(float(rest) / 0.05)):
                await asyncio.sleep(0.05)
                self.mark += 1

    def reply(self, ask: Ask) -> None:
        ids = array("i", [1, 2, 3])
        if ask.score:
            self.wire.send(Scores(ask.id, ids.tobytes(), array("f", [-1.0] * 3).tobytes()))
            return
        text = f"{ask.prompt}|{ask.prefix}|{ask.params.get('seed')}"
        if ask.prompt == "aborted?":
            text = str(len(self.aborted))
        self.wire.send(Answer(ask.id, text, "stop", 5, ids.tobytes()))


def main() -> None:
    fd, owner, runtime = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    os.set_inheritable(fd, False)
    threading.Thread(target=follow, args=(owner, runtime), daemon=True).start()
    sock = socket.socket(fileno=fd)
    with contextlib.suppress(EOFError):
        setup = read_one(sock, Setup)
        if "crash" in setup.args:
            raise MemoryError(setup.args["crash"])
        if "deaf" in setup.args:
            time.sleep(1000)
        if "child" in setup.args:
            subprocess.Popen(["sleep", "1000"])  # as EngineCore: in the host's session
        if not asyncio.run(StandIn().serve(sock, setup)):
            leave(runtime)


if __name__ == "__main__":
    main()
