"""`autotune bench` as a user types it, against an engine that runs already."""

import http.server
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

from autotune.settings import built_in_profiles

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


def bench(*words: str | Path, key: str = KEY) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "autotune", "bench", "--workload", "demo", *SMALL, *words]
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
    assert bench("--url", url, "--records", tmp_path / "kept").returncode == 0
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == ["requests-level-0-seed-0.jsonl.gz", "requests-level-1-seed-0.jsonl.gz"]


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
        (("--url", "http://127.0.0.1:9/llm/v1"), "an endpoint below a path is not supported"),
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
