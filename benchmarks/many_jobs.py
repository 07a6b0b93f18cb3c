"""Lists and fronts in a large database: `python benchmarks/many_jobs.py [--jobs 10000] [--trials 20] [--database URL]`.

Fills a database with finished jobs of several tenants, twenty trials each with three load points, by bulk inserts; then
times what the service asks it for, and prints how SQLite plans the queries of the list. A minute or two to fill.
"""

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy

from autotune.access import TenantLimits
from autotune.results import Job, JobStatus, Latency, Load, LoadPoint, Quantile
from autotune.selection import pareto_front
from autotune.store import SharedStore
from autotune.store.engine import connect, parse_url
from autotune.store.schema import FrontPointRow, JobRow, LoadPointRow, TrialRow
from autotune.submission import Cursor, JobFilter, Submission

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
TENANTS = [f"team-{number}" for number in range(20)]
LEVELS = 3
FRONT = 5
POOL = 500  # trials' worth of load points that the jobs draw from
CHUNK = 500  # jobs of one transaction
ROUNDS = 40
ROOMY = TenantLimits()
SPEC = {
    "version": 1,
    "name": "many",
    "model": "tiny",
    "devices": {"resource": "NPU"},
    "search_space": "ascend-dense",
    "workload": "chat",
    "sla": {"p99_ttft_ms": 200},
    "budget": {"trials": 60},
}


def latency(p99_ms: float) -> Latency:
    """A latency with the one percentile that is read here."""
    quantile = Quantile(percent=99, value_ms=p99_ms, lower_ms=p99_ms, upper_ms=p99_ms)
    return Latency(count=500, mean_ms=p99_ms / 2, quantiles=(quantile,))


def point(level: int, rng: random.Random) -> LoadPoint:
    """A load point like a measured one."""
    throughput, p99_ms = rng.uniform(500, 3000), rng.uniform(50, 400)
    return LoadPoint(
        level=level,
        load=Load(kind="max_concurrency", value=2.0**level),
        devices=1,
        seed=0,
        duration_s=30,
        completed=500,
        failed=0,
        request_throughput=throughput / 100,
        output_throughput=throughput,
        total_token_throughput=2 * throughput,
        request_goodput=throughput / 100,
        ttft=latency(p99_ms),
        tpot=latency(20),
        itl=latency(25),
        e2el=latency(2000),
        client_lag_ms=0.2,
        violations={"p99_ttft_ms": p99_ms / 200 - 1},
    )


def rows(
    number: int, trials: int, measured: list[list[dict[str, Any]]], rng: random.Random
) -> Iterator[tuple[type, dict[str, Any]]]:
    """The rows of one job, parents first."""
    job_id, at = f"many-{number:06d}", BEGUN + timedelta(minutes=number)
    plain = {"status": JobStatus.SUCCEEDED.value, "message": "", "model_path": "/models/tiny", "folder": job_id}
    documents = {"spec": SPEC, "space": {}, "workload": {}, "result": None, "cancel_requested": False}
    yield (
        JobRow,
        {"id": job_id, "name": "many", "tenant": rng.choice(TENANTS), "created_at": at, "queued_at": at}
        | plain
        | documents,
    )
    for trial in range(trials):
        result = {"outcome": {"kind": "measured", "operating_level": LEVELS - 1}}
        words = {"purpose": "search", "origin": "gp", "config_hash": f"{trial:016x}", "outcome": "measured"}
        given = {"knobs": {"max_num_seqs": trial}, "config": {}, "result": result, "device_s": 60.0}
        yield TrialRow, {"job_id": job_id, "number": trial, "started_at": at, "finished_at": at} | words | given
        for row in rng.choice(measured):
            yield LoadPointRow, row | {"job_id": job_id, "trial": trial}
    for position in range(FRONT):
        yield (
            FrontPointRow,
            {
                "job_id": job_id,
                "position": position,
                "trial": position,
                "level": 0,
                "load_kind": "max_concurrency",
                "load_value": 1.0,
                "output_throughput_per_device": 500.0 * (position + 1),
                "p99_ttft_ms": 50.0 * (position + 1),
                "request_throughput": 5.0,
            },
        )


