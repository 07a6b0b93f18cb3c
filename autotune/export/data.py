"""The configuration with its evidence as JSON, and the front as a table."""

import json

import pandas as pd

from autotune.export.arguments import settled_environment
from autotune.export.evidence import fields
from autotune.export.source import ExportSource


def as_json(source: ExportSource) -> str:
    """One object: the configuration first, then every field of its evidence."""
    config = source.trial.config
    document = {
        "model": source.model,
        "arguments": config.arguments,
        "environment": settled_environment(config),
        "devices": config.devices,
        "knobs": source.trial.knobs,
        **fields(source),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def front_csv(source: ExportSource) -> str:
    """The front, one row per point by rising throughput, with the knobs of each trial as columns."""
    knobs = {trial.number: trial.knobs for trial in (*source.trials, source.trial)}
    rows = [
        {
            "trial": point.trial,
            "level": point.level,
            "load_kind": point.load.kind,
            "load_per_device": point.load.value,
            "output_throughput_per_device": point.output_throughput_per_device,
            "p99_ttft_ms": point.p99_ttft_ms,
            "request_throughput": point.request_throughput,
            "selected": (point.trial, point.level) == (source.trial.number, source.point.level),
            **knobs.get(point.trial, {}),
        }
        for point in source.front.points
    ]
    return pd.DataFrame(rows or None, columns=None if rows else ["trial", "level"], dtype=object).to_csv(index=False)
