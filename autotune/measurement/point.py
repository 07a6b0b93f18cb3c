"""From what the client saw of each request to a load point: percentiles with bounds, goodput, violations of the SLA.

A request that failed counts as one that never came: its latencies are infinite. Leaving it out would make a server
look better the more requests it drops.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.level_run import ClientUse, LevelRun, RequestRecord
from autotune.measurement.percentiles import quantile
from autotune.measurement.verdict import violations
from autotune.results import Latency, Load, LoadPoint
from autotune.spec import LATENCY_METRICS, Sla

PERCENTILES = (50.0, 90.0, 95.0, 99.0)

_PER_REQUEST = ("ttft", "tpot", "e2el")  # metrics with one value per request; itl has one per gap


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
    end. Definitions as in `vllm.benchmarks.serve.calculate_metrics`, except for failures, which vLLM leaves out.
    Raises ValueError when there are no records.
    """
    records = run.records
    if not records:
        raise ValueError("a load point needs at least one request record")
    good = [record for record in records if record.error is None]
    duration_s = max(record.end_s for record in records)
    output_tokens = sum(record.output_tokens for record in good)
    input_tokens = sum(record.input_tokens for record in good)
    percentiles = sorted({*PERCENTILES, *(line.percent for line in sla.latency_limits)})
    lag = quantile(_sorted(r.lag_s * 1e3 for r in records), 99)
    point = LoadPoint(
        level=level,
        load=load,
        devices=devices,
        seed=seed,
        duration_s=duration_s,
        completed=len(good),
        failed=len(records) - len(good),
        request_throughput=len(good) / duration_s,
        output_throughput=output_tokens / duration_s,
        total_token_throughput=(input_tokens + output_tokens) / duration_s,
        request_goodput=sum(_meets_every_line(record, sla) for record in good) / duration_s,
        client_lag_ms=max(0.0, lag.value_ms or 0.0),
        client_cpu_share=run.client.cpu_share,
        client_pause_ms=run.client.pause_ms,
        aborted=run.aborted,
        violations={},
        engine=dict(engine_counters or {}),
        **{metric: latency(records, metric, percentiles) for metric in LATENCY_METRICS},
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


def latency(records: Sequence[RequestRecord], metric: str, percentiles: Sequence[float]) -> Latency:
    """One of ttft, tpot, itl and e2el over all requests, the failed ones as infinite, in ms.

    The bounds of itl treat gaps as independent; gaps of one request are not quite.
    """
    samples = _sorted(value for record in records for value in _samples_ms(record, metric))
    successes = [v for r in records if r.error is None for v in _samples_ms(r, metric)]
    return Latency(
        count=len(samples),
        mean_ms=float(np.mean(successes)) if successes else None,
        quantiles=tuple(quantile(samples, percent) for percent in percentiles),
    )


def _shifted(record: RequestRecord, by_s: float) -> RequestRecord:
    return dataclasses.replace(
        record,
        scheduled_s=record.scheduled_s + by_s,
        sent_s=record.sent_s + by_s,
        token_times_s=tuple(time_s + by_s for time_s in record.token_times_s),
        end_s=record.end_s + by_s,
    )


def _samples_ms(record: RequestRecord, metric: str) -> list[float]:
    """The values of one request; a failed one is infinite wherever a successful one would have had a value."""
    if metric == "itl":
        gaps = [gap * 1e3 for gap in np.diff(record.token_times_s)]
        missing = 0 if record.error is None else max(0, record.requested_tokens - 1 - len(gaps))
        return gaps + [math.inf] * missing
    if record.error is not None:
        return [] if metric == "tpot" and record.requested_tokens < 2 else [math.inf]
    if metric == "tpot":
        return [_tpot_ms(record)] if record.output_tokens > 1 else []
    end_s = record.token_times_s[0] if metric == "ttft" else record.end_s
    return [(end_s - record.scheduled_s) * 1e3]


def _tpot_ms(record: RequestRecord) -> float:
    times_s = record.token_times_s
    return (times_s[-1] - times_s[0]) / (record.output_tokens - 1) * 1e3


def _meets_every_line(record: RequestRecord, sla: Sla) -> bool:
    """Whether a successful request is inside every per-request line, as `vllm bench serve --goodput` judges it."""
    return all(
        value <= line.limit_ms
        for line in sla.latency_limits
        if line.metric in _PER_REQUEST
        for value in _samples_ms(record, line.metric)
    )


def _sorted(values_ms: Iterable[float]) -> NDArray[np.float64]:
    return np.sort(np.fromiter(values_ms, dtype=np.float64))
