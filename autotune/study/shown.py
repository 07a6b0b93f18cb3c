"""What the study people watch shows of a row: real knob values, only measured numbers, named limits with units."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.engine_config import Value
from autotune.results import Evidence, Measured, Trial, TrialResult
from autotune.spec import Sla
from autotune.study import artifacts, constraints
from autotune.study.grid import Grid, Knob

ROW = "autotune_trial"  # user attribute: the number of our row
FAILURE = "failure"  # user attribute of trials that have no values
OVERRIDDEN = "overridden by the engine"
UNSTEADY = "not steady"
_CONSTRAINTS = "constraints"  # Optuna's system attributes: the list (dashboard 0.21 reads only that), and named ones


@dataclass(frozen=True, slots=True)
class Shown:
    """One trial of the study as our row says it."""

    row: Trial
    state: TrialState
    params: dict[str, Value]
    values: list[float] | None = None
    attributes: dict[str, Value | None] = field(default_factory=dict)  # for people, of a finished trial
    limits: dict[str, float] = field(default_factory=dict)  # named constraints: <= 0 is met
    artifacts: dict[str, str] = field(default_factory=dict)  # file name -> id

    @property
    def constraints(self) -> dict[str, Any]:
        """The constraints as Optuna keeps them, and as dashboard 0.21 reads them."""
        if not self.limits:
            return {}
        named = {f"{_CONSTRAINTS}:{name}": value for name, value in self.limits.items()}
        return {**named, _CONSTRAINTS: list(self.limits.values())}

    @property
    def system_attributes(self) -> dict[str, Any]:
        """What Optuna and its dashboard keep of a trial beside what people read."""
        return {**self.constraints, **artifacts.attributes(self.artifacts)}

    @property
    def note(self) -> str:
        """What a person wants to know of a finished trial first, in Markdown; empty of a running one."""
        if not self.state.is_finished():
            return ""
        told = {key: value for key, value in self.attributes.items() if key in _NOTED and value}
        if self.values is not None:
            told["operating point"] = f"{told['operating point']}, {_values_text(self.values)}"
        if missed := [name for name, value in self.limits.items() if value > 0]:
            told["misses the SLA"] = ", ".join(missed)
        return "\n\n".join(f"**{key}**: {_quoted(key, told[key])}" for key in _NOTED if key in told)

    def unlike(self, frozen: FrozenTrial) -> list[str]:
        """In what a trial of the study is not as it should be; in its state alone, when that is wrong."""
        if frozen.state != self.state:
            return ["state"]
        is_finished = self.state.is_finished()
        found = {
            "params": frozen.params == self.params,
            "values": frozen.values == self.values,
            "constraints": not is_finished or _limits(frozen) == self.constraints,
            FAILURE: not is_finished or frozen.user_attrs.get(FAILURE) == self.attributes.get(FAILURE),
        }
        return [part for part, is_right in found.items() if not is_right]

    def can_become(self, frozen: FrozenTrial) -> bool:
        """Whether a trial of the study is this one, or is still open and can be told so."""
        if frozen.state != TrialState.RUNNING or frozen.params != self.params:
            return not self.unlike(frozen)
        is_clean = FAILURE in self.attributes or FAILURE not in frozen.user_attrs
        return is_clean and _limits(frozen).keys() <= self.constraints.keys()  # Optuna cannot remove attributes


def running(row: Trial, grid: Grid) -> Shown:
    """A trial without its result."""
    params = {knob.name: row.knobs[knob.name] for knob in grid.knobs if knob.name in row.knobs}
    return Shown(row, TrialState.RUNNING, params)


def shown(row: Trial, grid: Grid, sla: Sla) -> Shown:
    """What the study should show of a row."""
    params = running(row, grid).params
    if row.result is None:
        return Shown(row, TrialState.RUNNING, params)
    outcome = row.result.outcome
    if not isinstance(outcome, Measured):
        return Shown(row, TrialState.FAIL, params, attributes=_failure(outcome.evidence, row.result))
    point = outcome.closest_point
    names = constraints.labels(sla)
    limits = {names[key]: value for key, value in constraints.measured(point, sla).items()}
    attributes = _measurement(row.result, outcome)
    if point.p99_ttft_ms is None:
        share = point.error_rate
        attributes[FAILURE] = f"{share:.1%} of the requests failed: there is no P99 TTFT to show"
        return Shown(row, TrialState.FAIL, params, None, attributes, limits)
    values = [point.output_throughput_per_device, point.p99_ttft_ms]
    return Shown(row, TrialState.COMPLETE, params, values, attributes, limits)


def template(what: Shown, grid: Grid) -> FrozenTrial:
    """A new trial for Optuna, with the times of its row."""
    distributions = {knob.name: distribution(knob) for knob in grid.knobs if knob.name in what.params}
    row = what.row
    made = create_trial(
        state=what.state,
        values=what.values,
        params=what.params,
        distributions=distributions,
        user_attrs={ROW: row.number, "origin": row.origin, "config_hash": row.config.hash, **what.attributes},
        system_attrs=what.system_attributes,
    )
    made.datetime_start = row.started_at.astimezone().replace(tzinfo=None)  # Optuna's stamps are local and naive
    if what.state.is_finished() and row.finished_at is not None:
        made.datetime_complete = row.finished_at.astimezone().replace(tzinfo=None)
    return made


def distribution(knob: Knob) -> BaseDistribution:
    """Numbers as numbers, so that the dashboard's axes are; everything else by its value."""
    if knob.ordered and all(isinstance(level, int) and not isinstance(level, bool) for level in knob.levels):
        numbers = [int(level) for level in knob.levels]
        return IntDistribution(min(numbers), max(numbers))
    if knob.ordered and all(isinstance(level, float) for level in knob.levels):
        reals = [float(level) for level in knob.levels]
        return FloatDistribution(min(reals), max(reals))
    return CategoricalDistribution(knob.levels)


