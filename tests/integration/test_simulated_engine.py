"""The simulated engine as a process and over HTTP: what a client of `vllm serve` uses, and that both modes agree."""

import asyncio
import dataclasses
import json
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from autotune.engine_config import EngineConfig
from autotune.engines.loopback import Answer, Server, request
from autotune.engines.simulated import options, server
from autotune.engines.simulated.core import Core
from autotune.engines.simulated.model import read
from autotune.engines.simulated.replay import play
from autotune.engines.simulated.scheduler import block_hashes
from autotune.level_run import LevelWatch, RequestRecord
from autotune.loadgen import Endpoint, measure
from autotune.loading import load
from autotune.model_card import read_model
from autotune.results import FailureClass, Infeasible, Load, Measured
from autotune.settings import built_in_profiles
from autotune.spec import Sla
from autotune.trial import Control, Grant, TrialRequest, run_trial
from autotune.workload import Level, LevelPlan, PlannedRequest, Workload

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
TINY = ROOT / "autotune" / "demo" / "tiny-llama"
EXECUTABLE = built_in_profiles()["simulated"].executable
KEY = "the-key"
SPACE = {"VLLM_CPU_KVCACHE_SPACE": "1"}
CAPTURED: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 30, "env": SPACE}


@contextmanager
def serving(*words: str, key: str | None = None) -> Iterator[tuple[str, server.PacedEngine]]:
    """The server in a thread of this process: its address, and its engine to look into."""
    asked = options.read(["serve", str(TINY), "--served-model-name", "tiny", *words], SPACE)
    app = server.application(asked, key, read(TINY))
    loop = asyncio.new_event_loop()

    async def started() -> tuple[web.AppRunner, int]:
        runner = server.runner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, runner.addresses[0][1]

    runner, port = loop.run_until_complete(started())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}", app[server.ENGINE]
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving("--max-model-len", "128", key=KEY) as (address, _):
        yield address


def ask(url: str, document: dict[str, Any], path: str = "/v1/completions", key: str = KEY) -> Answer:
    return request(Server(url, "tiny", key), path, document={"model": "tiny", **document}, timeout_s=20)


def events(answer: Answer) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.body.splitlines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


