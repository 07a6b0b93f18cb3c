"""The study people watch, on a real Optuna storage: real values, named limits, idempotent telling."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from optuna_dashboard import get_note
from sqlalchemy import event

from autotune.errors import StoreError
from autotune.results import LoadPoint, Trial
from autotune.spec import Sla
from autotune.study.grid import Grid, Knob
from autotune.study.persisted import P99_TTFT, THROUGHPUT, PersistedStudy, open_storage
from autotune.study.shown import ROW, running, shown, template

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
def storage(url: str) -> RDBStorage:
    opened = open_storage(url)
    opened.engine.dispose()
    event.listen(opened.engine, "connect", lambda driver, _record: driver.execute("PRAGMA synchronous = OFF"))  # fast
    return opened


@pytest.fixture
def study(storage: RDBStorage) -> PersistedStudy:
    return PersistedStudy(storage, "demo-1", SLA, GRID)


@pytest.fixture
def rows(make_trial: MakeTrial, make_point: MakePoint) -> list[Trial]:
    """Measured, infeasible, without a P99, running."""
    return [
        make_trial(0, KNOBS, make_point(120.0, 800.0)),
        make_trial(1, KNOBS | {"max_num_seqs": 32}, oom=True),
        make_trial(2, KNOBS | {"max_num_seqs": 4}, make_point(None, 300.0, failed=30)),
        make_trial(3, KNOBS | {"max_num_seqs": 8}),
    ]


STATES = [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING]  # of `rows`


def kept(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="demo-1", storage=url).trials


def test_a_running_trial_is_shown_with_its_real_values(study: PersistedStudy, url: str, make_trial: MakeTrial) -> None:
    study.started(make_trial(0, KNOBS))
    (trial,) = kept(url)
    assert (trial.state, trial.params) == (TrialState.RUNNING, KNOBS)


def test_a_measured_trial_has_both_objectives_and_named_constraints(
    study: PersistedStudy, url: str, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    trial = make_trial(0, KNOBS, make_point(120.0, 800.0))
    study.started(trial)
    study.finished(trial)
    (told,) = kept(url)
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
    assert max(kept(url)[1].system_attrs["constraints"]) > 0
    assert [t.number for t in optuna.load_study(study_name="demo-1", storage=url).best_trials] == [0]


def test_a_failed_launch_is_told_fail_with_cause_and_advice(
    study: PersistedStudy, url: str, make_trial: MakeTrial
) -> None:
    trial = make_trial(0, KNOBS, oom=True)
    study.started(trial)
    study.finished(trial)
    (told,) = kept(url)
    assert told.state == TrialState.FAIL
    assert told.user_attrs["cause"] == "Out of device memory."
    assert told.user_attrs["advice"] == "Lower gpu_memory_utilization."


def test_a_trial_without_a_p99_shows_no_invented_number(
    study: PersistedStudy, url: str, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    trial = make_trial(0, KNOBS, make_point(None, 300.0, failed=30))
    study.started(trial)
    study.finished(trial)
    (told,) = kept(url)
    assert (told.state, told.values) == (TrialState.FAIL, None)
    assert told.user_attrs["failure"].startswith("10.0% of the requests failed")


def test_telling_twice_changes_nothing(
    study: PersistedStudy, url: str, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    trial = make_trial(0, KNOBS, make_point())
    study.sync([trial])
    before = kept(url)
    study.sync([trial])
    assert kept(url) == before


def test_sync_ends_a_running_trial_that_our_rows_do_not_know(
    study: PersistedStudy, url: str, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    study.started(make_trial(0, KNOBS, make_point()))
    study.started(make_trial(1, KNOBS))
    study.sync([make_trial(0, KNOBS, make_point())])
    assert [trial.state for trial in kept(url)] == [TrialState.COMPLETE, TrialState.FAIL]


def test_confirmations_are_not_trials_of_the_study(
    study: PersistedStudy, url: str, make_trial: MakeTrial, make_point: MakePoint
) -> None:
    study.sync([make_trial(0, KNOBS, make_point()), make_trial(1, KNOBS, make_point(), purpose="confirmation")])
    assert len(kept(url)) == 1


def test_sync_adds_what_is_missing(study: PersistedStudy, url: str, rows: list[Trial]) -> None:
    study.sync(rows)
    assert [trial.state for trial in kept(url)] == STATES
    assert study.differences(rows) == []


def test_a_trial_is_stamped_with_the_times_of_its_row(study: PersistedStudy, url: str, rows: list[Trial]) -> None:
    study.sync(rows)
    started = rows[0].started_at.astimezone().replace(tzinfo=None)
    assert [(t.datetime_start, t.datetime_complete) for t in kept(url)[:1]] == [(started, started)]


def test_a_failed_launch_that_sync_adds_has_its_note(study: PersistedStudy, url: str, rows: list[Trial]) -> None:
    study.sync(rows)
    whole = optuna.load_study(study_name="demo-1", storage=url)
    note = get_note(optuna.trial.Trial(whole, whole.trials[1]._trial_id))
    assert "**failure**: oom" in note
    assert "**advice**: Lower gpu_memory_utilization." in note


def test_a_note_says_when_the_operating_point_was_not_steady(make_trial: MakeTrial, make_point: MakePoint) -> None:
    moved = make_point(120.0, 800.0).model_copy(update={"steady": False, "drift": 3.2, "drift_of": "tpot"})
    told = "**not steady**: the TPOT of the second half is 3.20x the first; a longer level would show worse figures"
    assert told in shown(make_trial(0, KNOBS, moved), GRID, SLA).note
    assert "steady" not in shown(make_trial(0, KNOBS, make_point(120.0, 800.0)), GRID, SLA).note


def test_sync_completes_what_was_told_by_half(
    study: PersistedStudy, storage: RDBStorage, url: str, rows: list[Trial]
) -> None:
    """Some attributes and constraints are set, the state is not: the tuner died in between."""
    study.started(rows[0])
    (half,) = kept(url)
    storage.set_trial_user_attr(half._trial_id, "operating point", "4 concurrent")
    storage.set_trial_system_attr(half._trial_id, "constraints:engine launches", -1.0)
    study.sync(rows[:1])
    assert [(trial.state, trial.values) for trial in kept(url)] == [(TrialState.COMPLETE, [800.0, 120.0])]
    assert study.differences(rows[:1]) == []


def test_of_a_trial_that_was_added_twice_sync_fails_one(
    study: PersistedStudy, storage: RDBStorage, url: str, rows: list[Trial]
) -> None:
    """The answer to the first time was lost."""
    study.started(rows[0])
    study_id = storage.get_study_id_from_name("demo-1")
    storage.create_new_trial(study_id, template(running(rows[0], GRID), GRID))
    assert study.differences(rows[:1])[-1] == "trial 1 (RUNNING) is of no row"
    study.sync(rows[:1])
    assert [trial.state for trial in kept(url)] == [TrialState.COMPLETE, TrialState.FAIL]
    assert kept(url)[1].user_attrs["advice"] == "Another trial shows it."
    assert study.differences(rows[:1]) == []


def test_a_row_that_runs_again_is_shown_by_the_trial_it_had(
    study: PersistedStudy, storage: RDBStorage, url: str, rows: list[Trial]
) -> None:
    study.started(rows[3])
    resumed = PersistedStudy(storage, "demo-1", SLA, GRID)
    resumed.sync([rows[3].model_copy(update={"attempts": 2})])
    resumed.started(rows[3])
    assert [trial.state for trial in kept(url)] == [TrialState.RUNNING]


def test_a_row_that_runs_again_after_its_trial_was_failed_gets_another_trial(
    study: PersistedStudy, url: str, rows: list[Trial]
) -> None:
    study.started(rows[3])
    study.sync([])
    study.sync(rows[3:])
    assert [trial.state for trial in kept(url)] == [TrialState.FAIL, TrialState.RUNNING]
    assert study.differences(rows[3:]) == []


def test_a_study_that_was_deleted_is_made_again_with_its_description(
    study: PersistedStudy, storage: RDBStorage, url: str, rows: list[Trial]
) -> None:
    study.describe({"model": "tiny"}, "# demo")
    study.sync(rows)
    storage.delete_study(storage.get_study_id_from_name("demo-1"))
    assert study.differences(rows) == ["the study 'demo-1' is missing"]
    study.sync(rows)
    whole = optuna.load_study(study_name="demo-1", storage=url)
    assert (whole.user_attrs, get_note(whole)) == ({"model": "tiny"}, "# demo")
    assert study.differences(rows) == []


def test_a_deleted_study_is_told_when_a_trial_starts_or_ends(
    study: PersistedStudy, storage: RDBStorage, rows: list[Trial]
) -> None:
    """Its number may be another study's by now."""
    study.sync(rows)
    storage.delete_study(storage.get_study_id_from_name("demo-1"))
    other = PersistedStudy(storage, "demo-2", SLA, GRID)
    for show, trial in ((study.started, rows[3]), (study.finished, rows[0])):
        with pytest.raises(StoreError, match="the study 'demo-1' cannot be"):
            show(trial)
    assert other.differences([]) == []


