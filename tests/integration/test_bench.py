"""`autotune bench` as a user types it, against an engine that runs already."""

import http.server
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autotune.cli.bench import Asked
from autotune.cli.bench import bench as run_bench
from autotune.errors import EnvironmentProblem
from autotune.settings import built_in_profiles
from autotune.trial import endpoint

pytestmark = pytest.mark.process

TINY = Path(__file__).parents[2] / "autotune" / "demo" / "tiny-llama"
EXECUTABLE = built_in_profiles()["simulated"].executable
KEY = "the-key"
SMALL = ("--set", "levels=[4,8]", "--set", "requests_per_level=24", "--set", "warmup_requests=4")


@pytest.fixture(scope="module")
def url(free_port: int) -> Iterator[str]:
    """A simulated engine, and where it listens."""
    process = subprocess.Popen(
        [EXECUTABLE, "serve", TINY, "--host", "127.0.0.1", "--port", str(free_port), "--max-model-len", "64"],
        stdout=subprocess.PIPE,
        text=True,
        env={"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_API_KEY": KEY},
    )
    assert process.stdout is not None
    with process.stdout as lines:
        assert any("Application startup complete." in line for line in lines)
        threading.Thread(target=lines.read).start()  # it must not wait for somebody to read its log
        yield f"http://127.0.0.1:{free_port}"
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def free_port() -> int:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        return int(server.server_address[1])


def bench(*words: str | Path, key: str = KEY, files: int | None = None) -> "subprocess.CompletedProcess[str]":
    """What the command says; with at most so many open files."""
    limited = [] if files is None else ["prlimit", f"--nofile={files}:{files}"]
    command = [*limited, sys.executable, "-m", "autotune", "bench", "--workload", "demo", *SMALL, *words]
    environment = os.environ | {"OPENAI_API_KEY": key}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


