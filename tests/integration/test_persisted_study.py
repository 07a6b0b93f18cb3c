"""The study people watch, on a real Optuna storage: real values, named limits, idempotent telling."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from autotune.results import LoadPoint, Trial
from autotune.spec import Sla
from autotune.study.grid import Grid, Knob
from autotune.study.persisted import P99_TTFT, THROUGHPUT, PersistedStudy, open_storage

SLA = Sla.model_validate({"p99_ttft_ms": 200})
GRID = Grid(
    (
        Knob("max_num_seqs", (4, 8, 16, 32), ordered=True),
        Knob("gpu_memory_utilization", (0.85, 0.9, 0.95), ordered=True),
        Knob("async_scheduling", ("auto", True, False), ordered=False),
    )
)
KNOBS = {"max_num_seqs": 16, "gpu_memory_utilization": 0.9, "async_scheduling": "auto"}

MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def study(url: str) -> PersistedStudy:
    return PersistedStudy(open_storage(url), "demo-1", SLA, GRID)


def shown(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="demo-1", storage=url).trials


def test_a_running_trial_is_shown_with_its_real_values(study: PersistedStudy, url: str, make_trial: MakeTrial) -> None:
    study.started(make_trial(0, KNOBS))
    (trial,) = shown(url)
    assert (trial.state, trial.params) == (TrialState.RUNNING, KNOBS)


def test_a_measured_trial_has_both_objectives_and_named_constraints(
    study: PersistedStudy, url: str, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    trial = make_trial(0, KNOBS, make_point(120.0, 800.0))
    study.started(trial)
    study.finished(trial)
    (told,) = shown(url)
    assert told.values == [800.0, 120.0]
    assert told.constraints.keys() >= {"engine launches", "p99_ttft_ms <= 200", "error_rate <= 0.01"}
    assert optuna.load_study(study_name="demo-1", storage=url).metric_names == [THROUGHPUT, P99_TTFT]


def test_a_violator_is_infeasible_for_the_dashboard_too(
    study: PersistedStudy, url: str, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    """Dashboard 0.21 reads only the list under the old key; Optuna itself reads the named ones."""
    good, bad = make_trial(0, KNOBS, make_point(120.0, 800.0)), make_trial(1, KNOBS, make_point(260.0, 990.0))
    for trial in (good, bad):
        study.started(trial)
        study.finished(trial)
    assert max(shown(url)[1].system_attrs["constraints"]) > 0
    assert [t.number for t in optuna.load_study(study_name="demo-1", storage=url).best_trials] == [0]


def test_a_failed_launch_is_told_fail_with_cause_and_advice(
    study: PersistedStudy, url: str, make_trial: MakeTrial
) -> None:
    trial = make_trial(0, KNOBS, oom=True)
    study.started(trial)
    study.finished(trial)
    (told,) = shown(url)
    assert told.state == TrialState.FAIL
    assert told.user_attrs["cause"] == "Out of device memory."
    assert told.user_attrs["advice"] == "Lower gpu_memory_utilization."


def test_a_trial_without_a_p99_shows_no_invented_number(
    study: PersistedStudy, url: str, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    trial = make_trial(0, KNOBS, make_point(None, 300.0, failed=30))
    study.started(trial)
    study.finished(trial)
    (told,) = shown(url)
    assert (told.state, told.values) == (TrialState.FAIL, None)
    assert told.user_attrs["failure"].startswith("10.0% of the requests failed")


def test_telling_twice_changes_nothing(
    study: PersistedStudy, url: str, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    trial = make_trial(0, KNOBS, make_point())
    study.sync([trial])
    before = shown(url)
    study.sync([trial])
    assert shown(url) == before


def test_sync_ends_a_running_trial_that_our_rows_do_not_know(
    study: PersistedStudy, url: str, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    study.started(make_trial(0, KNOBS, make_point()))
    study.started(make_trial(1, KNOBS))
    study.sync([make_trial(0, KNOBS, make_point())])
    assert [trial.state for trial in shown(url)] == [TrialState.COMPLETE, TrialState.FAIL]


def test_confirmations_are_not_trials_of_the_study(
    study: PersistedStudy, url: str, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    study.sync([make_trial(0, KNOBS, make_point()), make_trial(1, KNOBS, make_point(), purpose="confirmation")])
    assert len(shown(url)) == 1
