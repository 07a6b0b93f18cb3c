# ruff: noqa: T201 - it prints because vLLM does
"""A scripted stand-in for the `vllm` executable: starts in half a second and answers like a small engine.

`install(folder)` writes `folder/bin/vllm` and a `folder/bin/python` beside it that answers the probe script, so that a
profile may name it as its executable. It models a batch: at most `--max-num-seqs` requests decode at once, the rest
queue; a step takes longer the more requests are in it. Controlled by environment variables:

    FAKE_VLLM_RECORD  a file that gets argv, environment, pid and orphan pid as JSON
    FAKE_VLLM_MODE    hang: never listens; orphan: leaves a grandchild in a session of its own that ignores SIGTERM;
                      stubborn: ignores SIGTERM; mute: healthy, but completions never answer;
                      crash: exits 7 at the first completion after the check of readiness

`--block-size 16`, more sequences than batched tokens, and `--gpu-memory-utilization` above 0.97 are refused with
vLLM's real words; so are options that vLLM has removed.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

VERSION = "0.32.0"
STEP_S = 0.003  # a decode step of one request …
STEP_PER_REQUEST_S = 0.0001  # … and what each further request in the batch adds
PREFILL_S = 0.004
PREFILL_PER_TOKEN_S = 0.00002
KV_BLOCKS = 4096
REMOVED_OPTIONS = ("--swap-space", "--use-v2-block-manager", "--num-scheduler-steps")
ARGUMENTS = [
    "api_key",
    "block_size",
    "distributed_executor_backend",
    "dtype",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "host",
    "load_format",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "model",
    "port",
    "served_model_name",
    "tensor_parallel_size",
]


def install(folder: Path) -> Path:
    """Write the executable and its interpreter below `folder`; returns the path of `vllm`."""
    binaries = folder / "bin"
    binaries.mkdir(parents=True, exist_ok=True)
    this, python = Path(__file__).resolve(), sys.executable
    _script(
        binaries / "python",
        "#!/bin/sh\n"
        f'case "$1" in *probe.py) exec {python} -P {this} probe "$@" ;; *) exec {python} -P {this} "$@" ;; esac\n',
    )
    _script(binaries / "vllm", f"#!{binaries / 'python'}\n")
    return binaries / "vllm"


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def probe() -> None:
    """What the probe script says of the real engine, as far as this one has it."""
    print(
        json.dumps(
            {
                "versions": {"python": "3.11.0", "vllm": VERSION},
                "platform": "cpu",
                "arguments": ARGUMENTS,
                "model": None,
                "problems": [],
            }
        )
    )


def log(text: str) -> None:
    """A line as vLLM's API server logs it."""
    print(f"(APIServer pid={os.getpid()}) INFO 11-23 03:04:05 [fake.py:1] {text}", flush=True)


def refuse(problem: str) -> None:
    """End as the engine core does: the cause, wrapped."""
    print(f"(EngineCore pid={os.getpid()}) ERROR 11-23 03:04:12 [core.py:1234] {problem}", flush=True)
    print(
        f"(APIServer pid={os.getpid()}) RuntimeError: Engine core initialization failed. See root cause above. "
        "Failed core proc(s): {'EngineCore': 1}",
        flush=True,
    )
    sys.exit(1)


def parse() -> argparse.Namespace:
    """The options this engine models; others of vLLM are accepted, removed ones are not."""
    if sys.argv[1] != "serve":
        sys.exit(f"fake vllm: only `serve` is scripted, not {sys.argv[1]!r}")
    removed = [option for option in REMOVED_OPTIONS if option in sys.argv]
    if removed:
        print(f"main.py: error: unrecognized arguments: {' '.join(removed)}", flush=True)
        sys.exit(2)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command")
    parser.add_argument("model")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name")
    parser.add_argument("--block-size", type=int, default=128)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--max-model-len", type=int, default=2048)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    return parser.parse_known_args()[0]