@contextmanager
def answering(body: str) -> Iterator[str]:
    """A server that says the same to everybody."""

    class Says(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_every_level_is_measured_and_printed_as_vllm_bench_serve_does(url: str):
    done = bench("--url", url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" Serving Benchmark Result ") == 2
    assert done.stdout.count("Successful requests:                     24") == 2
    assert "loading 8 concurrent (24 requests)" in done.stderr


def test_json_holds_a_document_per_level_and_nothing_else_is_on_stdout(url: str):
    done = bench("--url", f"{url}/v1/", "--json")
    levels = json.loads(done.stdout)
    assert [(level["load"]["value"], level["completed"], level["total_output_tokens"]) for level in levels] == [
        (4.0, 24, 384),
        (8.0, 24, 384),
    ]
    assert all(level["feasible"] is None and level["p99_ttft_ms"] > 0 for level in levels)


def test_an_sla_ends_the_climb_at_the_level_that_breaks_it(url: str):
    done = bench("--url", url, "--json", "--sla", "p99_ttft_ms=0.001")
    levels = json.loads(done.stdout)
    assert [level["feasible"] for level in levels] == [False]


def of_lengths(url: str, lengths: str) -> "tuple[int, list[dict[str, Any]]]":
    """Without an SLA; the engine takes requests of at most 64 tokens, 4 of them the answer."""
    data = f"dataset={{kind: synthetic, input_tokens: {lengths}, output_tokens: {{kind: fixed, tokens: 4}}}}"
    done = bench("--url", url, "--json", "--set", data)
    return done.returncode, json.loads(done.stdout)


def test_without_an_sla_every_level_is_measured_though_requests_fail(url: str):
    code, levels = of_lengths(url, "{kind: uniform, min: 40, max: 64}")
    assert len(levels) == 2
    assert all(0 < level["failed"] < 12 for level in levels)
    assert code == 0


def test_a_level_that_serves_nobody_is_the_last_one_and_the_exit_code_says_so(url: str):
    code, levels = of_lengths(url, "{kind: fixed, tokens: 80}")
    assert [level["completed"] for level in levels] == [0]
    assert code == 1


def test_records_are_not_mixed_with_older_ones(url: str, tmp_path: Path):
    (tmp_path / "older.txt").write_text("kept")
    done = bench("--url", url, "--records", tmp_path)
    assert done.returncode == 2
    assert f"--records {tmp_path}: is no empty folder" in done.stderr


def test_the_records_of_all_requests_are_kept_where_they_are_wanted(url: str, tmp_path: Path):
    assert bench("--url", url, "--records", tmp_path / "kept", "--seed", "0").returncode == 0
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == ["requests-level-0-seed-0.jsonl.gz", "requests-level-1-seed-0.jsonl.gz"]


def test_every_measurement_has_prompts_of_its_own_and_tells_their_seed(url: str):
    """An endpoint keeps its prefix cache from one to the next."""
    first, second, named = (
        json.loads(bench("--url", url, "--json", *words).stdout)[0]["seed"] for words in ((), (), ("--seed", "7"))
    )
    assert first != second
    assert named == 7
    assert "Seed of the trace:                       7" in bench("--url", url, "--seed", "7").stdout


def test_why_requests_failed_is_told(url: str):
    data = "dataset={kind: synthetic, input_tokens: {kind: fixed, tokens: 80}, output_tokens: {kind: fixed, tokens: 4}}"
    done = bench("--url", url, "--set", data)
    assert "      24 x HTTP 400: " in done.stdout
    ((reason, count),) = json.loads(bench("--url", url, "--json", "--set", data).stdout)[0]["errors"].items()
    assert (reason.startswith("HTTP 400: "), count) == (True, 24)


@pytest.mark.parametrize("as_json", [True, False])
def test_what_was_measured_is_printed_though_the_next_level_cannot_be(url: str, as_json: bool):
    """The second level needs more connections than this process may open."""
    words = ["--url", url, "--set", "levels=[4,120]", *(["--json"] if as_json else [])]
    done = bench(*words, files=200)
    told = json.loads(done.stdout) if as_json else done.stdout.split(" Serving Benchmark Result ")[1:]
    assert len(told) == 1
    assert "may need 120 connections" in done.stderr


class Stopping(http.server.BaseHTTPRequestHandler):
    """Answers the 28 requests of the warm-up and the first level, and then nobody."""

    protocol_version = "HTTP/1.1"
    left = itertools.count(28, -1)
    over = threading.Event()

    def do_GET(self) -> None:
        self.say(json.dumps({"data": [{"id": "m", "root": str(TINY)}]} if self.path == "/v1/models" else {}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if next(self.left) <= 0:
            self.over.wait(60)
            return
        tokens = asked["max_tokens"]
        usage = {"prompt_tokens": len(asked["prompt"]), "completion_tokens": tokens}
        chunks = [json.dumps({"choices": [{"text": "a"}]})] * tokens + [json.dumps({"usage": usage}), "[DONE]"]
        self.say("".join(f"data: {chunk}\n\n" for chunk in chunks))

    def say(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_level_that_stalls_costs_nothing_of_those_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(endpoint, "STALL_TIMEOUT_S", 1.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stopping) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        fields = [word for word in SMALL if word != "--set"]
        asked = Asked(url, "demo", fields, (), None, None, 1, 0, None, exact=True)
        with pytest.raises(EnvironmentProblem, match="no request got a token for 1 s"):
            run_bench(asked, as_json=True)
        Stopping.over.set()
        server.shutdown()
    assert [level["completed"] for level in json.loads(capsys.readouterr().out)] == [24]


def test_a_wrong_key_is_one_clear_message(url: str):
    done = bench("--url", url, key="wrong")
    assert done.returncode == 3
    assert "HTTP 401" in done.stderr
    assert "set OPENAI_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_is_not_served_is_refused_with_those_that_are(url: str):
    done = bench("--url", url, "--model", "other")
    assert done.returncode == 2
    assert f"--model other: {url} serves {TINY}" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--url", "127.0.0.1:8000"), "--url 127.0.0.1:8000: not an address; write it as http://HOST:PORT"),
        (
            ("--url", "http://127.0.0.1:9", "--sla", "confidence=0.95", "--sla", "p99_ttft_ms=9"),
            "at least 299 requests",
        ),
        (("--url", "http://127.0.0.1:9", "--sla", "p99_ttft_ms"), "--sla p99_ttft_ms: write LINE=LIMIT"),
        (("--url", "http://127.0.0.1:9", "--set", "levels=[4,2]"), "levels must ascend"),
        (("--url", "http://127.0.0.1:9", "--sla", "p99_ttf_ms=3"), "unknown SLA line"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_sent(words: tuple[str, ...], message: str):
    done = bench(*words)
    assert done.returncode == 2
    assert message in done.stderr


def test_an_endpoint_that_does_not_answer_is_named():
    with answering("") as url:
        pass
    done = bench("--url", url)
    assert done.returncode == 3
    assert f"{url}/v1/models does not answer" in done.stderr


def test_a_served_model_without_a_folder_here_needs_the_tokenizer_option():
    with answering('{"data": [{"id": "elsewhere/model"}]}') as url:
        done = bench("--url", url)
    assert done.returncode == 2
    assert "name the served model's folder with --tokenizer" in done.stderr


def test_something_that_is_no_openai_endpoint_is_told():
    with answering("<html>") as url:
        done = bench("--url", url)
    assert done.returncode == 3
    assert "names no model; is it an OpenAI-compatible endpoint?" in done.stderr
