"""The load generator against a real HTTP server with known delays, failures and stalls."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from autotune.level_run import Hopeless, LevelRun, LevelWatch, RequestRecord
from autotune.loadgen import Endpoint, EngineStalled, Pulse, measure, run_level
from autotune.results import Load
from autotune.workload import LevelPlan, PlannedRequest

TOKEN = {"choices": [{"index": 0, "text": ""}]}  # a token may well have no text
Script = Callable[["Server", web.StreamResponse, dict[str, Any]], Awaitable[None]]


@dataclass
class Server:
    """Answers every completion as its script says and remembers what it was asked."""

    script: Script
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def complete(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.headers.append(dict(request.headers))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.script(self, response, self.asked[-1])
        finally:
            self.running -= 1
        return response


@asynccontextmanager
async def listening(handler, path: str = "/v1/completions"):
    """A server on a free loopback port; yields its address."""
    app = web.Application()
    app.router.add_post(path, handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def listening_in_a_thread(handler) -> Iterator[str]:
    """The same for a client that runs its own event loop in this thread."""
    address: list[str] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with listening(handler) as url:
            address.append(url)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def send(response: web.StreamResponse, message: Any) -> None:
    text = message if isinstance(message, str) else json.dumps(message, separators=(",", ":"))
    await response.write(f"data: {text}\n\n".encode())


async def finish(response: web.StreamResponse, *, prompt: int, completion: int) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    await send(response, {"choices": [], "usage": usage})
    await send(response, "[DONE]")


async def answer(_: Server, response: web.StreamResponse, body: dict[str, Any]) -> None:
    """All tokens at once."""
    for _i in range(body["max_tokens"]):
        await send(response, TOKEN)
    await finish(response, prompt=len(body["prompt"]), completion=body["max_tokens"])


async def answer_in_100_ms(server: Server, response: web.StreamResponse, body: dict[str, Any]) -> None:
    await asyncio.sleep(0.1)
    await answer(server, response, body)


def answer_when_running(count: int) -> Script:
    """No answer until `count` requests run at once; after that, all at once."""
    reached = asyncio.Event()

    async def script(server: Server, response: web.StreamResponse, body: dict[str, Any]) -> None:
        if server.running >= count:
            reached.set()
        await reached.wait()
        await answer(server, response, body)

    return script


async def stall(_: Server, response: web.StreamResponse, body: dict[str, Any]) -> None:
    """One token, then nothing for a minute."""
    await send(response, TOKEN)
    await asyncio.sleep(60)


def plan(count: int = 1, *, every_s: float = 0.0, users: int | None = None, timeout_s: float = 10.0) -> LevelPlan:
    """`count` requests of 3 tokens in and 4 out, in an open loop or from `users` at once."""
    return LevelPlan(
        load=Load(kind="request_rate" if users is None else "max_concurrency", value=1),
        requests=tuple(PlannedRequest(i, every_s * i, (5, 6, 7), 4) for i in range(count)),
        max_concurrency=users,
        request_timeout_s=timeout_s,
        seed=0,
    )


def run(
    level: LevelPlan,
    server: Server,
    *,
    cancelled=lambda: False,
    progress=lambda _d, _t: None,
    key: str = "k",
    pulse: Pulse | None = None,
):
    watch = LevelWatch(cancelled, progress)
    return list(come_home(level, server, watch, key=key, pulse=pulse).records)


def come_home(
    level: LevelPlan, server: Server, watch: LevelWatch, *, key: str = "k", pulse: Pulse | None = None
) -> LevelRun:
    async def main() -> LevelRun:
        async with listening(server.complete) as url:
            return await run_level(level, Endpoint(url, "tiny", key), watch, pulse)

    return asyncio.run(main())


def error_of(script: Script, **changes: Any) -> str | None:
    """What the record of one request against this script says went wrong."""
    (record,) = run(plan(1, **changes), Server(script))
    return record.error


def test_a_request_asks_for_exactly_the_planned_tokens_as_a_stream_with_usage():
    server = Server(answer)
    run(plan(), server)
    assert server.asked == [
        {
            "model": "tiny",
            "prompt": [5, 6, 7],
            "max_tokens": 4,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    assert server.headers[0]["Authorization"] == "Bearer k"


def test_the_key_is_not_shown():
    assert "secret" not in repr(Endpoint("http://127.0.0.1:1", "m", "secret"))


def test_a_record_counts_the_tokens_the_server_reports():
    (record,) = run(plan(), Server(answer))
    assert (record.error, record.input_tokens, record.output_tokens, record.requested_tokens) == (None, 3, 4, 4)
    assert len(record.token_times_s) == 4


def test_a_token_is_timed_before_the_next_one_is_sent():
    """Some shift between the two clocks puts every reading between its writing and the next one."""
    written_s: list[float] = []

    async def script(_, response, body):
        for _i in range(4):
            await asyncio.sleep(0.05)
            written_s.append(time.perf_counter())
            await send(response, TOKEN)
        await asyncio.sleep(0.05)
        written_s.append(time.perf_counter())
        await finish(response, prompt=3, completion=4)

    (record,) = run(plan(), Server(script))
    read_s = record.token_times_s
    earliest = max(written - read for written, read in zip(written_s[:4], read_s, strict=True))
    latest = min(written - read for written, read in zip(written_s[1:], read_s, strict=True))
    assert earliest <= latest
    assert read_s[0] - record.scheduled_s >= 0.05
    assert record.end_s - read_s[3] >= 0.04


def test_an_event_may_arrive_in_pieces_and_with_pings_between():
    async def script(_, response, body):
        text = f"data: {json.dumps(TOKEN)}\r\n\r\n: ping\n\n".encode() * 4
        for start in range(0, len(text), 7):
            await response.write(text[start : start + 7])
            await asyncio.sleep(0)
        await finish(response, prompt=3, completion=4)

    (record,) = run(plan(), Server(script))
    assert record.error is None
    assert len(record.token_times_s) == 4


USAGE = {"prompt_tokens": 3, "completion_tokens": 4}


def said(*chunks: str | dict[str, Any], end: str = "data: [DONE]\n\n") -> Script:
    """These chunks, spaced as json.dumps does where they are no text."""
    texts = (chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks)
    whole = "".join(f"data: {text}\n\n" for text in texts) + end

    async def script(_: Server, response: web.StreamResponse, body: dict[str, Any]) -> None:
        await response.write(whole.encode())

    return script


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(said(*[TOKEN] * 3, {**TOKEN, "usage": USAGE}), id="usage beside the last token"),
        pytest.param(said(*[{**TOKEN, "usage": USAGE}] * 4), id="usage beside every token"),
        pytest.param(said(*['{"choices" : [ {"text" : "a"} ]}'] * 4, {"usage": USAGE}), id="other spaces"),
        pytest.param(said(*[TOKEN] * 4, {"error": None, "usage": USAGE}), id="an error that is none"),
        pytest.param(said(*[TOKEN] * 4, {"usage": USAGE}, end="data: [DONE]"), id="no line end at the end"),
    ],
)
def test_an_answer_is_understood_however_its_server_writes_it(script: Script):
    (record,) = run(plan(), Server(script))
    assert (record.error, len(record.token_times_s), record.output_tokens) == (None, 4, 4)


@pytest.mark.parametrize(
    ("chunk", "error"),
    [
        ('{"usage": {"prompt_tokens": "many", "completion_tokens": [4]}}', "usage without whole numbers"),
        ('{"usage": {"prompt_tokens": NaN, "completion_tokens": 4}}', "usage without whole numbers"),
        ('{"usage": {"prompt_tokens": -3, "completion_tokens": 4}}', "usage without whole numbers"),
        ("[" * 100_000, "unreadable chunk: [[["),
    ],
)
def test_a_chunk_that_means_nothing_fails_its_own_request(chunk: str, error: str):
    """The others of the level, before and after it, count."""
    good, asked = said(*[TOKEN] * 4, {"usage": USAGE}), itertools.count()

    async def script(server: Server, response: web.StreamResponse, body: dict[str, Any]) -> None:
        await (said(TOKEN, chunk) if next(asked) == 1 else good)(server, response, body)

    errors = [record.error for record in run(plan(3, users=1), Server(script))]
    assert (errors[0], errors[2]) == (None, None)
    assert errors[1].startswith(error)


@pytest.mark.parametrize(
    ("exact", "completion", "error"), [(True, 2, "asked for 4"), (False, 2, None), (False, 5, "asked for 4")]
)
def test_shorter_answers_count_where_the_length_is_the_models_choice(exact: bool, completion: int, error: str | None):
    server = Server(said(TOKEN, TOKEN, {"usage": {"prompt_tokens": 3, "completion_tokens": completion}}))

    async def main() -> LevelRun:
        async with listening(server.complete) as url:
            return await run_level(plan(), Endpoint(url, "m", exact=exact))

    (record,) = asyncio.run(main()).records
    assert (record.error or "").startswith(error or "")
    assert (record.error is None) == (error is None)
    assert ("ignore_eos" in server.asked[0]) == exact


def test_an_endpoint_may_lie_below_a_path():
    server, asked = Server(answer), []

    async def main() -> LevelRun:
        async def note(request: web.Request) -> web.StreamResponse:
            asked.append(request.path)
            return await server.complete(request)

        async with listening(note, path="/llm/v1/completions") as url:
            return await run_level(plan(), Endpoint(f"{url}/llm", "m"))

    (record,) = asyncio.run(main()).records
    assert (record.error, asked) == (None, ["/llm/v1/completions"])


@pytest.mark.parametrize("location", ["http://127.0.0.1:9/", "http://a..b/", "/v1/completions"])
def test_a_redirect_is_a_failure_and_takes_the_key_nowhere(location: str):
    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": location})

    async def main() -> LevelRun:
        async with listening(elsewhere) as url:
            return await run_level(plan(3, users=2), Endpoint(url, "m", "key"))

    assert [record.error for record in asyncio.run(main()).records] == ["HTTP 307: "] * 3


@pytest.mark.parametrize("after_s", [0.0, 0.001])
def test_a_connection_that_closes_between_two_requests_fails_none(after_s: float):
    """Without a word, as proxies do that keep connections for a shorter time than the client."""
    payload = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in [*[TOKEN] * 4, {"usage": USAGE}])
    payload += b"data: [DONE]\n\n"
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"content-length:" in head:
                await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload)
            await writer.drain()
            await asyncio.sleep(after_s)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def main() -> LevelRun:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            level = await run_level(plan(60, users=4), Endpoint(f"http://127.0.0.1:{port}", "m"))
            await asyncio.gather(*served)  # a server that closes leaves its connections as they are
            return level

    assert {record.error for record in asyncio.run(main()).records} == {None}


@pytest.mark.parametrize("count", [5, 150])
def test_an_open_loop_sends_everything_though_nothing_is_answered(count):
    """Nobody is answered before all have asked; aiohttp's own limit would be 100 connections."""
    server = Server(answer_when_running(count))
    records = run(plan(count, every_s=0.002), server)
    assert {r.error for r in records} == {None}
    assert server.most_running == count


