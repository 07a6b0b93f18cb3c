# ruff: noqa: T201 - it prints because vLLM does
"""The fault engine: the simulated engine in place of the `vllm` executable, failing in whatever way it is told to.

`install(folder)` writes `folder/bin/vllm` and a `folder/bin/python` beside it that answers the probe script, so that a
profile may name it as its executable. Without a fault it answers as the simulated engine does (`--block-size 16` and
more sequences than batched tokens are refused in vLLM's words). The environment decides:

    FAKE_VLLM_RECORD  a file that gets argv, environment, pid, orphan pid and fault as JSON, in the launch's own folder
    FAULT             one of the following; without one, all goes well

    log:ID                  prints the sample of this signature as vLLM would, with its wrappers, and exits with 1
    wait:ID                 prints it and never becomes ready
    hang-before-ready       never listens; sleeps-before-ready the same
    busy-before-ready:S     computes for so many seconds without a word before it listens
    talks-before-ready:S    says something now and then for so many seconds before it listens, and computes nothing
    waits-before-ready      says again and again that a worker does not take its task, and never listens
    mute                    healthy, but no completion is ever answered
    stall:TOKENS            answers so many tokens in all, then none; connections stay open
    die:SIGKILL die:SIGSEGV kills itself in the middle of the load; so does exit:CODE, by exiting
    ignore-sigterm          goes well, but SIGTERM does not end it
    orphan                  leaves a grandchild in a session of its own that holds the port and ignores SIGTERM
    wrong-tokens:SHARE      this share of the requests gets one token less than it asked for
    http-500:SHARE          … is refused
    drop-connection:SHARE   … loses its connection
    deaf:S                  one request in the middle of the load is refused, then /health is not answered for S seconds
    slow-first-token:S      every answer starts so many seconds late
    compiles:S              … but only those of the first requests under load, as if it compiled for them
    random:SEED             one of FAULT_CHOICES (names as above, separated by commas; default: QUICK_FAULTS) with
                            FAULT_PROBABILITY (default 0.3), drawn by the SHA-256 of seed, command line without port,
                            and the name of the launch's folder: a second attempt draws again, a repeated run the same

"In the middle of the load" is the request number FAULT_AFTER (default 12; the check of readiness is the first).
"""

import asyncio
import hashlib
import json
import os
import resource
import runpy
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

VERSION = "0.32.0"
SIGNATURES = Path(__file__).parents[2] / "autotune" / "diagnosis" / "signatures.json"
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
QUICK_FAULTS = (
    "log:npu_oom,log:acl_207008,log:hccl_bind,log:hccl_socket_timeout,log:block_size_kernel,die:SIGKILL,die:SIGSEGV,"
    "exit:7,orphan,wrong-tokens:0.3,http-500:0.3,drop-connection:0.3,slow-first-token:0.2"
)
FOR_EVER_S = 3600.0
DROP_AFTER_S = 0.02


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
    """What the probe script says of the real engine."""
    versions = {"python": "3.11.0", "vllm": VERSION}
    document = {"versions": versions, "platform": "cpu", "arguments": ARGUMENTS, "model": None, "problems": []}
    print(json.dumps(document))


def chosen_fault(argv: list[str]) -> tuple[str, str]:
    """The fault of this launch: its name and its parameter, both empty when all goes well."""
    fault = os.environ.get("FAULT", "")
    name, _, parameter = fault.partition(":")
    if name == "random":
        return _drawn(parameter, argv).partition(":")[::2]
    return name, parameter


def _drawn(seed: str, argv: list[str]) -> str:
    port = argv.index("--port") + 1 if "--port" in argv else len(argv)
    words = [seed, *argv[:port], *argv[port + 1 :], Path.cwd().name]
    digest = hashlib.sha256("\0".join(words).encode()).digest()
    if int.from_bytes(digest[:8], "big") / 2**64 >= float(os.environ.get("FAULT_PROBABILITY", "0.3")):
        return ""
    choices = os.environ.get("FAULT_CHOICES", QUICK_FAULTS).split(",")
    return choices[int.from_bytes(digest[8:16], "big") % len(choices)]


def say(level: str, text: str) -> None:
    """Lines as the engine core's logger prints them."""
    for line in text.split("\n"):
        print(f"(EngineCore pid={os.getpid()}) {level} 11-23 03:04:12 [core.py:1234] {line}", flush=True)


def print_failure(identity: str) -> None:
    """The last words of an engine that fails with this signature, wrappers included."""
    known = next(entry for entry in json.loads(SIGNATURES.read_text()) if entry["id"] == identity)
    say("INFO", f"Initializing a V1 LLM engine (v{VERSION}) with config: model='m', tensor_parallel_size=1")
    say("INFO", "Loading weights took 0.42 seconds")
    if known.get("at_info"):
        print(known["sample"], flush=True)
        return
    say("ERROR", "EngineCore failed to start.\nTraceback (most recent call last):\n  File 'core.py', line 1, in run")
    say("ERROR", known["sample"])
    print("RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}", flush=True)


def sleep_for_ever() -> NoReturn:
    """Never listen."""
    while True:
        time.sleep(FOR_EVER_S)


def open_npus() -> None:
    """Take the devices and the HCCL ports of the pretended machine, where there is one; see npu_machine.py."""
    folder = os.environ.get("PRETENDED_NPUS")
    if not folder:
        return
    machine = runpy.run_path(str(Path(__file__).with_name("npu_machine.py")), run_name="npu_machine")
    visible = [int(device) for device in os.environ["ASCEND_RT_VISIBLE_DEVICES"].split(",")]
    base = int(os.environ["HCCL_IF_BASE_PORT"])
    problem = machine["open_devices"](Path(folder), visible)
    problem = problem or machine["listen_for_hccl"](os.environ["PRETENDED_ADDRESS"], base)
    if problem:
        say("ERROR", problem)
        sys.exit(1)


