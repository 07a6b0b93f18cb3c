"""How vLLM is called, waited for and read back."""

import http.server
import os
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autotune.engine_config import EngineConfig
from autotune.engines import examine, readback, vllm
from autotune.engines.loopback import Server, request
from autotune.engines.readiness import NotReady, Ready, StartWatch, wait_ready
from autotune.errors import EnvironmentProblem, InputError

DATA = Path(__file__).parent.parent / "data"
EXPOSITION = (DATA / "vllm032_metrics.prom").read_text()
LOG = "\n".join(
    [
        "(APIServer pid=1) INFO 11-23 03:04:05 [api_utils.py:286] non-default args: {'model_tag': 'tiny', 'port': 80}",
        "(APIServer pid=1) INFO 11-23 03:04:05 [model.py:2152] Using max model len 256",
        "INFO 11-23 03:04:05 [scheduler.py:307] Chunked prefill is enabled with max_num_batched_tokens=2048.",
        "(EngineCore pid=2) INFO 11-23 03:04:12 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: "
        "model='tiny', tensor_parallel_size=2, pipeline_parallel_size=1, enforce_eager=True, device_config=cpu",
        "(EngineCore pid=2) INFO 11-23 03:04:35 [kv_cache_utils.py:2327] CPU KV cache size: 524,288 tokens, "
        "Maximum concurrency for 256 tokens per request: 2048.00x",
    ]
)


def arguments(config: EngineConfig) -> list[str]:
    return vllm.serve_arguments(config, model="m")


def test_the_engine_listens_on_loopback_at_the_port_the_supervisor_fills_in():
    assert arguments(EngineConfig()) == [
        "serve",
        "m",
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
        "--distributed-executor-backend",
        "mp",
    ]


@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        ("max_num_seqs", 64, ["--max-num-seqs", "64"]),
        ("gpu_memory_utilization", 0.9, ["--gpu-memory-utilization", "0.9"]),
        ("enable_chunked_prefill", True, ["--enable-chunked-prefill"]),
        ("enable_chunked_prefill", False, ["--no-enable-chunked-prefill"]),
        (
            "compilation_config",
            {"cudagraph_mode": "FULL"},
            ["--compilation-config", '{"cudagraph_mode": "FULL"}'],
        ),
        ("cudagraph_capture_sizes", [1, 2], ["--cudagraph-capture-sizes", "1", "2"]),
        ("quantization", None, []),
        ("disable_log_stats", False, []),  # a flag without a --no- form
    ],
)
def test_an_argument_is_spelled_as_the_command_line_wants_it(name: str, value: object, options: list[str]):
    assert arguments(EngineConfig(arguments={name: value}))[8:] == options


def test_a_configured_executor_backend_is_kept():
    assert "uni" in arguments(EngineConfig(arguments={"distributed_executor_backend": "uni"}))


def test_arguments_that_the_service_owns_are_refused_all_at_once():
    with pytest.raises(InputError) as refusal:
        arguments(EngineConfig(arguments={"port": 80, "api_key": "x"}))
    assert len(refusal.value.problems) == 2


def test_the_environment_drops_what_the_actor_left():
    base = {"RAY_ADDRESS": "x", "PYTHONHOME": "/x", "OMP_NUM_THREADS": "1", "AUTOTUNE_DATABASE_URL": "x", "HOME": "/h"}
    base |= {"PROMETHEUS_MULTIPROC_DIR": "/tmp/counts", "HCCL_HOST_SOCKET_PORT_RANGE": "60000-60050"}
    found = vllm.environment(base, model="hub/name", api_key="key")
    assert {name: found.get(name) for name in base} == {**dict.fromkeys(base), "HOME": "/h"}
    assert "HF_HUB_OFFLINE" not in found


def test_the_python_path_keeps_what_is_not_the_tuners_own():
    """CANN's set_env.sh puts folders there that an engine on NPUs cannot do without."""
    base = {"PYTHONPATH": os.pathsep.join([sys.prefix + "/lib", "/usr/local/Ascend/python/site-packages"])}
    found = vllm.environment(base, model="hub/name", api_key="key")
    assert found["PYTHONPATH"] == "/usr/local/Ascend/python/site-packages"