def test_an_open_loop_sends_no_request_before_its_time():
    records = run(plan(5, every_s=0.04), Server(answer))
    assert [r.scheduled_s for r in records] == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16])
    assert all(r.sent_s >= r.scheduled_s for r in records)


def test_a_closed_loop_keeps_exactly_its_concurrency_in_flight():
    """The first answer is given when three requests run, and more than three never do."""
    server = Server(answer_when_running(3))
    records = run(plan(9, users=3), server)
    assert server.most_running == 3
    assert [r.index for r in records] == [0, 1, 2, 3, 4, 5, 6, 7, 8]


def test_in_a_closed_loop_a_request_is_scheduled_when_a_slot_is_free():
    first, second = run(plan(2, users=1), Server(answer_in_100_ms))
    assert second.scheduled_s >= first.end_s >= 0.1
    assert second.sent_s == second.scheduled_s


def test_a_refusal_is_a_failure_with_the_beginning_of_the_answer():
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=400, text="max_tokens is too large " + "x" * 5000)

    async def main():
        async with listening(refuse) as url:
            return (await run_level(plan(), Endpoint(url, "m"))).records

    (record,) = asyncio.run(main())
    assert record.error.startswith("HTTP 400: max_tokens is too large xxx")
    assert len(record.error) == len("HTTP 400: ") + 200


