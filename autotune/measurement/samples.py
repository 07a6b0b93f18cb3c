"""The latencies of single requests, and the percentiles of many.

A request that failed counts as one that never came: its latencies are infinite. Leaving it out would make a server
look better the more requests it drops.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from autotune.level_run import RequestRecord
from autotune.measurement.percentiles import CONFIDENCE, quantile
from autotune.results import Latency

PER_REQUEST = ("ttft", "tpot", "e2el")  # metrics with one value per request; itl has one per gap


def latency(
    records: Sequence[RequestRecord],
    metric: str,
    percentiles: Sequence[float],
    confidence: float = CONFIDENCE,
    late_ms: float = 0.0,
) -> Latency:
    """One of ttft, tpot, itl and e2el over all requests, the failed ones as infinite, in ms.

    `late_ms` as in `samples_ms`. The bounds of itl treat gaps as independent; gaps of one request are not quite.
    """
    samples = ascending(value for record in records for value in samples_ms(record, metric, late_ms))
    successes = [v for r in records if r.error is None for v in samples_ms(r, metric)]
    return Latency(
        count=len(samples),
        mean_ms=float(np.mean(successes)) if successes else None,
        quantiles=tuple(quantile(samples, percent, confidence) for percent in percentiles),
    )


def samples_ms(record: RequestRecord, metric: str, late_ms: float = 0.0) -> list[float]:
    """The values of one request; a failed one is infinite wherever a successful one would have had a value.

    One that was under way when its level was ended early has told less. It is infinite in ttft or e2el when it waited
    longer than `late_ms`, the tightest limit of that metric; else it may still have been in time and has no value. Of
    the time between its tokens only the gaps seen are known.
    """
    if record.unfinished:
        return _of_unfinished(record, metric, late_ms)
    if metric == "itl":
        gaps = _gaps_ms(record)
        missing = 0 if record.error is None else max(0, record.requested_tokens - 1 - len(gaps))
        return gaps + [math.inf] * missing
    if record.error is not None:
        return [] if metric == "tpot" and record.requested_tokens < 2 else [math.inf]
    if metric == "tpot":
        return [_tpot_ms(record)] if record.output_tokens > 1 else []
    end_s = record.token_times_s[0] if metric == "ttft" else record.end_s
    return [(end_s - record.scheduled_s) * 1e3]


def ascending(values_ms: Iterable[float]) -> NDArray[np.float64]:
    """The values in order."""
    return np.sort(np.fromiter(values_ms, dtype=np.float64))


def _of_unfinished(record: RequestRecord, metric: str, late_ms: float) -> list[float]:
    if metric == "ttft" and record.token_times_s:
        return [(record.token_times_s[0] - record.scheduled_s) * 1e3]
    if metric in ("ttft", "e2el"):
        return [math.inf] if (record.end_s - record.scheduled_s) * 1e3 > late_ms else []
    return _gaps_ms(record) if metric == "itl" else []


def _gaps_ms(record: RequestRecord) -> list[float]:
    return [gap * 1e3 for gap in np.diff(record.token_times_s)]


def _tpot_ms(record: RequestRecord) -> float:
    times_s = record.token_times_s
    return (times_s[-1] - times_s[0]) / (record.output_tokens - 1) * 1e3