def check(options: argparse.Namespace) -> None:
    """Refuse what vLLM refuses."""
    if options.max_num_batched_tokens < options.max_num_seqs:
        refuse(
            f"ValueError: max_num_batched_tokens ({options.max_num_batched_tokens}) must be greater than or equal to "
            f"max_num_seqs ({options.max_num_seqs})."
        )
    if options.block_size == 16:
        refuse("ValueError: No common block size for 16 (CPU_ATTN: [MultipleOf(32)]).")
    if options.gpu_memory_utilization > 0.97:
        refuse("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.")


def start_orphan() -> int:
    """A grandchild in a session of its own, whose parent is gone and which ignores SIGTERM; returns its pid."""
    grandchild = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = (
        "import subprocess, sys;"
        f"print(subprocess.Popen([sys.executable, '-c', {grandchild!r}], start_new_session=True,"
        " stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid)"
    )
    return int(subprocess.run([sys.executable, "-c", child], check=True, stdout=subprocess.PIPE).stdout)


class Engine:
    """The batch: slots, a queue before them, and the counters that /metrics shows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.slots = asyncio.Semaphore(options.max_num_seqs)
        self.running = 0
        self.waiting = 0
        self.completions = 0
        self.totals = {
            "prompt_tokens_total": 0.0,
            "generation_tokens_total": 0.0,
            "num_preemptions_total": 0.0,
            "prefix_cache_queries_total": 0.0,
            "prefix_cache_hits_total": 0.0,
            "request_queue_time_seconds_sum": 0.0,
            "request_queue_time_seconds_count": 0.0,
            "request_prefill_time_seconds_sum": 0.0,
            "request_prefill_time_seconds_count": 0.0,
        }

    async def tokens(self, prompt_tokens: int, count: int) -> Any:
        """Queue, prefill, then one item per generated token."""
        arrived = time.monotonic()
        self.waiting += 1
        await self.slots.acquire()
        self.waiting -= 1
        self.running += 1
        self.totals["request_queue_time_seconds_sum"] += time.monotonic() - arrived
        self.totals["request_queue_time_seconds_count"] += 1
        try:
            prefill_s = PREFILL_S + PREFILL_PER_TOKEN_S * prompt_tokens
            await asyncio.sleep(prefill_s)
            self.totals["request_prefill_time_seconds_sum"] += prefill_s
            self.totals["request_prefill_time_seconds_count"] += 1
            self.totals["prompt_tokens_total"] += prompt_tokens
            for _ in range(count):
                await asyncio.sleep(STEP_S + STEP_PER_REQUEST_S * self.running)
                self.totals["generation_tokens_total"] += 1
                yield " x"
        finally:
            self.running -= 1
            self.slots.release()

    def exposition(self) -> str:
        """The Prometheus text."""
        labels = 'engine="0",model_name="fake"'
        lines = [f"vllm:{name}{{{labels}}} {value}" for name, value in self.totals.items()]
        lines += [
            f"vllm:num_requests_running{{{labels}}} {float(self.running)}",
            f"vllm:num_requests_waiting{{{labels}}} {float(self.waiting)}",
            f"vllm:kv_cache_usage_perc{{{labels}}} {min(1.0, self.running / 256)}",
            f'vllm:cache_config_info{{block_size="{self.options.block_size}",cache_dtype="auto",enable_prefix_caching='
            f'"True",engine="0",gpu_memory_utilization="{self.options.gpu_memory_utilization}",kv_cache_size_tokens='
            f'"{KV_BLOCKS * self.options.block_size}",num_gpu_blocks="{KV_BLOCKS}",'
            'user_specified_block_size="False"} 1.0',
        ]
        return "\n".join(lines) + "\n"


class Api:
    """The HTTP interface, as far as the tuner uses it."""

    def __init__(self, engine: Engine, mode: str) -> None:
        self.engine = engine
        self.mode = mode
        self.model = engine.options.served_model_name or engine.options.model
        self.key = os.environ.get("VLLM_API_KEY")

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self.authorize])
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/v1/completions", self.completions)
        return app

    @web.middleware
    async def authorize(self, request: web.Request, handler: Any) -> Any:
        guarded = self.key and request.path.startswith("/v1")
        if guarded and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        entry = {"id": self.model, "object": "model", "max_model_len": self.engine.options.max_model_len}
        return web.json_response({"object": "list", "data": [entry]})

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self.engine.exposition(), content_type="text/plain")

    async def completions(self, request: web.Request) -> web.StreamResponse:
        question = await request.json()
        await self.misbehave()
        if question["model"] != self.model:
            message = f"The model `{question['model']}` does not exist."
            return web.json_response({"error": {"message": message, "code": 404}}, status=404)
        prompt = question["prompt"]
        prompt_tokens = len(prompt) if isinstance(prompt, list) else len(prompt.split())
        count = question["max_tokens"] if question.get("ignore_eos") else max(1, question["max_tokens"] // 2)
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": count, "total_tokens": prompt_tokens + count}
        if question.get("stream"):
            return await self.stream(request, question, usage)
        text = "".join([token async for token in self.engine.tokens(prompt_tokens, count)])
        choice = {"index": 0, "text": text, "finish_reason": "length"}
        answer = {"object": "text_completion", "model": self.model, "choices": [choice], "usage": usage}
        return web.json_response(answer)

    async def misbehave(self) -> None:
        self.engine.completions += 1
        if self.mode == "mute":
            await asyncio.sleep(600)
        if self.mode == "crash" and self.engine.completions > 1:
            os._exit(7)

    async def stream(self, request: web.Request, question: dict[str, Any], usage: dict[str, int]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": self.model}
        async for token in self.engine.tokens(usage["prompt_tokens"], usage["completion_tokens"]):
            choice = {"index": 0, "text": token, "logprobs": None, "finish_reason": None, "stop_reason": None}
            await send(response, {**head, "choices": [choice]})
        if (question.get("stream_options") or {}).get("include_usage"):
            await send(response, {**head, "choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


async def send(response: web.StreamResponse, document: dict[str, Any]) -> None:
    """One server-sent event."""
    await response.write(b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n")


async def serve(options: argparse.Namespace, mode: str) -> None:
    """Listen until SIGTERM, on a socket made as vLLM makes it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((options.host, options.port))
    runner = web.AppRunner(Api(Engine(options), mode).application(), access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener, backlog=2048, shutdown_timeout=0.1).start()
    stop = asyncio.Event()
    if mode != "stubborn":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    log("Application startup complete.")
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Serve, or answer the probe."""
    if sys.argv[1:2] == ["probe"]:
        probe()
        return
    del sys.argv[1]  # the path of the `vllm` script
    options = parse()
    mode = os.environ.get("FAKE_VLLM_MODE", "")
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    orphan = start_orphan() if mode == "orphan" else None
    if record := os.environ.get("FAKE_VLLM_RECORD"):
        partial = Path(f"{record}.partial")
        content = {"argv": sys.argv[1:], "environment": dict(os.environ), "pid": os.getpid(), "orphan": orphan}
        partial.write_text(json.dumps(content))
        partial.replace(record)
    log(f"non-default args: {{'model_tag': {options.model!r}, 'max_num_seqs': {options.max_num_seqs}}}")
    log(f"Using max model len {options.max_model_len}")
    log(f"Chunked prefill is enabled with max_num_batched_tokens={options.max_num_batched_tokens}.")
    log(f"Initializing a V1 LLM engine (v{VERSION}) with config: model={options.model!r}, tensor_parallel_size=1")
    check(options)
    tokens = KV_BLOCKS * options.block_size
    log(
        f"CPU KV cache size: {tokens:,} tokens, Maximum concurrency for {options.max_model_len:,} tokens per request: "
        f"{tokens / options.max_model_len:.2f}x"
    )
    if mode == "hang":
        time.sleep(600)
    asyncio.run(serve(options, mode))


if __name__ == "__main__":
    main()
