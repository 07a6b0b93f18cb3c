"""The study people watch in Optuna dashboard: real knob values, only measured numbers, named limits with units."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard import save_note

from autotune.engine_config import Value
from autotune.errors import StoreError
from autotune.results import Evidence, Measured, Trial, TrialResult
from autotune.spec import Sla
from autotune.study import constraints
from autotune.study.grid import Grid, Knob

THROUGHPUT = "output throughput per device (tok/s)"
P99_TTFT = "P99 TTFT (ms)"
ROW = "autotune_trial"  # user attribute: the number of our row


class PersistedStudy:
    """One job's study in the shared database. Our rows are the truth; `sync` brings the study into line with them."""

    def __init__(self, storage: RDBStorage, name: str, sla: Sla, grid: Grid) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            study_name=name, storage=storage, directions=["maximize", "minimize"], load_if_exists=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # the version is pinned below 6
            self._study.set_metric_names([THROUGHPUT, P99_TTFT])
        self._sla = sla
        self._distributions = {knob.name: _distribution(knob) for knob in grid.knobs}

    @property
    def name(self) -> str:
        """The study's name, as the dashboard lists it."""
        return self._study.study_name

    def describe(self, attributes: Mapping[str, str], note: str) -> None:
        """Say what the study is about: user attributes, and a note in Markdown."""
        for key, value in attributes.items():
            self._study.set_user_attr(key, value)
        save_note(self._study, note)

    def sync(self, trials: Sequence[Trial]) -> None:
        """Make the study equal to our rows: missing trials are added, finished ones told, strangers failed."""
        theirs = self._by_row()
        rows = {trial.number: trial for trial in trials if trial.purpose != "confirmation"}
        for number, frozen in theirs.items():
            if number not in rows and not frozen.state.is_finished():
                self._fail(frozen, {"failure": "interrupted", "advice": "The tuner was stopped during this trial."})
        for number, trial in sorted(rows.items()):
            if number not in theirs:
                self.started(trial)
            if trial.result is not None:
                self.finished(trial)

    def started(self, trial: Trial) -> None:
        """Show a running trial with its real knob values."""
        params = {name: trial.knobs[name] for name in self._distributions if name in trial.knobs}
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions={name: self._distributions[name] for name in params},
                user_attrs={ROW: trial.number, "origin": trial.origin, "config_hash": trial.config.hash},
            )
        )

    def finished(self, trial: Trial) -> None:
        """Tell a trial's outcome, once; telling it again changes nothing."""
        frozen = self._by_row()[trial.number]
        if frozen.state.is_finished() or trial.result is None:
            return
        outcome = trial.result.outcome
        if not isinstance(outcome, Measured):
            self._fail(frozen, _failure(outcome.evidence))
            return
        point = outcome.closest_point
        self._constrain(frozen, constraints.measured(point, self._sla))
        self._attributes(frozen, _measurement(trial.result, outcome))
        if point.p99_ttft_ms is None:
            share = point.failed / (point.failed + point.completed)
            self._fail(frozen, {"failure": f"{share:.1%} of the requests failed: there is no P99 TTFT to show"})
            return
        self._study.tell(frozen.number, [point.output_throughput_per_device, point.p99_ttft_ms])

    def _by_row(self) -> dict[int, FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False)
        return {frozen.user_attrs[ROW]: frozen for frozen in trials if ROW in frozen.user_attrs}

    def _fail(self, frozen: FrozenTrial, attributes: Mapping[str, str]) -> None:
        self._attributes(frozen, attributes)
        self._study.tell(frozen.number, state=TrialState.FAIL)
        body = "\n\n".join(f"**{key.replace('_', ' ')}**: {value}" for key, value in attributes.items() if value)
        save_note(optuna.trial.Trial(self._study, frozen._trial_id), body)

    def _attributes(self, frozen: FrozenTrial, attributes: Mapping[str, Any]) -> None:
        for key, value in attributes.items():
            self._study._storage.set_trial_user_attr(frozen._trial_id, key, value)

    def _constrain(self, frozen: FrozenTrial, values: Mapping[str, float]) -> None:
        """Set the named constraints, and the list under the old key: dashboard 0.21 reads only that one."""
        names = constraints.labels(self._sla)
        trial = optuna.trial.Trial(self._study, frozen._trial_id)
        for key, value in values.items():
            trial.set_constraint(names[key], value)
        self._study._storage.set_trial_system_attr(frozen._trial_id, "constraints", list(values.values()))


def open_storage(url: str) -> RDBStorage:
    """Optuna's tables in the database at `url`. Raises StoreError when another Optuna version owns them."""
    try:
        return RDBStorage(url)
    except RuntimeError as exc:
        raise StoreError(
            f"Optuna's tables in the database are of another version: {exc} Run `optuna storage upgrade --storage URL`."
        ) from exc


def _distribution(knob: Knob) -> BaseDistribution:
    """Numbers as numbers, so that the dashboard's axes are; everything else by its value."""
    if knob.ordered and all(isinstance(level, int) and not isinstance(level, bool) for level in knob.levels):
        numbers = [int(level) for level in knob.levels]
        return IntDistribution(min(numbers), max(numbers))
    if knob.ordered and all(isinstance(level, float) for level in knob.levels):
        reals = [float(level) for level in knob.levels]
        return FloatDistribution(min(reals), max(reals))
    return CategoricalDistribution(knob.levels)


def _failure(evidence: Evidence) -> dict[str, str]:
    return {
        "failure": evidence.failure.value,
        "cause": evidence.cause,
        "advice": evidence.advice,
        "line": evidence.line,
        "log": evidence.log_path,
    }


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
    if outcome.overridden:
        attributes["overridden by the engine"] = json.dumps(outcome.overridden)
    return attributes