def _limits(frozen: FrozenTrial) -> Mapping[str, Any]:
    return {key: value for key, value in frozen.system_attrs.items() if key.split(":")[0] == _CONSTRAINTS}


_EVIDENCE = (FAILURE, "cause", "advice", "line", "log")
# The trial's note, in its order; of the attributes, but for those that it adds.
_NOTED = (
    *(FAILURE, "cause", "advice", "line", "operating point", UNSTEADY, "misses the SLA", "bottleneck", OVERRIDDEN),
    "log",
)


def _values_text(values: list[float]) -> str:
    return f"{values[0]:,.1f} tok/s per device, P99 TTFT {values[1]:,.1f} ms"


def _quoted(key: str, value: Value | None) -> str:
    """A line of a log, or its place, as it is: neither is Markdown."""
    return f"`{str(value).replace('`', chr(39))}`" if key in {"line", "log"} else str(value)


def _failure(evidence: Evidence, result: TrialResult) -> dict[str, Value | None]:
    log = result.artifacts.get(
        artifacts.LOG, evidence.log_path
    )  # below the job's folder: where that is concerns nobody
    texts = (evidence.failure.value, evidence.cause, evidence.advice, evidence.line, log)
    return dict(zip(_EVIDENCE, texts, strict=True))


def _measurement(result: TrialResult, outcome: Measured) -> dict[str, Value | None]:
    point = outcome.closest_point
    attributes: dict[str, Value | None] = {
        "operating point": str(point.load) if outcome.operating_point else f"none; closest: {point.load}",
        "request throughput (req/s)": round(point.request_throughput, 3),
        "goodput (req/s)": round(point.request_goodput, 3),
        "failed requests": point.failed,
        "engine start (s)": round(result.timings.start_s, 1),
        "engine version": result.engine_version,
    }
    for name in ("tpot", "itl", "e2el"):
        value = getattr(point, name).at(99).value_ms
        attributes[f"P99 {name.upper()} (ms)"] = None if value is None or math.isnan(value) else round(value, 3)
    if not point.steady:
        attributes[UNSTEADY] = f"{point.growth}; a longer level would show worse figures"
    if point.bottleneck is not None:
        attributes["bottleneck"] = f"{point.bottleneck.kind}: {point.bottleneck.evidence}. {point.bottleneck.advice}"
    if artifacts.LOG in result.artifacts:
        attributes["log"] = result.artifacts[artifacts.LOG]
    for name, share in (("MFU", point.mfu), ("MBU", point.mbu)):
        if share is not None:
            attributes[name] = round(share, 4)
    if outcome.overridden:
        attributes[OVERRIDDEN] = json.dumps(outcome.overridden)
    return attributes
