"""Any OpenAI-compatible server, or many: vLLM, SGLang, llama.cpp, a hosted API.

    backend = OpenAI(["http://node1:8000/v1", "http://node2:8000/v1"], served_model="Qwen3-8B", send="chat")
    await backend.start()
    completion = await backend.complete(request)

One request is one HTTP request, not streamed. openai_bodies says what is sent, openai_replies reads what comes,
openai_endpoint gives a server's answers their meaning, openai_pool chooses among servers and finds the hung ones,
openai_window decides how much each is given at once.

There is no time limit unless `timeout` is set. Proxy variables and ~/.netrc are not read.
"""

import asyncio
import difflib
import resource
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import aiohttp
import msgspec

from tracemill.schemas.errors import EngineLost, RecipeError, RequestRefused
from tracemill.schemas.request import Capability, Completion, Request, Reward, TokenScores
from tracemill.synth.backends.openai.bodies import Send, completion_fields, rendered, score_fields
from tracemill.synth.backends.openai.endpoint import Endpoint, Setback, TurnedDown, keep_alive, server_message
from tracemill.synth.backends.openai.pool import Pool, Probe, backoff
from tracemill.synth.backends.openai.replies import Unusable, read_chat, read_prompt_ids, read_scores, read_text
from tracemill.synth.backends.openai.rewards import path_of, read_reward, reward_fields, smallest, too_long

T = TypeVar("T")
TRIES = 8
"""Faults that one request may meet before it is refused by name."""
START_PATIENCE = 5.0
"""Seconds that `start` gives an endpoint to answer at all."""
KEEP_IDLE = 3.0
"""Shorter than the 5 s after which vLLM's server closes an idle connection: later, a request could run into its back."""


