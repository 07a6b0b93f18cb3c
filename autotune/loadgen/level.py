"""The streaming load generator: sends a level's requests to an OpenAI completions endpoint and times every chunk."""

import asyncio
import contextlib
import gc
import json
import math
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from autotune.errors import AutotuneError, EnvironmentProblem
from autotune.level_run import LevelRun, LevelWatch, RequestRecord
from autotune.telemetry import get_logger
from autotune.workload import LevelPlan, PlannedRequest

CANCEL_POLL_S = 0.1  # how often a level asks whether it is cancelled
KEEPALIVE_S = (
    2.0  # below the 5 s after which vLLM closes an idle connection: reusing a closing one looks like a failure
)
PAUSE_S = 0.05  # a pause of the client worth a warning: the latencies measured meanwhile contain it
BODY_EXCERPT = 200  # characters of an error answer that are kept
SPARE_FILES = 128  # descriptors besides one per request: logs, pipes, the actor's own connections

WATCHED_BY_NOBODY = LevelWatch()

log = get_logger()

_TOKEN_MARKS = (b'"choices":[{', b'"choices": [{')


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens, and under which name and key."""

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)


class EngineStalled(AutotuneError):
    """For some time no request got a token or an end, though there were requests that waited for one."""


@dataclass(slots=True)
class Pulse:
    """How long an engine that owes answers has been silent, and may be; kept from its first level to its last.

    Before its first token an engine may compile, or read a huge prompt: then both limits must have passed.
    """

    stall_timeout_s: float = math.inf
    first_token_timeout_s: float = 0.0
    has_spoken: bool = False  # some request got a token
    quiet_s: float = 0.0

    @property
    def limit_s(self) -> float:
        """How long it may be silent now."""
        return self.stall_timeout_s if self.has_spoken else max(self.stall_timeout_s, self.first_token_timeout_s)


def measure(
    plan: LevelPlan, endpoint: Endpoint, watch: LevelWatch = WATCHED_BY_NOBODY, pulse: Pulse | None = None
) -> LevelRun:
    """Run a level in the calling thread; see `run_level`.

    Raises EnvironmentProblem when the process may not open enough connections.
    """
    _allow_connections(plan.max_concurrency or len(plan.requests))
    with _frozen_garbage():
        return asyncio.run(run_level(plan, endpoint, watch, pulse))


async def run_level(
    plan: LevelPlan, endpoint: Endpoint, watch: LevelWatch = WATCHED_BY_NOBODY, pulse: Pulse | None = None
) -> LevelRun:
    """Send every request of the plan and return one record each, in the plan's order.

    Open loop: each is sent at its offset, whatever the server does. Closed loop: `max_concurrency` workers, a request
    is scheduled when a worker is free. Every request ends within the plan's time-out. A failed request is a record
    with an `error`. When `watch` stops it the level stops within half a second and only the requests that had
    finished are returned.

    Raises EngineStalled when the engine owes answers and gives no sign of life for as long as its `pulse` allows,
    which counts on from the level before; None allows any silence. Requests that wait for their first token behind
    others that get theirs are no stall.
    """
    pulse = pulse or Pulse()
    bodies = [_body(request, endpoint.model) for request in plan.requests]
    async with _session(endpoint) as session:
        level = _Level(plan, bodies, session, watch.report)
        async with asyncio.TaskGroup() as group:
            stalled = await _watch(group.create_task(level.run()), level, watch.stopped, pulse)
    if stalled:
        raise EngineStalled(
            f"no request got a token for {pulse.limit_s:g} s, with {len(level.records)} of {len(plan.requests)} "
            f"requests finished at {plan.load}"
        )
    return LevelRun(tuple(sorted(level.records, key=lambda record: record.index)), planned=len(plan.requests))


class _Level:
    """One level while it runs. Its clock starts with it."""

    def __init__(
        self, plan: LevelPlan, bodies: list[bytes], session: aiohttp.ClientSession, progress: Callable[[int, int], None]
    ) -> None:
        self.records: list[RequestRecord] = []
        self._plan = plan
        self._bodies = bodies
        self._session = session
        self._progress = progress
        self._start_s = 0.0
        self._open: set[_Stream] = set()  # of the requests that wait for the engine
        self._gave_tokens = False  # to a request that is no longer open
        self._heard_s = 0.0  # when a request that is no longer open had its last sign of life

    @property
    def waits(self) -> bool:
        """Whether the engine owes somebody an answer."""
        return bool(self._open)

    @property
    def heard_s(self) -> float:
        """When the engine last gave a sign of life: a token, or the end of an answer."""
        return max([self._heard_s, *(stream.token_times_s[-1] for stream in self._open if stream.token_times_s)])

    @property
    def has_tokens(self) -> bool:
        """Whether any request got a token."""
        return self._gave_tokens or any(stream.token_times_s for stream in self._open)

    async def run(self) -> None:
        """Send everything and wait for the last answer."""
        self._start_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            if self._plan.max_concurrency is None:
                await self._send_on_schedule(group)
                return
            waiting = iter(enumerate(self._plan.requests))
            for _ in range(min(self._plan.max_concurrency, len(self._plan.requests))):
                group.create_task(self._work(waiting))

    async def _send_on_schedule(self, group: asyncio.TaskGroup) -> None:
        for position, request in enumerate(self._plan.requests):
            await asyncio.sleep(max(0.0, request.offset_s - self._now_s()))
            group.create_task(self._request(position, request, request.offset_s))

    async def _work(self, waiting: Iterator[tuple[int, PlannedRequest]]) -> None:
        for position, request in waiting:
            await self._request(position, request, self._now_s())

    async def _request(self, position: int, request: PlannedRequest, scheduled_s: float) -> None:
        stream = _Stream(self._now_s)
        sent_s = self._now_s() if self._plan.max_concurrency is None else scheduled_s
        self._open.add(stream)
        error = await self._exchange(self._bodies[position], stream) or stream.problem(request.max_tokens)
        self._open.discard(stream)
        self._gave_tokens = self._gave_tokens or bool(stream.token_times_s)
        self.records.append(
            RequestRecord(
                index=request.index,
                scheduled_s=scheduled_s,
                sent_s=sent_s,
                token_times_s=tuple(stream.token_times_s),
                end_s=self._now_s() if stream.done_s is None or error else stream.done_s,
                input_tokens=stream.input_tokens,
                output_tokens=stream.output_tokens,
                requested_tokens=request.max_tokens,
                error=error,
            )
        )
        self._progress(len(self.records), len(self._plan.requests))

    async def _exchange(self, body: bytes, stream: "_Stream") -> str | None:
        """Post one request and feed its answer to the stream; what went wrong, or None."""
        timeout_s = self._plan.request_timeout_s
        try:
            async with asyncio.timeout(timeout_s), self._session.post("/v1/completions", data=body) as response:
                if response.status != 200:
                    self._heard_s = self._now_s()
                    return await _refusal(response)
                async for data in response.content.iter_any():
                    stream.feed(data)
        except TimeoutError:  # our own clock: no sign of life
            self._heard_s = self.heard_s
            return f"no complete answer within {timeout_s:g} s"
        except (aiohttp.ClientError, OSError) as exc:
            self._heard_s = self._now_s()
            return f"{type(exc).__name__}: {exc}"
        self._heard_s = self._now_s()
        return None

    def _now_s(self) -> float:
        return time.perf_counter() - self._start_s


class _Stream:
    """The server-sent events of one answer. Chunks with tokens are recognised by their bytes, not decoded."""

    __slots__ = ("_error", "_now_s", "_rest", "done_s", "input_tokens", "output_tokens", "token_times_s", "usage_seen")

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.token_times_s: list[float] = []
        self.input_tokens = 0
        self.output_tokens = 0
        self.usage_seen = False
        self.done_s: float | None = None
        self._error: str | None = None
        self._now_s = now_s
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what arrived now: any number of events, the last one perhaps incomplete."""
        now_s = self._now_s()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # blank lines and comments (pings)
            # Quotes inside generated text are escaped, so the mark cannot come from there.
            if any(mark in line for mark in _TOKEN_MARKS):
                self.token_times_s.append(now_s)
            elif line[5:].strip() == b"[DONE]":
                self.done_s = now_s
            else:
                self._take_message(line[5:])

    def problem(self, requested_tokens: int) -> str | None:
        """Why the finished answer does not count, or None."""
        if self._error is not None:
            return self._error
        if self.done_s is None:
            return f"the stream ended without [DONE] after {len(self.token_times_s)} chunks"
        if not self.usage_seen:
            return "the stream ended without usage; the server must honour stream_options.include_usage"
        if self.output_tokens != requested_tokens:
            return f"asked for {requested_tokens} tokens, got {self.output_tokens}"
        return None if self.token_times_s else "usage counts tokens, but no chunk carried any"

    def _take_message(self, payload: bytes) -> None:
        try:
            message: Any = json.loads(payload)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            self._error = f"unreadable chunk: {_excerpt(payload)}"
        elif "error" in message:
            self._error = f"error in the stream: {_excerpt(payload)}"
        elif isinstance(usage := message.get("usage"), dict):
            self.usage_seen = True
            self.input_tokens = int(usage.get("prompt_tokens") or 0)
            self.output_tokens = int(usage.get("completion_tokens") or 0)