def test_numbers_that_are_not_ours_do_not_stay(
    study: PersistedStudy, storage: RDBStorage, url: str, rows: list[Trial]
) -> None:
    """The dashboard lets people tell a running trial; Optuna cannot take that back, so the study is made anew."""
    study.describe({"model": "tiny"}, "# demo")
    study.sync(rows)
    storage.set_trial_state_values(kept(url)[3]._trial_id, TrialState.COMPLETE, [9999.0, 1.0])
    assert study.differences(rows) == ["trial 3 of row 3 differs in state"]
    with pytest.raises(StoreError, match="shows values of row 3 that are not ours"):
        study.finished(rows[3].model_copy(update={"result": rows[0].result}))
    PersistedStudy(storage, "demo-1", SLA, GRID).sync(rows)
    whole = optuna.load_study(study_name="demo-1", storage=url)
    assert [trial.state for trial in whole.trials] == STATES
    assert (whole.user_attrs, get_note(whole)) == ({"model": "tiny"}, "# demo")


def test_a_trial_that_people_failed_is_shown_once_more(
    study: PersistedStudy, storage: RDBStorage, url: str, rows: list[Trial]
) -> None:
    study.started(rows[0])
    storage.set_trial_state_values(kept(url)[0]._trial_id, TrialState.FAIL)
    study.finished(rows[0])
    assert [trial.state for trial in kept(url)] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.differences(rows[:1]) == []


