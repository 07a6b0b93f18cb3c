"""From what the client saw of each request to a load point: percentiles with bounds, goodput, violations of the SLA."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.level_run import ClientUse, LevelRun, RequestRecord
from autotune.measurement.client import client_bound
from autotune.measurement.drift import drift
from autotune.measurement.percentiles import CONFIDENCE, nearest_rank
from autotune.measurement.samples import PER_REQUEST, latency, samples_ms
from autotune.measurement.verdict import violations
from autotune.results import Load, LoadPoint
from autotune.spec import LATENCY_METRICS, Sla

MOST_REASONS = 5  # that a load point tells; all are in the trial's files
PERCENTILES = (50.0, 90.0, 95.0, 99.0)


def load_point(
    run: LevelRun,
    *,
    level: int,
    load: Load,
    devices: int,
    seed: int,
    sla: Sla,
    engine_counters: Mapping[str, float] | None = None,
) -> LoadPoint:
    """One measured level out of its run.

    Latencies (ms) count from the scheduled time; the window of the throughputs is from the level's start to the last
    end. Definitions as in `vllm.benchmarks.serve.calculate_metrics`, except for failures, which vLLM leaves out. Of a
    level that was ended early, percentiles are of the requests decided by then, and it always violates the SLA.
    Raises ValueError when there are no records.
    """
    records = run.records
    if not records:
        raise ValueError("a load point needs at least one request record")
    good = [record for record in records if record.error is None]
    failed = sum(record.error is not None and not record.unfinished for record in records)
    percentiles = sorted({*PERCENTILES, *(line.percent for line in sla.latency_limits)})
    confidence = sla.confidence or CONFIDENCE
    point = LoadPoint(
        level=level,
        load=load,
        devices=devices,
        seed=seed,
        completed=len(good),
        failed=failed,
        failure_reasons=_reasons(records),
        unfinished=max(0, run.planned - len(good) - failed) if run.aborted else 0,
        aborted=run.aborted,
        violations={},
        engine=dict(engine_counters or {}),
        **_throughputs(records, good, sla),
        **_client(run, sla),
        **_drift(run, load, devices, sla),
        **{
            metric: latency(records, metric, percentiles, confidence, _tightest_ms(sla, metric))
            for metric in LATENCY_METRICS
        },
    )
    return point.model_copy(update={"violations": violations(point, sla)})


def joined(*runs: LevelRun) -> LevelRun:
    """Repeated runs of one level as one, each starting (s) when the one before ended: percentiles are pooled.

    The mean of two P99s is not a P99, and the bounds of the pooled one are closer.
    """
    records: list[RequestRecord] = []
    for run in runs:
        start_s = max((record.end_s for record in records), default=0.0)
        records += [_shifted(record, start_s) for record in run.records]
    return LevelRun(
        records=tuple(records),
        client=ClientUse(
            cpu_share=max(run.client.cpu_share for run in runs), pause_ms=max(run.client.pause_ms for run in runs)
        ),
        planned=sum(run.planned for run in runs),
        aborted=any(run.aborted for run in runs),
    )


def _reasons(records: Sequence[RequestRecord]) -> dict[str, int]:
    """Why requests failed, the most frequent reasons first."""
    reasons = Counter(r.error for r in records if r.error is not None and not r.unfinished)
    return dict(reasons.most_common(MOST_REASONS))


def _throughputs(records: Sequence[RequestRecord], good: Sequence[RequestRecord], sla: Sla) -> dict[str, float]:
    duration_s = max(record.end_s for record in records)
    output_tokens = sum(record.output_tokens for record in good)
    input_tokens = sum(record.input_tokens for record in good)
    return {
        "duration_s": duration_s,
        "request_throughput": len(good) / duration_s,
        "output_throughput": output_tokens / duration_s,
        "total_token_throughput": (input_tokens + output_tokens) / duration_s,
        "request_goodput": sum(_meets_every_line(record, sla) for record in good) / duration_s,
    }


def _client(run: LevelRun, sla: Sla) -> dict[str, Any]:
    lag_ms, duration_s = _lag_ms(run), max(record.end_s for record in run.records)
    return {
        "client_lag_ms": lag_ms,
        "client_cpu_share": run.client.cpu_share,
        "client_pause_ms": run.client.pause_ms,
        "invalid": client_bound(lag_ms, run.client, duration_s, sla, aborted=run.aborted),
    }


def _lag_ms(run: LevelRun) -> float:
    """The P99 of the send lag. One request in a hundred that were planned may be late, however few were decided."""
    late_first = sorted((record.lag_s * 1e3 for record in run.records), reverse=True)
    planned = max(run.planned, len(late_first))
    borne = planned - nearest_rank(planned, 99)
    return max(0.0, late_first[borne]) if borne < len(late_first) else 0.0


def _drift(run: LevelRun, load: Load, devices: int, sla: Sla) -> dict[str, Any]:
    """Of TTFT and of what the SLA limits; nothing of a level that was ended early: its second half is missing."""
    if run.aborted:
        return {}
    users = int(load.value * devices) if load.kind == "max_concurrency" else 0
    found = drift(run.records, ("ttft", *(line.metric for line in sla.latency_limits)), users=users)
    return {"drift": found.ratio, "drift_of": found.metric, "steady": found.steady}


def _shifted(record: RequestRecord, by_s: float) -> RequestRecord:
    return dataclasses.replace(
        record,
        scheduled_s=record.scheduled_s + by_s,
        sent_s=record.sent_s + by_s,
        token_times_s=tuple(time_s + by_s for time_s in record.token_times_s),
        end_s=record.end_s + by_s,
        free_s=None if record.free_s is None else record.free_s + by_s,
    )


def _tightest_ms(sla: Sla, metric: str) -> float:
    """The limit that a request must be beyond to be late in any line of this metric; 0 where there is no line."""
    return min((line.limit_ms for line in sla.latency_limits if line.metric == metric), default=0.0)


def _meets_every_line(record: RequestRecord, sla: Sla) -> bool:
    """Whether a successful request is inside every per-request line, as `vllm bench serve --goodput` judges it."""
    return all(
        value <= line.limit_ms
        for line in sla.latency_limits
        if line.metric in PER_REQUEST
        for value in samples_ms(record, line.metric)
    )
