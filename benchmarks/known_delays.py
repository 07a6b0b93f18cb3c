"""How true the load generator's times are: `python benchmarks/known_delays.py [--streams 256] [--open RATE]`.

A server of our own, in another process, answers after delays that it draws, and stamps on its own clock when a request
had come and when it wrote each token. The error of a latency is what the client measured, from the scheduled time, less
what the server knows: all that lies between the two is the client, the kernel and the loopback device. The longest
wake-up delay of a process that only sleeps says what the machine itself adds: on a busy one repeat the run.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotune.level_run import LevelRun, RequestRecord
from autotune.loadgen import Endpoint, measure
from autotune.results import Load
from autotune.workload import LevelPlan, PlannedRequest

SERVER = Path(__file__).with_name("delayed_server.py")
PROMPT_TOKENS = 128
FIRST_TOKEN_S = (0.2, 1.0)
PERCENTS = (50, 90, 99, 99.9)

Stamps = Mapping[int, Sequence[float]]  # by request: when it had come, when each token was written


@dataclass(frozen=True, slots=True)
class Errors:
    """Measured less known, in ms: of every TTFT, and of every later token's distance from the scheduled time."""

    ttft_ms: tuple[float, ...]
    token_ms: tuple[float, ...]


def errors(records: Sequence[RequestRecord], stamps: Stamps) -> Errors:
    """Compare what the client measured with what the server knows. Raises ValueError where one lacks a token."""
    ttft_ms, token_ms = [], []
    for record in records:
        come_s, *written_s = stamps[record.index]
        pairs = zip(record.token_times_s, written_s, strict=True)
        first, *later = [1e3 * ((seen - record.scheduled_s) - (written - come_s)) for seen, written in pairs]
        ttft_ms.append(first)
        token_ms += later
    return Errors(tuple(ttft_ms), tuple(token_ms))


def run(plan: LevelPlan, gap_s: float) -> tuple[LevelRun, Stamps]:
    """Send the plan to a server that pauses so long between tokens; its stamps come with what the client saw."""
    command = [sys.executable, str(SERVER), "1", *map(str, FIRST_TOKEN_S), str(gap_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        level = measure(plan, Endpoint(f"http://127.0.0.1:{port}", "tiny"))
        said, _ = server.communicate()
    return level, {int(index): stamps_s for index, stamps_s in json.loads(said).items()}


def plan_of(requests: int, tokens: int, *, streams: int | None, rate: float = 0.0) -> LevelPlan:
    """A closed loop of so many streams; None: an open loop of `rate` requests/s."""
    prompt = (7,) * (PROMPT_TOKENS - 1)
    return LevelPlan(
        load=Load(kind="request_rate", value=rate) if streams is None else Load(kind="max_concurrency", value=streams),
        requests=tuple(
            PlannedRequest(n, n / rate if streams is None else 0.0, (n, *prompt), tokens) for n in range(requests)
        ),
        max_concurrency=streams,
        request_timeout_s=60.0,
        seed=0,
    )


def main() -> None:
    """Print the percentiles of the errors, and what the client used."""
    options = _options()
    open_rate = options.open
    plan = plan_of(options.requests, options.tokens, streams=None if open_rate else options.streams, rate=open_rate)
    with _sleeper() as late_ms:
        cpu_s, started_s = time.thread_time(), time.perf_counter()
        level, stamps = run(plan, options.gap_ms / 1e3)
        cpu_s, wall_s = time.thread_time() - cpu_s, time.perf_counter() - started_s
    answered = [record for record in level.records if record.error is None]
    found = errors(answered, stamps)
    print(
        f"{plan.load}: {len(answered)} of {len(plan.requests)} answered in {wall_s:.1f} s, {options.tokens} tokens each"
    )
    print("error, ms     " + "".join(f"{f'P{percent:g}':>9}" for percent in PERCENTS))
    _print("TTFT", found.ttft_ms)
    _print("later tokens", found.token_ms)
    _print("send lag", [1e3 * record.lag_s for record in answered])
    _print("bare sleep", late_ms)
    print(
        f"client: {1e3 * cpu_s / len(answered):.2f} CPU-s per 1,000 requests, {level.client.cpu_share:.0%} of a core, "
    )
    print(f"        its loop woke up {level.client.pause_ms:.1f} ms late (P99)")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How true the load generator's times are.")
    parser.add_argument("--streams", type=int, default=256, help="users of the closed loop")
    parser.add_argument("--open", type=float, default=0.0, help="an open loop with so many requests/s instead")
    parser.add_argument("--requests", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--gap-ms", type=float, default=400.0)
    return parser.parse_args()


@contextmanager
def _sleeper() -> Iterator[list[float]]:
    """How late a process that only sleeps wakes up (ms), every 10 ms; the list grows meanwhile."""
    command = [sys.executable, "-c", _SLEEP]
    late_ms: list[float] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield late_ms
        said, _ = process.communicate()
        late_ms += json.loads(said)


_SLEEP = """
import json, sys, threading, time
late_ms, end = [], threading.Event()
def sleep():
    while not end.is_set():
        before = time.perf_counter()
        time.sleep(0.01)
        late_ms.append(1e3 * (time.perf_counter() - before - 0.01))
thread = threading.Thread(target=sleep)
thread.start()
sys.stdin.read()
end.set()
thread.join()
json.dump(late_ms, sys.stdout)
"""


def _print(what: str, sample_ms: Sequence[float]) -> None:
    values = np.percentile(sample_ms, PERCENTS) if sample_ms else [float("nan")] * len(PERCENTS)
    print(f"{what:14}" + "".join(f"{value:9.2f}" for value in values))


if __name__ == "__main__":
    main()