def test_trials_that_people_enqueue_are_failed(study: PersistedStudy, url: str, rows: list[Trial]) -> None:
    optuna.load_study(study_name="demo-1", storage=url).enqueue_trial({"max_num_seqs": 4})
    study.sync(rows[:1])
    assert [trial.state for trial in kept(url)] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_description_that_was_written_by_half_is_completed(
    study: PersistedStudy, storage: RDBStorage, url: str
) -> None:
    """The attributes could be written, the note could not."""

    def rename(old: str, new: str) -> None:
        with storage.engine.begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

    rename("study_system_attributes", "elsewhere")
    with pytest.raises(StoreError, match="study_system_attributes"):
        study.describe({"model": "tiny"}, "# demo")
    rename("elsewhere", "study_system_attributes")
    study.sync([])
    whole = optuna.load_study(study_name="demo-1", storage=url)
    assert (whole.user_attrs, get_note(whole)) == ({"model": "tiny"}, "# demo")


def test_a_study_with_other_parameters_is_made_anew(
    storage: RDBStorage, url: str, rows: list[Trial], make_trial: MakeTrial
) -> None:
    """Optuna refuses a parameter whose choices are not those of the trials before."""
    other = Grid((Knob("async_scheduling", ("auto", "never"), ordered=False),))
    PersistedStudy(storage, "demo-1", SLA, other).started(make_trial(0, {"async_scheduling": "never"}))
    study = PersistedStudy(storage, "demo-1", SLA, GRID)
    study.sync(rows)
    assert study.differences(rows) == []
    assert [trial.state for trial in kept(url)] == STATES


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"values": [801.0, 120.0]}, "values"),
        ({"params": KNOBS | {"max_num_seqs": 4}}, "params"),
        ({"system_attrs": {"constraints": [-1.0, -0.5, -1.0]}}, "constraints"),
    ],
)
def test_a_complete_trial_that_differs_is_a_difference_and_made_right(
    study: PersistedStudy, storage: RDBStorage, rows: list[Trial], change: dict[str, object], difference: str
) -> None:
    right = template(shown(rows[0], GRID, SLA), GRID)
    parts = {"values": right.values, "params": right.params, "system_attrs": right.system_attrs} | change
    wrong = create_trial(user_attrs=right.user_attrs, distributions=right.distributions, **parts)
    storage.create_new_trial(storage.get_study_id_from_name("demo-1"), wrong)
    assert study.differences(rows[:1]) == [f"trial 0 of row 0 differs in {difference}"]
    study.sync(rows[:1])
    assert study.differences(rows[:1]) == []