def load_point_row(measured: LoadPoint) -> dict[str, Any]:
    """The columns of a load point, but for whose it is."""
    p99_ms = measured.p99_ttft_ms
    return {
        "position": measured.level,
        "level": measured.level,
        "load_kind": measured.load.kind,
        "load_value": measured.load.value,
        "devices": 1,
        "feasible": measured.feasible,
        "output_throughput_per_device": measured.output_throughput_per_device,
        "request_throughput": measured.request_throughput,
        "request_goodput": measured.request_goodput,
        "p99_ttft_ms": p99_ms,
        "completed": 500,
        "failed": 0,
        "document": json.loads(measured.model_dump_json()),
    }


def fill(engine: sqlalchemy.Engine, jobs: int, trials: int) -> None:
    """Write all jobs."""
    rng = random.Random(1)
    measured = [[load_point_row(point(level, rng)) for level in range(LEVELS)] for _ in range(POOL)]
    for first in range(0, jobs, CHUNK):
        tables: dict[type, list[dict[str, Any]]] = {}
        for number in range(first, min(first + CHUNK, jobs)):
            for table, row in rows(number, trials, measured, rng):
                tables.setdefault(table, []).append(row)
        with engine.begin() as connection:
            for table in (JobRow, TrialRow, LoadPointRow, FrontPointRow):
                connection.execute(sqlalchemy.insert(table), tables[table])


def timed(name: str, ask: Callable[[int], object]) -> None:
    """Ask several times, and print median, P99 and most in ms."""
    taken = []
    for turn in range(ROUNDS):
        begun = time.perf_counter()
        ask(turn)
        taken.append((time.perf_counter() - begun) * 1e3)
    print(f"| {name} | {np.median(taken):.1f} | {np.percentile(taken, 99):.1f} | {max(taken):.1f} |")


def waiting(number: int, now: datetime) -> Job:
    """A job that nobody runs yet."""
    words = {"name": "waits", "status": JobStatus.QUEUED, "model_path": "/models/tiny", "folder": "waits"}
    return Job(id=f"waits-{number}", spec=SPEC, space={}, workload={}, created_at=now, **words)


def measure(store: SharedStore, jobs: int) -> None:
    """Time what the pages and the API ask for."""
    now = BEGUN + timedelta(minutes=jobs)
    middle = Cursor(created_at=BEGUN + timedelta(minutes=jobs // 2), id="z")
    ids = [f"many-{number:06d}" for number in random.Random(2).sample(range(jobs), ROUNDS)]
    print("| query | median (ms) | P99 (ms) | most (ms) |\n|---|---|---|---|")
    timed("first page of all", lambda _: store.page(JobFilter()))
    timed("first page of a tenant", lambda turn: store.page(JobFilter(tenant=TENANTS[turn % len(TENANTS)])))
    timed("a page in the middle", lambda _: store.page(JobFilter(), after=middle))
    timed("waiting jobs (none)", lambda _: store.page(JobFilter(status=(JobStatus.QUEUED,))))
    timed("search in names and ids", lambda _: store.page(JobFilter(search="000777")))
    timed("a job", lambda turn: store.submitted(ids[turn], tenant=None, now=now))
    timed("its trials and its live front", lambda turn: pareto_front(store.trials(ids[turn])))
    timed("jobs by status", lambda _: store.counts())
    timed("jobs by status of a tenant", lambda turn: store.counts(tenant=TENANTS[turn % len(TENANTS)]))
    timed("trials by outcome", lambda _: store.trial_counts())
    timed("trials by outcome of a tenant", lambda turn: store.trial_counts(tenant=TENANTS[turn % len(TENANTS)]))
    timed("device-hours of a tenant", lambda _: store.device_s_since("team-1", now - timedelta(days=30)))
    timed("events of a job", lambda turn: store.events(ids[turn]))
    for number in range(ROUNDS):
        submission = Submission(tenant=TENANTS[number % len(TENANTS)], queued_at=now)
        store.submit(waiting(number, now), submission, limits=ROOMY)
    timed("a claim", lambda turn: store.claim_next(f"worker {turn}", now=now, limits=lambda _: ROOMY))


def main() -> None:
    """Fill, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=20, help="of each job")
    parser.add_argument("--database", help="default: SQLite in a temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = asked.database or f"sqlite:///{Path(folder) / 'many.db'}"
        with SharedStore.open(url) as store:
            begun = time.perf_counter()
            engine = connect(parse_url(url))
            fill(engine, asked.jobs, asked.trials)
            engine.dispose()
            print(
                f"{asked.jobs} jobs, {asked.jobs * asked.trials} trials: filled in {time.perf_counter() - begun:.0f} s"
            )
            measure(store, asked.jobs)


if __name__ == "__main__":
    main()
