"""The configuration with its evidence as JSON, and the front as a table."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from autotune.export.arguments import settled_environment
from autotune.export.evidence import fields
from autotune.export.source import ExportSource
from autotune.results import Measured, ParetoFront, Trial

_BOUNDS = ("p99_ttft_lower_ms", "p99_ttft_upper_ms")


def as_json(source: ExportSource) -> str:
    """One object: the configuration first, then every field of its evidence."""
    config = source.trial.config
    document = {
        "model": source.model,
        "arguments": config.arguments,
        "environment": settled_environment(config, source.engine_versions),
        "devices": config.devices,
        "knobs": source.trial.knobs,
        **fields(source),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def front_csv(source: ExportSource) -> str:
    """The front, one row per point by rising throughput: its evidence, then the knobs of its trial, as columns."""
    evidence = {
        "job": source.job_id,
        "model": source.model,
        "engine_version": source.engine_version,
        "workload": source.workload,
        "sla": source.sla.text,
        "exported_at": source.exported_at.isoformat(),
    }
    selected = (source.trial.number, source.point.level)
    return _table(
        {**row, "selected": (row["trial"], row["level"]) == selected, **evidence, **knobs}
        for row, knobs in _rows(source.front, (*source.trials, source.trial))
    )


def points_csv(front: ParetoFront, trials: Sequence[Trial]) -> str:
    """The front of a job that may still run, one row per point by rising throughput, with the knobs of its trial."""
    return _table({**row, **knobs} for row, knobs in _rows(front, trials))


def _rows(front: ParetoFront, trials: Sequence[Trial]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each point's figures, and the knobs of its trial."""
    knobs = {trial.number: trial.knobs for trial in trials}
    bounds = {(trial.number, level): told for trial in trials for level, told in _ttft_bounds(trial).items()}
    for point in front.points:
        figures = {
            "trial": point.trial,
            "level": point.level,
            "load_kind": point.load.kind,
            "load_per_device": point.load.value,
            "output_throughput_per_device": point.output_throughput_per_device,
            "p99_ttft_ms": point.p99_ttft_ms,
            **bounds.get((point.trial, point.level), dict.fromkeys(_BOUNDS)),
            "request_throughput": point.request_throughput,
        }
        yield figures, knobs.get(point.trial, {})


def _table(rows: Iterable[dict[str, Any]]) -> str:
    listed = list(rows)
    columns = None if listed else ["trial", "level"]
    return pd.DataFrame(listed or None, columns=columns, dtype=object).to_csv(index=False)


def _ttft_bounds(trial: Trial) -> dict[int, dict[str, float | None]]:
    """The bounds of P99 TTFT by level; of several runs the first that meets the SLA, which is the one on the front."""
    outcome = trial.result.outcome if trial.result else None
    points = outcome.points if isinstance(outcome, Measured) else ()
    quantiles = {point.level: point.ttft.at(99) for point in sorted(points, key=lambda p: p.feasible)}
    return {level: dict(zip(_BOUNDS, (q.lower_ms, q.upper_ms), strict=True)) for level, q in quantiles.items()}