def test_later_layers_of_the_environment_win_and_the_key_always():
    layers = ({"A": "platform", "B": "platform"}, {"B": "profile"}, {"VLLM_API_KEY": "other"})
    found = vllm.environment({"A": "base"}, *layers, model="m", api_key="key")
    assert (found["A"], found["B"], found["VLLM_API_KEY"]) == ("platform", "profile", "key")


def test_a_local_model_is_served_without_the_hub(tmp_path: Path):
    assert vllm.environment({}, model=str(tmp_path), api_key="k")["HF_HUB_OFFLINE"] == "1"


def test_effective_values_come_from_the_log_and_the_real_exposition():
    found = readback.effective_values(EXPOSITION, LOG)
    expected = {
        "engine_version": "0.32.0",
        "max_model_len": "256",
        "max_num_batched_tokens": "2048",
        "kv_cache_size_tokens": "524288",
        "kv_cache_max_concurrency": "2048.00",
        "tensor_parallel_size": "2",
        "enforce_eager": "True",
        "block_size": "128",
        "gpu_memory_utilization": "0.92",
        "enable_prefix_caching": "True",
        "kv_cache_dtype": "auto",
        "non_default_args": "{'model_tag': 'tiny', 'port': 80}",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert "num_gpu_blocks" not in found  # "None" in the exposition


def test_the_metrics_win_over_the_log():
    metrics = 'vllm:cache_config_info{engine="0",kv_cache_size_tokens="1024"} 1.0\n'
    assert readback.effective_values(metrics, LOG)["kv_cache_size_tokens"] == "1024"


def test_a_value_the_engine_changed_is_reported():
    config = EngineConfig(
        arguments={"block_size": 16, "gpu_memory_utilization": 0.92, "enable_prefix_caching": True, "max_num_seqs": 8}
    )
    effective = {"block_size": "128", "gpu_memory_utilization": "0.920", "enable_prefix_caching": "True"}
    assert readback.overridden(config, effective) == {"block_size": "asked 16, runs 128"}


def test_auto_is_no_request():
    assert readback.overridden(EngineConfig(arguments={"kv_cache_dtype": "auto"}), {"kv_cache_dtype": "int8"}) == {}


def test_counters_of_the_real_exposition_are_all_there():
    assert set(readback.counters(EXPOSITION)) == {
        "preemptions",
        "prompt_tokens",
        "generation_tokens",
        "prefix_cache_queries",
        "prefix_cache_hits",
        "queue_time_s",
        "queue_count",
        "prefill_time_s",
        "prefill_count",
        "iteration_tokens",
        "iterations",
        "kv_cache_usage",
        "requests_running",
        "requests_waiting",
    }


def test_engines_are_summed_and_the_fullest_cache_counts():
    text = (
        'vllm:prompt_tokens_total{engine="0"} 10.0\n'
        'vllm:prompt_tokens_total{engine="1"} 5.0\n'
        'vllm:prompt_tokens_created{engine="0"} 1.7e+09\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.25\n'
        'vllm:kv_cache_usage_perc{engine="1"} 0.75\n'
    )
    assert readback.counters(text) == {"prompt_tokens": 15.0, "kv_cache_usage": 0.75}


def test_deltas_are_differences_and_means_of_the_window():
    before = {"queue_time_s": 1.0, "queue_count": 10.0, "prompt_tokens": 100.0, "kv_cache_usage": 0.9}
    after = {"queue_time_s": 1.5, "queue_count": 20.0, "prompt_tokens": 400.0, "kv_cache_usage": 0.5}
    assert readback.counter_deltas(before, after) == {
        "queue_time_s": 0.5,
        "queue_count": 10.0,
        "prompt_tokens": 300.0,
        "kv_cache_usage": 0.5,
        "mean_queue_time_ms": 50.0,
    }


class Script(http.server.BaseHTTPRequestHandler):
    """Answers as the server's `statuses` say, path by path."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def _answer(self) -> None:
        self.send_response(self.server.statuses[self.path])
        self.end_headers()
        self.wfile.write(b'{"said": "this"}')

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def server() -> Iterator[Callable[[dict[str, int]], Server]]:
    """Starts a scripted engine."""
    started = []

    def start(statuses: dict[str, int]) -> Server:
        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Script)
        httpd.statuses = statuses
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        started.append((httpd, thread))
        return Server(f"http://127.0.0.1:{httpd.server_port}", "m", "k")

    yield start
    for httpd, thread in started:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


NOBODY = Server("http://127.0.0.1:9", "m", "k")  # the discard port: nothing listens there


def watch(log: Path, **changes: object) -> StartWatch:
    watched = {
        "log": log,
        "timeout_s": 10.0,
        "exited": lambda: False,
        "fatal": lambda _: None,
        "cancelled": lambda: False,
        "poll_s": 0.001,
    }
    return StartWatch(**(watched | changes))


def test_ready_is_a_completion_not_only_health(server, tmp_path: Path):
    engine = server({"/health": 200, "/v1/completions": 200})
    assert isinstance(wait_ready(engine, watch(tmp_path / "log")), Ready)


def test_an_engine_that_is_up_and_answers_nothing_is_not_ready(server, tmp_path: Path):
    engine = server({"/health": 200, "/v1/completions": 500})
    found = wait_ready(engine, watch(tmp_path / "log"))
    assert isinstance(found, NotReady)
    assert (found.kind, found.detail[-16:]) == ("no_answer", '{"said": "this"}')


def test_a_fatal_line_ends_the_wait_at_once(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("starting\nNPU out of memory\n")
    found = wait_ready(NOBODY, watch(log, fatal=lambda text: "npu_oom" if "NPU out of memory" in text else None))
    assert (found.kind, found.detail) == ("fatal", "npu_oom")


def test_half_a_line_is_not_read_yet(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("whole\nhal")
    seen: list[str] = []
    wait_ready(NOBODY, watch(log, fatal=seen.append, timeout_s=0.0))
    assert seen == ["whole\n"]


def test_a_message_over_two_reads_is_seen_whole(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("first\n")
    seen: list[str] = []

    def fatal(text: str) -> str | None:
        seen.append(text)
        with log.open("a") as more:
            more.write("second\n")
        return "done" if "second" in text else None

    wait_ready(NOBODY, watch(log, fatal=fatal))
    assert seen == ["first\n", "first\nsecond\n"]


def test_the_last_words_of_a_dead_engine_are_read_before_it_counts_as_exited(tmp_path: Path):
    log = tmp_path / "log"

    def exited() -> bool:
        log.write_text("ValueError: no\n")
        return True

    found = wait_ready(NOBODY, watch(log, exited=exited, fatal=lambda text: "config"))
    assert found.kind == "fatal"


@pytest.mark.parametrize(
    ("change", "kind"),
    [({"exited": lambda: True}, "exited"), ({"cancelled": lambda: True}, "cancelled"), ({"timeout_s": 0.0}, "timeout")],
)
def test_the_wait_ends_when_nothing_can_come_any_more(tmp_path: Path, change: dict[str, object], kind: str):
    assert wait_ready(NOBODY, watch(tmp_path / "log", **change)).kind == kind


def test_loopback_requests_ignore_a_proxy(server, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert request(server({"/metrics": 200}), "/metrics").status == 200


def test_nobody_listening_is_an_answer_with_status_0():
    assert request(NOBODY, "/health").status == 0


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        ("#!/opt/engine/bin/python3.11\n", "/opt/engine/bin/python3.11"),
        ("#!/bin/sh\n'''exec' \"/a long path/python\" \"$0\" \"$@\"\n' '''\n", "/a long path/python"),
        ("#!/bin/sh\n# a wrapper\n", "{folder}/python"),
    ],
)
def test_the_interpreter_is_the_one_that_runs_the_script(tmp_path: Path, head: str, interpreter: str):
    script = tmp_path / "vllm"
    script.write_text(head)
    script.chmod(0o755)
    assert examine.interpreter_of(str(script)) == interpreter.format(folder=tmp_path)


def test_a_missing_executable_says_where_to_correct_it():
    with pytest.raises(EnvironmentProblem, match="profile's `executable`"):
        examine.interpreter_of("/nowhere/vllm")


def test_the_probe_tells_version_and_arguments(tmp_path: Path):
    executable = runpy.run_path(str(DATA / "fault_vllm.py"))["install"](tmp_path)
    found = examine.probe(str(executable), environment={})
    assert (found.version, found.platform) == ("vllm 0.32.0", "cpu")
    assert "max_num_seqs" in found.arguments


def test_an_environment_without_vllm_is_a_problem_with_advice(tmp_path: Path):
    script = tmp_path / "vllm"
    script.write_text(f"#!{sys.executable}\n")
    script.chmod(0o755)
    with pytest.raises(EnvironmentProblem, match="has no vLLM installed"):
        examine.probe(str(script), environment={})