class OpenAI:
    """A pool of OpenAI-compatible endpoints that serve the same model under the same name."""

    def __init__(
        self,
        base_urls: Sequence[str],
        *,
        served_model: str,
        levels: Sequence[str] = (),
        send: Send = "chat",
        api_key: str | None = None,
        api_key_env: str | None = None,
        at_once: int | Literal["auto"] = "auto",
        min_endpoints: int = 1,
        timeout: float | None = None,
        stall: float = 300.0,
        patience: float = 60.0,
        think: tuple[str, str] = ("<think>", "</think>"),
    ) -> None:
        """`levels` are served names of other weights that requests ask for by their adapter; then only these have to be served.

        `at_once` holds for each endpoint; `api_key_env` is the variable the key came from, for error messages.

        `timeout` are the seconds from first sending to the answer, retries included; then the request is refused.
        After `stall` seconds without a token an endpoint counts as hung, and after `patience` seconds with fewer than
        `min_endpoints` the engine as lost. `think` goes around thoughts that a server hands over apart from the answer.
        """
        if not base_urls:
            raise RecipeError('engine.base_urls is empty; give at least one, like ["http://127.0.0.1:8000/v1"]')
        if min_endpoints > len(base_urls):
            raise RecipeError(f"engine.min_endpoints = {min_endpoints}, but base_urls has {len(base_urls)}")
        fixed = None if at_once == "auto" else at_once
        endpoints = [Endpoint(i, url, api_key=api_key, at_once=fixed) for i, url in enumerate(base_urls, start=1)]
        self.capabilities: frozenset[Capability] = frozenset({"complete", "prefix", "logprobs", "adapter", "reward"})
        if send != "chat":
            self.capabilities |= {"score"}
        self._model = served_model
        self._names = tuple(levels) or (served_model,)
        self._send = send
        self._path = "chat/completions" if send == "chat" else "completions"
        self._key_env = api_key_env
        self._has_key = api_key is not None
        self._timeout = timeout
        self._think = think
        self._pool = Pool(
            endpoints, min_endpoints=min_endpoints, stall=stall, patience=patience, probe=self._one_token()
        )
        self._session: aiohttp.ClientSession | None = None
        self._verified = True
        self._answered = False
        self._versions: set[str] = set()
        self._answered_as: set[str] = set()
        self._fingerprints: set[str] = set()

    @property
    def at_once(self) -> int:
        return self._pool.at_once

    async def start(self) -> None:
        """Ask every endpoint which models it serves, or say what is wrong with it."""
        _allow_many_sockets()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, limit_per_host=0, keepalive_timeout=KEEP_IDLE, socket_factory=keep_alive
            ),
            # aiohttp would end every request after 300 s of its own accord.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30.0),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        try:
            for endpoint in self._pool.endpoints:
                endpoint.connect(self._session)
            await self._check_all()
        except BaseException:
            await self.close()
            raise
        self._pool.start()

    async def complete(self, request: Request) -> Completion:
        """One completion, however many tries and endpoints it takes."""
        fields = completion_fields(request, self._send, self._name(request))

        def read(body: bytes) -> Completion:
            if self._send == "chat":
                completion, reply = read_chat(body, request, self._think)
            else:
                completion, reply = read_text(body, request)
            self._answered_as.add(reply.model or self._name(request))
            if reply.system_fingerprint is not None:
                self._fingerprints.add(reply.system_fingerprint)
            return completion

        return await self._ask(self._path, fields, read)

    async def score(self, request: Request) -> TokenScores:
        """Log-probs of the tokens of `request.prefix`, as the server reads prompt and prefix written together.

        In text, the token in which they meet, if they share one, counts as the prefix's.
        """
        if "score" not in self.capabilities:
            raise RequestRefused(
                'a chat server cannot score given tokens; set send = "text" or "tokens" under [engine]'
            )
        if not request.prefix:
            raise RequestRefused("nothing to score: the request has no prefix")
        name = self._name(request)
        fields = score_fields(request, name)
        context = rendered(request.prompt)
        if isinstance(context, str):
            context = await self._ask("completions", score_fields(request, name, whole=False), read_prompt_ids)
        top = request.sampling.logprobs or 0
        return await self._ask("completions", fields, lambda body: read_scores(body, context, top))

    async def reward(self, request: Request) -> Reward:
        """What the reward model behind vLLM's pooling routes says; nothing else is asked of such a server."""
        name = self._name(request)
        fields, path = reward_fields(request, self._send, name), path_of(request)
        self._pool.probe = smallest(path, name)
        try:
            return await self._ask(path, fields, lambda body: read_reward(body, request))
        except RequestRefused as refusal:
            if (fact := too_long(refusal)) is None:
                raise
            return fact

    async def close(self) -> None:
        """Close every socket; requests that are still waiting end in EngineLost."""
        await self._pool.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def facts(self) -> dict[str, Any]:
        """For the manifest. `model_verified` False: a server would not say what it serves."""
        return {
            "engine": "openai",
            "send": self._send,
            "endpoints": len(self._pool.endpoints),
            "served_model": self._model if self._names == (self._model,) else list(self._names),
            "model_verified": self._verified,
            "answered_as": sorted(self._answered_as),
            "server_versions": sorted(self._versions),
            "system_fingerprints": sorted(self._fingerprints),
        }

    def progress(self) -> Sequence[str]:
        return self._pool.progress()

    async def _ask(self, path: str, fields: dict[str, Any], read: Callable[[bytes], T]) -> T:
        """Send until the answer is good; `read` raises Unusable where it is not."""
        sending: tuple[Endpoint, float] | None = None
        faults = tries = 0
        loop = asyncio.get_running_loop()
        last = "no answer"
        try:
            async with asyncio.timeout(None) as deadline:
                while True:
                    endpoint = await self._pool.take(again=tries > 0)
                    sending = endpoint, loop.time()
                    if tries == 0 and self._timeout is not None:
                        deadline.reschedule(loop.time() + self._timeout)
                    try:
                        return await self._send_once(endpoint, path, fields, read)
                    except Setback as setback:
                        self._pool.failed(endpoint, setback, sending[1])
                        last, after = str(setback), setback.after
                        faults += setback.kind == "fault"
                        wait = 0.0 if setback.kind in ("requeued", "unreachable") else max(after, backoff(tries))
                    finally:
                        self._pool.give(endpoint)
                    tries += 1
                    sending = None
                    if faults >= TRIES:
                        raise RequestRefused(f"not answered in {TRIES} tries; the last: {last}")
                    await self._pool.pause(wait)
        except TimeoutError:
            if sending is not None:
                sending[0].window.pushed_back(sending[1], loop.time())
            raise RequestRefused(f"not answered within timeout = {self._timeout:g} s") from None

    async def _send_once(self, endpoint: Endpoint, path: str, fields: dict[str, Any], read: Callable[[bytes], T]) -> T:
        try:
            result = read(await endpoint.post(path, fields))
        except Unusable as unusable:
            raise Setback("fault", endpoint.clean(str(unusable))) from None
        except EngineLost as lost:
            error = self._wrong_from_the_start(lost)
            self._pool.lose(error)
            raise error from None
        except RequestRefused:
            self._pool.answered(endpoint, 0)
            raise
        self._answered = True
        self._pool.answered(endpoint, result.n_tokens if isinstance(result, Completion) else 1)
        return result

    def _wrong_from_the_start(self, lost: EngineLost) -> EngineLost | RecipeError:
        """What to raise where a server turns everything down: before the first answer, the recipe is at fault."""
        if self._answered or not isinstance(lost, TurnedDown):
            return lost
        return RecipeError(str(lost).removesuffix(" to resume"))

    def _name(self, request: Request) -> str:
        """The served name of the weights that are asked for."""
        if request.adapter is None:
            return self._model
        if request.adapter.name not in self._names:
            raise RequestRefused(f"{request.adapter.name!r} is none of the served levels {', '.join(self._names)}")
        return request.adapter.name

    def _one_token(self) -> Probe:
        """The smallest thing that proves a server writes."""
        fields: dict[str, Any] = {"model": self._names[0], "max_tokens": 1, "temperature": 0.0}
        if self._send == "chat":
            return self._path, fields | {"messages": [{"role": "user", "content": "1"}]}
        return self._path, fields | {"prompt": "1" if self._send == "text" else [1]}

    async def _check_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            checks = [group.create_task(self._wrong_with(endpoint)) for endpoint in self._pool.endpoints]
        wrong = [said for check in checks if (said := check.result()) is not None]
        if wrong:
            raise RecipeError("\n".join(wrong))

    async def _wrong_with(self, endpoint: Endpoint) -> str | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + START_PATIENCE
        while True:
            try:
                status, body = await endpoint.models()
            except Setback as setback:
                said = f"{endpoint} is unreachable: {setback}; start the server, or take it out of engine.base_urls"
            else:
                if status < 500 and status != 429:
                    self._versions.add(f"vllm {version}" if (version := await endpoint.version()) else "unknown")
                    return self._wrong_answer(endpoint, status, body)
                said = f"{endpoint} answers {status} to GET /models: {endpoint.clean(server_message(body))}"
            if loop.time() >= until:
                return said
            await asyncio.sleep(0.25)

    def _wrong_answer(self, endpoint: Endpoint, status: int, body: bytes) -> str | None:
        said = endpoint.clean(server_message(body)) if status != 200 else ""
        if status in (401, 403):
            return f"{endpoint} answers {status}: {said}; {self._key_advice()}"
        if status in (404, 405):
            self._verified = False
            return None
        if status != 200:
            return f"{endpoint} answers {status} to GET /models: {said}; is it the base URL, ending in /v1?"
        try:
            served = [model.id for model in msgspec.json.decode(body, type=_Models).data]
        except msgspec.DecodeError:
            return f"{endpoint} answers GET /models with something else than a list of models; is it the base URL?"
        if not (missing := [name for name in self._names if name not in served]):
            return None
        close = difflib.get_close_matches(missing[0], served, n=1)
        key = "model.name" if missing[0] == self._model else "synth.served"
        hint = f"did you mean {close[0]!r}?" if close else f"write one of these as {key}"
        return f"{endpoint} does not serve {missing[0]!r}; it serves {served}; {hint}"

    def _key_advice(self) -> str:
        if self._key_env is None:
            return 'it wants a key: put it into a variable and name that as api_key_env = "..." under [engine]'
        if not self._has_key:
            return f"the variable {self._key_env} (engine.api_key_env) is not set; export it"
        return f"it does not take the key in {self._key_env} (engine.api_key_env)"


class _ModelCard(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_ModelCard]


def _allow_many_sockets() -> None:
    """Each request in flight is a socket, and the usual limit is 1024 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
