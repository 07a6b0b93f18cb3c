"""What an exported file carries so that `autotune verify` can launch and measure it again without the database."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from autotune.engine_config import EngineConfig
from autotune.export.arguments import settled_environment
from autotune.export.source import ExportSource
from autotune.records import Record
from autotune.results import Load
from autotune.spec import Devices, Sla

MARK = "# autotune: "  # in front of the record, on a line of its own


class Replay(Record):
    """How the configuration of a file was measured, and how to measure it so again."""

    version: Literal[1] = 1
    job: str
    trial: int
    engine: str  # name of the engine profile
    engine_version: str
    devices: Devices
    environment: dict[str, str]
    workload: str  # the name of a bundled one, or a file's
    workload_digest: str
    sla: Sla
    level: int
    load: Load  # per device
    runs: int
    instrument: Literal["autotune", "vllm-bench", "guidellm"]
    config_digest: str  # of model, arguments and environment: tells a file that was edited


def replay_of(source: ExportSource) -> Replay:
    """The record that goes into the files of an export."""
    environment = settled_environment(source.trial.config, source.engine_versions)
    return Replay(
        job=source.job_id,
        trial=source.trial.number,
        engine=source.engine,
        engine_version=source.engine_version,
        devices=source.devices,
        environment=environment,
        workload=source.workload,
        workload_digest=source.workload_digest,
        sla=source.sla,
        level=source.point.level,
        load=source.point.load,
        runs=source.confirm_runs,
        instrument=source.instrument,
        config_digest=config_digest(source.model, source.trial.config.arguments, environment),
    )


def replay_line(source: ExportSource) -> str:
    """The record as one comment line, of ASCII characters only: nothing in it can end the comment."""
    document = replay_of(source).model_dump(mode="json", exclude_none=True)
    return f"{MARK}{json.dumps(document, separators=(',', ':'))}\n"


def config_digest(model: str, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """Names what is launched: equal for configurations that give the engine the same words."""
    settled = EngineConfig(arguments=dict(arguments)).settled_arguments
    text = json.dumps([model, settled, dict(environment)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