async def _watch(sending: asyncio.Task[None], level: _Level, cancelled: Callable[[], bool], pulse: Pulse) -> bool:
    """Wait for the level and hear a cancel; whether it was ended because the engine gave no sign of life.

    Notices too when this process itself gets no CPU or waits for its disk.
    """
    worst_pause_s = heard_s = 0.0
    stalled = False
    while not sending.done():
        stalled = stalled or pulse.quiet_s >= pulse.limit_s
        if cancelled() or stalled:
            sending.cancel()
        before_s = time.perf_counter()
        await asyncio.wait({sending}, timeout=CANCEL_POLL_S)
        worst_pause_s = max(worst_pause_s, time.perf_counter() - before_s - CANCEL_POLL_S)
        pulse.has_spoken = pulse.has_spoken or level.has_tokens
        if level.heard_s != heard_s:
            pulse.quiet_s, heard_s = 0.0, level.heard_s
        elif level.waits:
            pulse.quiet_s += CANCEL_POLL_S  # not the time that has passed: a pause of this process is not the engine's
    if worst_pause_s > PAUSE_S:
        # A closed loop has no schedule to be late for, so `client_lag_ms` cannot show this.
        log.warning("load_client_stalled", worst_stall_ms=round(worst_pause_s * 1e3))
    return stalled


