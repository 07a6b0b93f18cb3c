"""`autotune bench`: measure an endpoint without tuning it."""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import EnvironmentProblem, InputError
from autotune.loadgen import EngineStalled
from autotune.loading import find, load
from autotune.model_card import read_model
from autotune.report.serving import serving_document, serving_table
from autotune.results import LoadPoint
from autotune.spec import Sla
from autotune.trial import Control
from autotune.trial.endpoint import climb_endpoint, find_target, local_folder
from autotune.trial.reading import Peaks
from autotune.trial.request import Course, Stage
from autotune.tuner.sources import check_confidence
from autotune.tuner.verify import fresh_seed
from autotune.workload import Workload, given_levels, with_data_file

KEY_VARIABLE = "OPENAI_API_KEY"
# Without an SLA every level is measured, as long as half of the requests are answered: higher ones serve nobody.
NO_PROMISE = Sla.model_validate({"p50_tpot_ms": 1e15, "error_rate": 0.5})


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of the command."""

    url: str
    workload: str
    overrides: Sequence[str]
    sla: Sequence[str]
    model: str | None
    tokenizer: Path | None
    devices: int
    seed: int | None  # None: a fresh one, whose prompts are in no endpoint's prefix cache
    records: Path | None
    exact: bool  # answers have the asked length


def bench(asked: Asked, *, as_json: bool) -> int:
    """Measure every level of the workload, up to the first that violates the SLA where one is given.

    Without an SLA a level of which more than half the requests fail is the last one. What was measured is printed also
    when the next level cannot be. Returns the exit code: 1 when no request at all was answered.
    """
    workload, sla = _workload(asked), _sla(asked.sla) if asked.sla else None
    if sla is not None:
        check_confidence(workload, sla)
    _check_empty(asked.records)
    target = find_target(asked.url, model=asked.model, api_key=os.environ.get(KEY_VARIABLE, ""))
    model = read_model(local_folder(target, asked.tokenizer))
    with tempfile.TemporaryDirectory(prefix="autotune-bench-") as scratch:
        course = Course(
            name=target.server.base_url,
            workload=workload,
            sla=sla or NO_PROMISE,
            levels=given_levels(workload),
            seed=fresh_seed() if asked.seed is None else asked.seed,
            devices=asked.devices,
            model=model,
            artifacts=asked.records or Path(scratch),
            peaks=Peaks(),
        )
        course.artifacts.mkdir(parents=True, exist_ok=True)
        points: list[LoadPoint] = []
        try:
            points = climb_endpoint(course, target, _Told(), points.append, exact=asked.exact)
        except EngineStalled as stalled:
            raise EnvironmentProblem(f"{target.server.base_url}: {stalled}") from stalled
        finally:
            _print(points, is_judged=sla is not None, as_json=as_json)
    return 0 if any(point.completed for point in points) else 1


def _print(points: Sequence[LoadPoint], *, is_judged: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps([serving_document(point, is_judged=is_judged) for point in points], indent=2))
    else:
        print("\n\n".join(serving_table(point, is_judged=is_judged) for point in points), flush=True)


class _Told(Control):
    """Says on stderr which level is being measured."""

    def enter(self, stage: Stage, **facts: Any) -> None:
        if facts.get("done", 0) == 0:
            level = f" {facts['level']} ({facts['planned']} requests)" if "level" in facts else ""
            print(f"{stage}{level} …", file=sys.stderr)
        super().enter(stage, **facts)


def _workload(asked: Asked) -> Workload:
    place = find(asked.workload, "workloads", relative_to=Path.cwd())
    workload = load(place.read_text(encoding="utf-8"), Workload, source=str(place), overrides=asked.overrides)
    return with_data_file(workload, place.resolve().parent)


def _sla(lines: Sequence[str]) -> Sla:
    wrong = [line for line in lines if "=" not in line]
    if wrong:
        raise InputError([f"--sla {line}: write LINE=LIMIT, such as p99_ttft_ms=200" for line in wrong])
    return load("{}", Sla, source="--sla", overrides=lines)


def _check_empty(records: Path | None) -> None:
    """Records of another measurement must not be mixed with this one's."""
    if records is not None and records.exists() and (not records.is_dir() or any(records.iterdir())):
        raise InputError(f"--records {records}: is no empty folder; name a new one")