def test_rows_without_trials_and_trials_without_rows_are_differences(study: PersistedStudy, rows: list[Trial]) -> None:
    study.sync(rows[:1])
    assert study.differences(rows[1:2]) == ["row 1 is missing", "trial 0 (COMPLETE) is of no row"]


def test_an_open_trial_of_a_finished_row_is_a_difference(study: PersistedStudy, rows: list[Trial]) -> None:
    study.started(rows[1])
    assert study.differences(rows[1:2]) == ["trial 0 of row 1 differs in state"]


def test_a_broken_database_is_a_store_error_for_every_method(
    study: PersistedStudy, storage: RDBStorage, rows: list[Trial]
) -> None:
    study.sync(rows)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE studies RENAME TO elsewhere")
    calls = (
        lambda: study.describe({"model": "tiny"}, "note"),
        lambda: study.sync(rows),
        lambda: study.started(rows[3]),
        lambda: study.finished(rows[0]),
        lambda: study.differences(rows),
        lambda: PersistedStudy(storage, "demo-1", SLA, GRID),
    )
    for call in calls:
        with pytest.raises(StoreError, match=r"the study 'demo-1' cannot be written or read: .*no such table"):
            call()


def test_a_database_that_is_none_is_a_store_error_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, but long enough to have a header" * 50)
    with pytest.raises(StoreError, match=r"cannot be opened: .*file is not a database"):
        open_storage(f"sqlite:///{tmp_path}/notes.db")


def test_starting_and_finishing_do_not_read_the_whole_study(
    study: PersistedStudy, storage: RDBStorage, rows: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    study.sync(rows[:3])
    monkeypatch.setattr(storage, "get_all_trials", None)
    study.started(rows[3])
    study.finished(rows[3].model_copy(update={"result": rows[0].result}))


_names = iter(range(10**6))
happening = st.tuples(
    st.sampled_from(["start", "add", "half", "tell", "fail", "complete", "enqueue", "delete", "sync", "resume"]),
    st.integers(0, 3),
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events=st.lists(happening, max_size=6))
def test_after_whatever_happened_one_sync_makes_the_study_equal_to_the_rows(
    storage: RDBStorage, rows: list[Trial], events: list[tuple[str, int]]
) -> None:
    name = f"study-{next(_names)}"
    tuners = [PersistedStudy(storage, name, SLA, GRID)]
    for what, number in events:
        happen(what, rows[number], storage, name, tuners)
    tuners[-1].sync(rows)
    assert tuners[-1].differences(rows) == []
    tuners[-1].sync(rows)
    complete = [t for t in optuna.load_study(study_name=name, storage=storage).trials if t.values]
    assert [(trial.user_attrs[ROW], trial.values) for trial in complete] == [(0, [800.0, 120.0])]


def happen(what: str, row: Trial, storage: RDBStorage, name: str, tuners: list[PersistedStudy]) -> None:
    """One thing that our tuner, a crash, a lost answer or a person at the dashboard may do."""
    with contextlib.suppress(StoreError, KeyError):  # the study was deleted or spoiled; the tuner syncs later
        match what:
            case "start":
                tuners[-1].started(row)
            case "tell":
                tuners[-1].finished(row)
            case "sync":
                tuners[-1].sync([row])
            case "resume":
                tuners.append(PersistedStudy(storage, name, SLA, GRID))
            case _:
                interfere(what, row, storage, storage.get_study_id_from_name(name))


def interfere(what: str, row: Trial, storage: RDBStorage, study_id: int) -> None:
    is_open = [trial for trial in storage.get_all_trials(study_id) if not trial.state.is_finished()]
    match what:
        case "add":
            storage.create_new_trial(study_id, template(running(row, GRID), GRID))
        case "enqueue":
            storage.create_new_trial(study_id, create_trial(state=TrialState.WAITING))
        case "delete":
            storage.delete_study(study_id)
        case "half" if is_open:
            storage.set_trial_system_attr(is_open[0]._trial_id, "constraints:engine launches", 1.0)
            storage.set_trial_user_attr(is_open[-1]._trial_id, "failure", "interrupted")
        case "fail" if is_open:
            storage.set_trial_state_values(is_open[0]._trial_id, TrialState.FAIL)
        case "complete" if is_open:
            storage.set_trial_state_values(is_open[-1]._trial_id, TrialState.COMPLETE, [1.0, 2.0])
