"""The service under load: `python benchmarks/service_load.py [--seconds 30] [--database URL]`.

200 clients poll (each once a second: the list, a job, its trials, its front), 50 watch a job's events, and 20 jobs a
second are submitted, on SQLite or the database of `--database`. Everything runs on this machine: one `autotune serve`
without a worker but with a process for every core, and the clients in this process. Prints latencies of each kind of
request, and what must be zero: answers of 5xx, lost jobs, watchers that missed an event. Exits with 1 unless they are.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import yaml

POLLERS, WATCHERS, SUBMISSIONS_PER_S = 200, 50, 20
POLL_EVERY_S = 1.0
START_S = 60.0
SETTLE_S = 10.0  # else the first process has all the clients before the others are there
ANSWER_S = 60.0
JOB = {
    "version": 1,
    "name": "load",
    "model": "tiny-llama",
    "engine": "simulated",
    "devices": {"resource": "CPU", "max_per_trial": 1},
    "search_space": "demo",
    "workload": "demo",
    "sla": {"p99_ttft_ms": 700},
}


@dataclass
class Tally:
    """What the clients saw."""

    latencies_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[int] = field(default_factory=Counter)
    submitted: set[str] = field(default_factory=set)
    unanswered: int = 0
    heard: int = 0  # watchers that got the event of the job they watch

    @property
    def server_errors(self) -> int:
        """Answers of 5xx, and requests that got none."""
        return sum(count for status, count in self.statuses.items() if status >= 500) + self.unanswered


async def timed(
    session: aiohttp.ClientSession, tally: Tally, kind: str, method: str, path: str, **body: object
) -> bytes:
    """One request, counted."""
    start_s = time.perf_counter()
    try:
        async with session.request(method, path, **body) as answer:  # type: ignore[arg-type]
            content = await answer.read()
            tally.statuses[answer.status] += 1
    except (aiohttp.ClientError, TimeoutError):
        tally.unanswered += 1
        return b""
    tally.latencies_ms[kind].append((time.perf_counter() - start_s) * 1e3)
    return content


async def poll(session: aiohttp.ClientSession, tally: Tally, number: int, jobs: Sequence[str], until_s: float) -> None:
    """A client that looks once a second, at something else each time."""
    await asyncio.sleep(number / POLLERS * POLL_EVERY_S)
    kinds = itertools.cycle(("list", "job", "trials", "front"))
    for _ in range(number % 4):
        next(kinds)
    for turn in itertools.count(number):
        begun_s = time.monotonic()
        if begun_s >= until_s:
            return
        kind, job = next(kinds), jobs[turn % len(jobs)]
        paths = {"list": "/v1/jobs", "job": f"/v1/jobs/{job}", "trials": f"/v1/jobs/{job}/trials"}
        await timed(session, tally, kind, "GET", paths.get(kind, f"/v1/jobs/{job}/pareto"))
        await asyncio.sleep(max(0.0, POLL_EVERY_S - (time.monotonic() - begun_s)))


async def submit(session: aiohttp.ClientSession, tally: Tally, until_s: float) -> None:
    """Twenty jobs a second, sent when they are due whatever the server does."""
    async with asyncio.TaskGroup() as group:
        begun_s = time.monotonic()
        for number in itertools.count():
            due_s = begun_s + number / SUBMISSIONS_PER_S
            if due_s >= until_s:
                return
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            group.create_task(submit_one(session, tally, number))


async def submit_one(session: aiohttp.ClientSession, tally: Tally, number: int) -> None:
    """Submit a job and remember its id."""
    headers = {"Idempotency-Key": f"load-{number}"}
    content = await timed(session, tally, "submit", "POST", "/v1/jobs", json={"job": JOB}, headers=headers)
    with contextlib.suppress(ValueError, KeyError):
        tally.submitted.add(json.loads(content)["id"])


async def watch(session: aiohttp.ClientSession, tally: Tally, job: str, until_s: float) -> None:
    """A watcher of one job, until it has heard of its end."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + until_s - time.monotonic() + 10):
            async with session.get(f"/v1/jobs/{job}/events") as answer:
                tally.statuses[answer.status] += 1
                async for line in answer.content:
                    if line.startswith(b"event: job_finished"):
                        tally.heard += 1
                        return