def test_a_dead_server_is_a_failure_of_every_request():
    async def main():
        async with listening(Server(answer).complete) as url:
            pass
        return (await run_level(plan(3), Endpoint(url, "m"))).records

    records = asyncio.run(main())
    assert [r.error.split(":")[0] for r in records] == ["ClientConnectorError"] * 3


def test_a_stalled_stream_fails_at_the_time_out_and_keeps_what_it_saw():
    (record,) = run(plan(timeout_s=0.3), Server(stall))
    assert record.error == "no complete answer within 0.3 s"
    assert len(record.token_times_s) == 1
    assert 0.3 <= record.end_s < 10


def test_a_stream_that_breaks_off_is_a_failure():
    async def script(_, response, body):
        await send(response, TOKEN)

    assert error_of(script) == "the stream ended without [DONE] after 1 chunks"


def test_a_connection_that_is_cut_is_a_failure():
    async def script(_, response, body):
        await send(response, TOKEN)
        response._req.transport.abort()
        await asyncio.sleep(1)

    assert error_of(script).startswith("Client")


def test_an_answer_without_usage_is_a_failure():
    async def script(_, response, body):
        await send(response, TOKEN)
        await send(response, "[DONE]")

    assert error_of(script).startswith("the stream ended without usage")


def test_an_answer_that_is_too_short_is_a_failure():
    async def script(_, response, body):
        await send(response, TOKEN)
        await finish(response, prompt=3, completion=1)

    assert error_of(script) == "asked for 4 tokens, got 1"