def dawdle(name: str, parameter: str) -> None:
    """Be long about the start, in one way or another."""
    end_s = time.monotonic() + float(parameter or FOR_EVER_S)
    while time.monotonic() < end_s:
        if name == "talks-before-ready":
            print(".", end="", flush=True)  # a progress bar: the line does not end
        if name == "waits-before-ready":
            say("INFO", "No available shared memory broadcast block found in 60 seconds.")
        if name != "busy-before-ready":
            time.sleep(0.2)


def start_orphan(port: int) -> int:
    """A grandchild in a session of its own, its parent gone, that holds the port and ignores SIGTERM; its pid.

    Linux lets several sockets bind a port before one listens, when all set SO_REUSEADDR.
    """
    grandchild = (
        "import signal, socket, time;"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "held = socket.socket(); held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1);"
        f"held.bind(('127.0.0.1', {port})); print('held', flush=True); time.sleep({FOR_EVER_S})"
    )
    child = (
        "import subprocess, sys;"
        f"born = subprocess.Popen([sys.executable, '-S', '-c', {grandchild!r}], start_new_session=True,"
        " stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL);"
        "born.stdout.readline(); print(born.pid)"
    )
    return int(subprocess.run([sys.executable, "-S", "-c", child], check=True, stdout=subprocess.PIPE).stdout)


def note_launch(fault: str, orphan: int | None) -> None:
    """Write the record, whole or not at all."""
    record = os.environ.get("FAKE_VLLM_RECORD")
    if not record:
        return
    content = {"argv": sys.argv[1:], "environment": dict(os.environ), "pid": os.getpid(), "orphan": orphan}
    partial = Path(f"{record}.partial")
    partial.write_text(json.dumps(content | {"fault": fault}))
    partial.replace(record)


def die(name: str, parameter: str) -> NoReturn:
    """End at once, without another word."""
    if name == "exit":
        os._exit(int(parameter))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    number = signal.Signals[parameter]
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    sleep_for_ever()


def faulty_middleware(name: str, parameter: str, web: Any) -> Any:
    """What goes wrong with requests before the engine sees them."""
    asked, deaf_until_s = 0, 0.0
    middle = int(os.environ.get("FAULT_AFTER", "12"))

    def is_hit(default_share: str) -> bool:
        share = float(parameter or default_share)
        return int(asked * share) != int((asked - 1) * share)

    @web.middleware
    async def misbehave(request: Any, handler: Any) -> Any:
        nonlocal asked, deaf_until_s
        if request.method != "POST":
            await asyncio.sleep(max(0.0, deaf_until_s - time.monotonic()) if request.path == "/health" else 0.0)
            return await handler(request)
        asked += 1
        if name in ("die", "exit") and asked == middle:
            die(name, parameter)
        if name == "deaf" and asked == middle:
            deaf_until_s = time.monotonic() + float(parameter)
        if (name == "http-500" and is_hit("0.3")) or (name == "deaf" and asked == middle):
            message = {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "code": 500}
            return web.json_response({"error": message}, status=500)
        if name == "drop-connection" and is_hit("0.3"):
            assert request.transport is not None
            asyncio.get_running_loop().call_later(DROP_AFTER_S, request.transport.abort)
        if name == "wrong-tokens" and is_hit("0.3"):
            document = json.loads(await request.read())
            document["max_tokens"] = max(1, document["max_tokens"] - 1)
            request._read_bytes = json.dumps(document).encode()  # what request.json() will read
        if (name == "slow-first-token" and asked > 1) or (name == "compiles" and 1 < asked < 6):
            await asyncio.sleep(float(parameter or "0.5"))
        return await handler(request)

    return misbehave


def make_silent(engine: Any, after_tokens: int) -> None:
    """Let the engine answer so many tokens in all, then nothing for ever."""
    sound, given = engine.answer, 0

    async def answer(*arguments: Any, **named: Any) -> AsyncIterator[Any]:
        nonlocal given
        async for token in sound(*arguments, **named):
            if given >= after_tokens:
                await asyncio.sleep(FOR_EVER_S)
            given += 1
            yield token

    engine.answer = answer


def serve(name: str, parameter: str) -> NoReturn:
    """The simulated engine as its command starts it, with the faults that show only once it runs."""
    # Only here: these imports take 0.3 s, and most of the suite's hundred launches end before they would serve.
    from aiohttp import web

    from autotune.engines.simulated import __main__ as command
    from autotune.engines.simulated import server

    sound = server.application

    def faulty(*arguments: Any, **named: Any) -> Any:
        app = sound(*arguments, **named)
        app.middlewares.append(faulty_middleware(name, parameter, web))
        if name in ("mute", "stall"):
            make_silent(app[server.ENGINE], int(parameter or "0"))
        return app

    server.application = faulty
    sys.exit(command.main())


def main() -> None:
    """Serve, fail, or answer the probe."""
    if sys.argv[1:2] == ["probe"]:
        probe()
        return
    del sys.argv[1]  # the path of the `vllm` script
    argv = sys.argv[1:]
    name, parameter = chosen_fault(argv)
    if name == "ignore-sigterm":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # the server installs a handler later
    orphan = start_orphan(int(argv[argv.index("--port") + 1])) if name == "orphan" else None
    note_launch(f"{name}:{parameter}" if parameter else name, orphan)
    open_npus()
    if name in ("log", "wait"):
        print_failure(parameter)
    if name == "log":
        sys.exit(1)
    if name in ("wait", "hang-before-ready"):
        sleep_for_ever()
    if name.endswith("-before-ready"):
        dawdle(name, parameter)
    serve(name, parameter)


if __name__ == "__main__":
    main()