async def load(address: str, seconds: float) -> tuple[Tally, int]:
    """Everything at once; what was seen, and how many of the submitted jobs the server lists afterwards."""
    tally = Tally()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    async with aiohttp.ClientSession(address, connector=connector, timeout=timeout) as session:
        for number in range(20):
            await submit_one(session, tally, -1 - number)
        jobs = sorted(tally.submitted)
        tally.latencies_ms.clear()
        until_s = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(WATCHERS):
                group.create_task(watch(session, tally, jobs[0], until_s))
            for number in range(POLLERS):
                group.create_task(poll(session, tally, number, jobs, until_s))
            group.create_task(submit(session, tally, until_s))
            await asyncio.sleep(seconds * 0.8)
            await timed(session, tally, "cancel", "POST", f"/v1/jobs/{jobs[0]}/cancel")
        kept = {job async for job in every_job(session)}
    return tally, len(tally.submitted - kept)


async def every_job(session: aiohttp.ClientSession) -> AsyncIterator[str]:
    """The ids of all jobs, page by page."""
    cursor = ""
    for _ in range(1000):
        async with session.get("/v1/jobs", params={"limit": 200} | ({"cursor": cursor} if cursor else {})) as answer:
            page = await answer.json()
        for job in page["jobs"]:
            yield job["id"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


@contextlib.contextmanager
def service(home: Path, database: str | None) -> Iterator[str]:
    """A service of its own without a worker; its address."""
    generous = {"rate_per_s": 10_000, "rate_burst": 10_000, "limits": {"queued_jobs": 100_000}}
    settings = {"home": str(home), "service": generous} | ({"database_url": database} if database else {})
    (home / "settings.yaml").write_text(yaml.safe_dump(settings))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AUTOTUNE_")}
    environment = ours | {"AUTOTUNE_SETTINGS": str(home / "settings.yaml")}
    command = [sys.executable, "-m", "autotune", "serve", "--port", str(port), "--no-worker"]
    command += ["--processes", str(len(os.sched_getaffinity(0)))]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            until_open(port)
            time.sleep(SETTLE_S)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def until_open(port: int) -> None:
    """Wait for the port. Raises SystemExit when nothing listens in time."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the service does not listen")


def report(tally: Tally, lost: int, seconds: float) -> None:
    """A table in Markdown, then the zeros."""
    print("| requests | count | per second | median (ms) | P99 (ms) | most (ms) |\n|---|---|---|---|---|---|")
    for kind, values in sorted(tally.latencies_ms.items()):
        median, p99 = np.percentile(values, [50, 99])
        print(
            f"| {kind} | {len(values)} | {len(values) / seconds:.0f} | {median:.1f} | {p99:.1f} | {max(values):.1f} |"
        )
    reads = [ms for kind, values in tally.latencies_ms.items() if kind not in ("submit", "cancel") for ms in values]
    print(f"\nP99 of all reads: {np.percentile(reads, 99):.1f} ms; answers: {dict(sorted(tally.statuses.items()))}")
    print(f"5xx or no answer: {tally.server_errors}; lost jobs: {lost}; deaf watchers: {WATCHERS - tally.heard}")


def main() -> int:
    """Run the load and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--database", help="default: SQLite in a temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, service(Path(home), asked.database) as address:
        tally, lost = asyncio.run(load(address, asked.seconds))
    report(tally, lost, asked.seconds)
    return int(bool(tally.server_errors or lost or tally.heard < WATCHERS))


if __name__ == "__main__":
    sys.exit(main())