def test_an_error_object_in_the_stream_is_a_failure():
    async def script(_, response, body):
        await send(response, {"error": {"message": "engine is dead"}})
        await send(response, "[DONE]")

    assert error_of(script) == 'error in the stream: {"error":{"message":"engine is dead"}}'


def test_an_unreadable_chunk_is_a_failure():
    async def script(_, response, body):
        await send(response, "{half")
        await send(response, "[DONE]")

    assert error_of(script) == "unreadable chunk: {half"


def test_one_failure_leaves_the_other_requests_alone():
    async def script(server, response, body):
        if len(server.asked) != 2:
            await answer(server, response, body)

    records = run(plan(3, users=1), Server(script))
    assert [r.error is None for r in records] == [True, False, True]


def test_progress_is_told_of_every_finished_request():
    told: list[tuple[int, int]] = []
    run(plan(3, users=1), Server(answer), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("users", [None, 2])
def test_a_cancelled_level_ends_soon_with_what_was_finished(users):
    """The first request is answered, the others stall; the cancel comes with the first answer."""

    async def script(server, response, body):
        await (answer if len(server.asked) == 1 else stall)(server, response, body)

    cancelled_at_s: list[float] = []
    level = plan(4, every_s=0.01, users=users, timeout_s=60)
    records = run(
        level,
        Server(script),
        cancelled=lambda: bool(cancelled_at_s),
        progress=lambda _d, _t: cancelled_at_s.append(time.perf_counter()),
    )
    assert [r.index for r in records] == [0]
    assert time.perf_counter() - cancelled_at_s[0] < 3  # 0.2 s on an idle machine; the streams stall for 60 s


def test_a_level_cancelled_before_it_starts_sends_nothing():
    server = Server(answer)
    assert run(plan(3), server, cancelled=lambda: True) == []
    assert server.asked == []


def test_an_empty_plan_is_done_at_once():
    assert run(plan(0, users=8), Server(answer)) == []


def test_a_client_that_is_held_up_itself_says_so():
    """What it measured meanwhile is not the server's doing."""
    with capture_logs() as events:
        run(plan(2, users=1), Server(answer), progress=lambda _d, _t: threading.Event().wait(0.4) and None)
    assert [event["event"] for event in events] == ["load_client_stalled"]
    assert events[0]["worst_stall_ms"] >= 200


def test_measure_runs_a_level_in_the_calling_thread():
    with listening_in_a_thread(Server(answer).complete) as url:
        records = measure(plan(5, users=2), Endpoint(url, "m")).records
    assert [(r.index, r.error) for r in records] == [(0, None), (1, None), (2, None), (3, None), (4, None)]


def test_users_who_start_together_find_their_connections_open():
    """Every first question comes over a connection that has asked for /health before."""
    ports: dict[str, list[int]] = {"/health": [], "/v1/completions": []}
    server = Server(answer_when_running(5))

    @web.middleware
    async def note(request: web.Request, handler: Any) -> web.StreamResponse:
        ports[request.path].append(request.transport.get_extra_info("peername")[1])
        return web.Response() if request.path == "/health" else await handler(request)

    async def main() -> None:
        app = web.Application(middlewares=[note])
        app.router.add_post("/v1/completions", server.complete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await run_level(plan(5, users=5), Endpoint(f"http://127.0.0.1:{runner.addresses[0][1]}", "m"))
        await runner.cleanup()

    asyncio.run(main())
    assert len(set(ports["/health"])) == 5
    assert sorted(ports["/v1/completions"]) == sorted(ports["/health"])


# What the client itself costs


def test_a_level_says_what_the_client_used():
    run_ = come_home(plan(20, users=2), Server(answer), LevelWatch())
    assert 0 < run_.client.cpu_share <= 1.1  # the server of this test runs in the same thread
    assert run_.client.pause_ms >= 0
    assert run_.planned == 20


def test_a_pause_of_the_loop_counts_for_every_beat_it_held_up():
    """Nearly all of the level is one pause: its share of the beats is its share of the time."""
    run_ = come_home(plan(1), Server(answer), LevelWatch(report=lambda _d, _t: threading.Event().wait(0.5) and None))
    assert run_.client.pause_ms >= 450
    assert run_.client.cpu_share < 0.9


# Both loops together


def behind_a_gateway(level: LevelPlan, places: int) -> LevelPlan:
    return dataclasses.replace(level, max_concurrency=places)


def test_an_open_loop_with_a_limit_never_has_more_in_flight():
    server = Server(answer_when_running(3))
    records = run(behind_a_gateway(plan(9), 3), server)
    assert {record.error for record in records} == {None}
    assert server.most_running == 3


def test_a_request_waits_its_turn_and_the_wait_is_latency_but_not_lag():
    records = run(behind_a_gateway(plan(3, every_s=0.001), 1), Server(answer_in_100_ms))
    assert [record.scheduled_s for record in records] == [0.0, 0.001, 0.002]
    assert records[0].free_s is None
    assert [record.free_s >= before.end_s for before, record in itertools.pairwise(records)] == [True] * 2
    assert [record.sent_s >= record.free_s for record in records[1:]] == [True, True]
    assert records[2].sent_s - records[2].scheduled_s >= 0.19
    assert records[2].lag_s == records[2].sent_s - records[2].free_s


def test_a_request_that_waits_for_a_place_does_not_time_out():
    """Each is answered in 100 ms; the last waits for far longer than its time-out."""
    records = run(behind_a_gateway(plan(8, timeout_s=0.4), 1), Server(answer_in_100_ms))
    assert [record.error for record in records] == [None] * 8
    assert records[-1].end_s > 0.7


def test_a_level_with_a_line_before_it_can_be_cancelled():
    server = Server(stall)
    records = run(behind_a_gateway(plan(4, timeout_s=60), 1), server, cancelled=lambda: bool(server.asked))
    assert (records, len(server.asked)) == ([], 1)


# Conversations


def in_one_conversation(level: LevelPlan, *turns: int, pause_s: float = 0.0) -> LevelPlan:
    """The same plan with these requests as the turns of one conversation."""
    before = dict(zip(turns[1:], turns, strict=False))
    requests = tuple(
        dataclasses.replace(one, follows=before[one.index], pause_s=pause_s) if one.index in before else one
        for one in level.requests
    )
    return dataclasses.replace(level, requests=requests)


def test_a_turn_is_scheduled_a_pause_after_the_end_of_the_one_before():
    level = in_one_conversation(plan(3), 0, 2, pause_s=0.15)
    first, other, second = run(level, Server(answer))
    assert (first.scheduled_s, other.scheduled_s) == (0.0, 0.0)
    assert second.scheduled_s == first.end_s + 0.15
    assert second.sent_s >= second.scheduled_s


def test_a_user_of_a_closed_loop_takes_a_whole_conversation_before_the_next():
    level = in_one_conversation(plan(3, users=1), 0, 2, pause_s=0.1)
    first, other, second = run(level, Server(answer))
    assert second.scheduled_s == first.end_s + 0.1
    assert other.scheduled_s >= second.end_s


def test_after_a_failed_turn_the_next_is_sent_all_the_same():
    async def script(server, response, body):
        if len(server.asked) > 1:
            await answer(server, response, body)

    records = run(in_one_conversation(plan(2), 0, 1), Server(script))
    assert [record.error is None for record in records] == [False, True]


# The early end


def first_answers(count: int) -> Script:
    """The first `count` requests are answered; the others get one token and nothing more."""

    async def script(server: Server, response: web.StreamResponse, body: dict[str, Any]) -> None:
        await (answer if len(server.asked) <= count else stall)(server, response, body)

    return script


@pytest.mark.parametrize("users", [None, 3])
def test_a_level_out_of_reach_ends_early_and_brings_the_late_ones_home(users: int | None):
    """Two may be late: the third that is ends it, long before its time-out."""
    watch = LevelWatch(hopeless=(Hopeless("e2el", 0.3, 2),))
    level = plan(60, every_s=0.1, users=users, timeout_s=60)
    run_ = come_home(level, Server(first_answers(2)), watch)
    answered, late = run_.records[:2], run_.records[2:]
    assert (run_.aborted, run_.planned) == (True, 60)
    assert [(record.index, record.error) for record in answered] == [(0, None), (1, None)]
    assert 3 <= len(late) < 58
    for record in late:
        assert record.unfinished
        assert record.error == "the level was ended early: the SLA was out of reach"
        assert record.end_s - record.scheduled_s > 0.3
        assert len(record.token_times_s) == 1


def test_requests_that_are_late_for_a_place_count_too():
    """One is under way, with its first token in time; four wait behind it."""
    watch = LevelWatch(hopeless=(Hopeless("ttft", 0.3, 3),))
    run_ = come_home(behind_a_gateway(plan(5, timeout_s=60), 1), Server(stall), watch)
    assert [record.index for record in run_.records] == [1, 2, 3, 4]
    assert [(record.lag_s, record.token_times_s) for record in run_.records] == [(0.0, ())] * 4


def test_a_level_within_its_rules_runs_to_its_end():
    """Exactly as many are late as may be."""
    watch = LevelWatch(hopeless=(Hopeless("ttft", 0.05, 3), Hopeless("e2el", 60.0, 0)))
    run_ = come_home(plan(3), Server(answer_in_100_ms), watch)
    assert (run_.aborted, [record.error for record in run_.records]) == (False, [None] * 3)


def test_failures_count_for_the_early_end_at_once():
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=500, text="no")

    async def main() -> LevelRun:
        async with listening(refuse) as url:
            watch = LevelWatch(hopeless=(Hopeless("ttft", 60.0, 1),))
            return await run_level(plan(50, every_s=0.1), Endpoint(url, "m"), watch)

    run_ = asyncio.run(main())
    assert run_.aborted
    assert 2 <= len(run_.records) < 50
    assert not any(record.unfinished for record in run_.records)


# The stall watchdog


async def silence(_: Server, response: web.StreamResponse, body: dict[str, Any]) -> None:
    """Not one token for a minute."""
    await asyncio.sleep(60)


@pytest.mark.parametrize("users", [None, 2])
@pytest.mark.parametrize("script", [stall, silence])
def test_an_engine_that_owes_answers_and_gives_no_token_is_stalled(script: Script, users: int | None):
    level = plan(4, every_s=0.01, users=users, timeout_s=50)
    with pytest.raises(EngineStalled, match=r"no request got a token for 0.5 s, with 0 of 4 requests finished"):
        run(level, Server(script), pulse=Pulse(0.5))


def test_requests_that_wait_behind_one_that_gets_its_tokens_are_no_stall():
    """The one that is served has a token every 50 ms for more than two limits; the others start after its end."""
    served = asyncio.Event()

    async def one_at_a_time(server: Server, response: web.StreamResponse, body: dict[str, Any]) -> None:
        if len(server.asked) == 1:
            for _i in range(60):
                await asyncio.sleep(0.05)
                await send(response, TOKEN)
            served.set()
        await served.wait()
        await answer(server, response, body)

    records = run(plan(6), Server(one_at_a_time), pulse=Pulse(1.0))
    assert [record.error for record in records] == [None] * 6


def test_pauses_in_which_nobody_waits_for_the_engine_are_no_stall():
    records = run(plan(2, every_s=1.5), Server(answer), pulse=Pulse(0.5))
    assert [record.error for record in records] == [None, None]


def test_our_own_time_outs_are_no_sign_of_life():
    """Each request gives up long before the limit, and the next takes its place."""
    with pytest.raises(EngineStalled):
        run(plan(50, users=1, timeout_s=0.2), Server(silence), pulse=Pulse(0.8))


async def late(_: Server, response: web.StreamResponse, body: dict[str, Any]) -> None:
    """A first token after more than a second."""
    await asyncio.sleep(1.2)
    await answer(_, response, body)


def test_before_its_first_token_an_engine_may_be_silent_for_longer():
    pulse = Pulse(0.3, first_token_timeout_s=40.0)
    records = run(plan(1), Server(late), pulse=pulse)
    assert [record.error for record in records] == [None]
    assert pulse.has_spoken


def test_from_its_first_token_on_only_the_shorter_limit_counts_also_at_the_next_level():
    pulse = Pulse(0.3, first_token_timeout_s=40.0)
    run(plan(1), Server(answer), pulse=pulse)
    with pytest.raises(EngineStalled, match=r"no request got a token for 0\.3 s"):
        run(plan(1, timeout_s=50), Server(late), pulse=pulse)


def test_a_silence_goes_on_from_one_level_to_the_next():
    """No level lasts long enough for it: each ends by its own time-out."""
    pulse = Pulse(1.0, first_token_timeout_s=0.2)

    def climb() -> None:
        for _level in range(50):
            run(plan(1, timeout_s=0.4), Server(silence), pulse=pulse)

    with pytest.raises(EngineStalled):
        climb()


def test_an_engine_that_refuses_everything_is_not_stalled():
    async def refuse_slowly(_: web.Request) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response(status=500, text="no")

    async def main() -> list[RequestRecord]:
        async with listening(refuse_slowly) as url:
            level = plan(6, users=1)
            return list((await run_level(level, Endpoint(url, "m"), pulse=Pulse(0.8))).records)

    assert [record.error for record in asyncio.run(main())] == ["HTTP 500: no"] * 6