class TestEndpoints:
    def test_it_is_healthy_without_a_key(self, url: str) -> None:
        assert request(Server(url, "tiny", ""), "/health").status == 200

    @pytest.mark.parametrize("path", ["/v1/models", "/v1/completions"])
    def test_a_wrong_key_is_401(self, url: str, path: str) -> None:
        answer = request(Server(url, "tiny", "wrong"), path, document={} if "completions" in path else None)
        assert (answer.status, json.loads(answer.body)) == (401, {"error": "Unauthorized"})

    def test_it_names_its_model(self, url: str) -> None:
        (entry,) = json.loads(request(Server(url, "tiny", KEY), "/v1/models").body)["data"]
        assert (entry["id"], entry["max_model_len"]) == ("tiny", 128)

    def test_a_wrong_model_is_404(self, url: str) -> None:
        answer = ask(url, {"model": "other", "prompt": [1], "max_tokens": 1})
        assert (answer.status, json.loads(answer.body)["error"]["message"]) == (
            404,
            "The model `other` does not exist.",
        )

    def test_too_long_a_request_is_400_in_vllms_shape(self, url: str) -> None:
        answer = ask(url, {"prompt": [5] * 100, "max_tokens": 29})
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["type"], error["code"]) == (400, "BadRequestError", 400)
        assert error["message"].startswith("This model's maximum context length is 128 tokens.")

    @pytest.mark.parametrize(
        "document", [{"prompt": []}, {"prompt": {}}, {"prompt": [[1], [2]]}, {"prompt": [1], "max_tokens": 0}]
    )
    def test_what_cannot_be_answered_is_400(self, url: str, document: dict[str, Any]) -> None:
        assert ask(url, document).status == 400

    def test_what_is_not_json_is_400(self, url: str) -> None:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as raw:
            body = b"{no"
            head = (
                f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 3\r\n\r\n"
            )
            raw.sendall(head.encode() + body)
            assert raw.recv(4096).startswith(b"HTTP/1.1 400")

    def test_an_answer_in_one_piece_counts_its_tokens(self, url: str) -> None:
        answer = json.loads(ask(url, {"prompt": [1, 2, 3], "max_tokens": 4, "ignore_eos": True}).body)
        assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 7, "completion_tokens": 4}
        assert answer["choices"][0]["finish_reason"] == "length"

    def test_a_streamed_answer_is_an_event_per_token_then_usage(self, url: str) -> None:
        document = {"prompt": "some text", "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
        *tokens, usage = events(ask(url, document))
        assert [event["choices"][0]["finish_reason"] for event in tokens] == [None, None, "length"]
        assert usage["usage"]["completion_tokens"] == 3

    def test_usage_comes_only_when_it_is_asked_for(self, url: str) -> None:
        assert len(events(ask(url, {"prompt": [1], "max_tokens": 2, "stream": True}))) == 2

    def test_chat_is_answered_as_chat(self, url: str) -> None:
        document = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        whole = json.loads(ask(url, document, "/v1/chat/completions").body)
        streamed = events(ask(url, document | {"stream": True}, "/v1/chat/completions"))
        assert whole["choices"][0]["message"]["role"] == "assistant"
        assert [event["choices"][0]["delta"]["content"] for event in streamed] == [" x", " x"]


def test_a_client_that_goes_away_frees_its_slot() -> None:
    with serving("--max-num-seqs", "1", "--enforce-eager") as (url, engine):
        port = int(url.rpartition(":")[2])
        body = json.dumps({"model": "tiny", "prompt": [1], "max_tokens": 2000, "stream": True}).encode()
        with socket.create_connection(("127.0.0.1", port)) as raw:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            raw.sendall(head.encode() + body)
            assert raw.recv(100)
        assert ask(url, {"prompt": [1], "max_tokens": 2}).status == 200  # else it would wait for 2000 tokens
        assert [finished.max_tokens for finished in engine.finished] == [2]


def sent(url: str, *, max_tokens: int, stream: bool) -> socket.socket:
    """A connection that has asked and not read."""
    body = json.dumps({"model": "tiny", "prompt": [1], "max_tokens": max_tokens, "stream": stream}).encode()
    raw = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
    raw.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return raw


def seen(url: str, name: str, value: int) -> bool:
    """Look at the metrics until this one has this value."""
    sample = f'vllm:{name}{{engine="0",model_name="tiny"}} {float(value)}'
    return any(sample in request(Server(url, "tiny", ""), "/metrics").body for _ in range(2000))


def test_a_client_that_goes_away_without_streaming_frees_its_slot() -> None:
    with serving("--max-num-seqs", "1", "--enforce-eager") as (url, engine):
        with sent(url, max_tokens=2000, stream=False):
            assert seen(url, "num_requests_running", 1)
        assert ask(url, {"prompt": [1], "max_tokens": 2}).status == 200  # else it would wait for 2000 tokens
        assert [finished.max_tokens for finished in engine.finished] == [2]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_while_its_request_waits_leaves_the_line(stream: bool) -> None:
    with serving("--max-num-seqs", "1", "--enforce-eager") as (url, engine), sent(url, max_tokens=2000, stream=True):
        assert seen(url, "num_requests_running", 1)
        with sent(url, max_tokens=3, stream=stream):
            assert seen(url, "num_requests_waiting", 1)
        assert seen(url, "num_requests_waiting", 0)
        assert list(engine.finished) == []  # its turn had not come


LEVEL = LevelPlan(
    load=Load(kind="request_rate", value=200.0),
    requests=tuple(
        PlannedRequest(n, n / 200, tuple(range(n % 5, n % 5 + 20 + 11 * n % 90)), 3 + 7 * n % 40) for n in range(60)
    ),
    max_concurrency=None,
    request_timeout_s=60.0,
    seed=0,
)
"""Requests of many lengths, some with a common prefix, arriving faster than answered: they compete for blocks."""
TIGHT = ("--max-num-seqs", "6", "--block-size", "32", "--max-model-len", "256", "--num-gpu-blocks-override", "9")
CHUNKED = ("--max-num-batched-tokens", "48")
WHOLE = ("--max-num-batched-tokens", "256", "--no-enable-chunked-prefill")


@dataclasses.dataclass(frozen=True)
class BothModes:
    records: list[RequestRecord]  # as the client saw them over HTTP
    engine: server.PacedEngine
    replayed: list[RequestRecord]
    core: Core


@pytest.fixture(scope="module", params=[CHUNKED, WHOLE], ids=["chunked", "whole"])
def both(request: pytest.FixtureRequest) -> BothModes:
    """One level over HTTP, and the requests that the server saw replayed in virtual time.

    The replay gets the arrivals that the server stamped: when a client's request gets through is the machine's affair,
    what the engine makes of it is not.
    """
    with serving(*TIGHT, *request.param) as (url, engine):
        records = list(measure(LEVEL, Endpoint(url, "tiny")).records)
    seen = sorted(engine.finished, key=lambda one: one.number)
    by_hashes = {
        (len(planned.prompt), planned.max_tokens, block_hashes(planned.prompt, 32)): planned
        for planned in LEVEL.requests
    }
    again = tuple(
        dataclasses.replace(by_hashes[one.prompt_tokens, one.max_tokens, one.hashes], index=n, offset_s=one.arrival_s)
        for n, one in enumerate(seen)
    )
    core = Core(engine.core.launch)
    level = dataclasses.replace(LEVEL, requests=again)
    return BothModes(records, engine, list(play(core, level, LevelWatch()).records), core)


class TestTheTwoModesAgree:
    def test_every_request_is_answered_in_both(self, both: BothModes) -> None:
        assert [record.error for record in both.records] == [None] * 60
        assert [record.error for record in both.replayed] == [None] * 60

    def test_every_token_has_the_same_stamp_to_the_last_bit(self, both: BothModes) -> None:
        seen = sorted(both.engine.finished, key=lambda one: one.number)
        assert [tuple(one.token_times_s) for one in seen] == [record.token_times_s for record in both.replayed]

    def test_steps_preemptions_and_cache_hits_are_the_same(self, both: BothModes) -> None:
        http, virtual = both.engine.core, both.core
        assert http.totals == virtual.totals
        assert (http.state.preemptions, http.state.cache_hits) == (virtual.state.preemptions, virtual.state.cache_hits)

    def test_the_level_is_one_that_preempts_and_hits(self, both: BothModes) -> None:
        """Else the comparison would say little."""
        assert both.core.state.preemptions > 0
        assert both.core.state.cache_hits > 0

    def test_a_client_never_sees_a_token_before_the_engine_made_it(self, both: BothModes) -> None:
        """What the client measures is the simulation plus the way there: never less."""
        simulated = {(one.prompt_tokens, one.max_tokens): one for one in both.engine.finished}
        for record in both.records:
            made = simulated[record.input_tokens, record.output_tokens]
            assert record.end_s - record.sent_s >= made.token_times_s[-1] - made.arrival_s - 1e-3


class TestProcess:
    @pytest.fixture
    def _own_locks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def launched(self, folder: Path, **arguments: Any) -> TrialRequest:
        demo = load((ROOT / "workloads" / "demo.yaml").read_text(), Workload, source="demo")
        small = {"levels": (4.0,), "requests_per_level": 24, "warmup_requests": 4}
        return TrialRequest(
            job="simulated",
            number=1,
            config=EngineConfig(arguments={"max_model_len": 64, **arguments}, environment=SPACE),
            profile=built_in_profiles()["simulated"],
            resource="NPU",
            model=read_model(TINY),
            engine_version="vllm-simulated",
            workload=demo.model_copy(update=small),
            sla=Sla(p99_ttft_ms=60000.0),
            levels=(Level(0, 4.0, 0),),
            search_seed=1,
            confirm_seeds=(),
            folder=folder,
        )

    @pytest.mark.usefixtures("_own_locks")
    def test_a_trial_runs_on_it_as_on_the_real_engine(self, tmp_path: Path) -> None:
        result = run_trial(self.launched(tmp_path, max_num_seqs=4), Grant(("7",), 1), Control())
        assert isinstance(result.outcome, Measured), result.outcome
        assert result.devices == ("7",)
        assert result.outcome.points[0].engine["generation_tokens"] == 24 * 16
        assert result.outcome.effective_config["kv_cache_size_tokens"] == "524288"

    @pytest.mark.usefixtures("_own_locks")
    def test_a_refused_start_is_understood(self, tmp_path: Path) -> None:
        result = run_trial(self.launched(tmp_path, block_size=16), Grant((), 1), Control())
        assert isinstance(result.outcome, Infeasible)
        assert result.outcome.evidence.failure is FailureClass.CONFIG

    def test_it_ends_with_code_0_soon_after_sigterm(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = subprocess.Popen(
            [EXECUTABLE, "serve", TINY, "--host", "127.0.0.1", "--port", str(port)],
            stdout=subprocess.PIPE,
            text=True,
            env=SPACE,
        )
        assert process.stdout is not None
        with process.stdout as lines:
            assert any("Application startup complete." in line for line in lines)
            process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            code = process.wait(timeout=20)
        assert code == 0
        assert time.monotonic() - started < 15

    def test_an_unknown_model_is_no_decoder(self, tmp_path: Path) -> None:
        done = subprocess.run([EXECUTABLE, "serve", tmp_path], check=False, **CAPTURED)
        assert done.returncode == 1
        assert "Invalid repository ID or local directory specified" in done.stdout

    def test_a_removed_option_ends_it_with_code_2(self) -> None:
        done = subprocess.run([EXECUTABLE, "serve", TINY, "--swap-space", "4"], check=False, **CAPTURED)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            2,
            "vllm: error: unrecognized arguments: --swap-space",
        )