def _session(endpoint: Endpoint) -> aiohttp.ClientSession:
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    return aiohttp.ClientSession(
        base_url=endpoint.base_url,
        headers=headers,
        # No limit here: the plan says how many are in flight, and aiohttp's default of 100 would queue the rest unseen.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
        # One clock per request, in `_exchange`: aiohttp's own rounds time-outs up to whole seconds.
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
    )


def _body(request: PlannedRequest, model: str) -> bytes:
    document = {
        "model": model,
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(document, separators=(",", ":")).encode()


async def _refusal(response: aiohttp.ClientResponse) -> str:
    return f"HTTP {response.status}: {_excerpt(await response.content.read(4 * BODY_EXCERPT))}"


def _excerpt(data: bytes) -> str:
    return data.decode(errors="replace").strip()[:BODY_EXCERPT]


def _allow_connections(count: int) -> None:
    """Raise the soft limit of open files where needed: an overloaded open loop holds one connection per request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise EnvironmentProblem(
            f"the level may need {count} connections, but the process may open only {hard} files; "
            "raise the hard limit (ulimit -Hn, or LimitNOFILE of the service), or lower requests_per_level"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextlib.contextmanager
def _frozen_garbage() -> Iterator[None]:
    """Keep the collector away from everything that exists by now, so that its pauses do not look like latency."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
