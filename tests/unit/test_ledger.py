"""The rows of a running job: our database first, the study after it, and nothing once the job belongs to another."""

import runpy
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from autotune.errors import JobTaken, LeaseLost, StoreError
from autotune.results import FailureClass, Interrupted, LoadPoint, Measured, Trial
from autotune.store import Lease, Store
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy
from autotune.tuner.context import JobContext
from autotune.tuner.ledger import Books, Ledger, leased, utc_now

TINY = runpy.run_path(str(Path(__file__).parents[1] / "data" / "tiny_job.py"))
KNOBS = TINY["DEFAULTS"]

MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]


class MoodyStorage(RDBStorage):
    """Optuna's storage, which refuses every new trial and every end of one while it is `away`."""

    away = False

    def create_new_trial(self, *args: Any, **kwargs: Any) -> int:
        self._refuse()
        return super().create_new_trial(*args, **kwargs)

    def set_trial_state_values(self, *args: Any, **kwargs: Any) -> bool:
        self._refuse()
        return super().set_trial_state_values(*args, **kwargs)

    def _refuse(self) -> None:
        if self.away:
            raise StorageInternalError("disk I/O error")


class Clock:
    """Shows the seconds that it is set to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Desk:
    """A job's database and study, and whoever works on it."""

    def __init__(self, context: JobContext, store: Store, storage: MoodyStorage, file: Path) -> None:
        self.context, self.store, self.storage, self.file = context, store, storage, file
        self.study = PersistedStudy(storage, context.job.id, context.spec.sla, Grid.of(context.space))
        self.clock = Clock()

    def take(self) -> Ledger:
        """Take the job over, from whoever has it."""
        lease = self.store.claim(self.context.job.id, "somebody", now=utc_now(), gone=lambda _: True)
        job = self.store.job(self.context.job.id)
        return Ledger(job, Books(self.store, lease, self.study), self.clock)

    @property
    def rows(self) -> tuple[Trial, ...]:
        return self.store.trials(self.context.job.id)

    @property
    def differences(self) -> list[str]:
        return self.study.differences(self.rows)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    file = tmp_path / "autotune.db"
    url = f"sqlite:///{file}"
    context = TINY["job_context"](tmp_path, {"trials": 4})
    with Store.open(url) as store:
        store.create_job(context.job)
        storage = MoodyStorage(url)
        yield Desk(context, store, storage, file)
        storage.engine.dispose()


@pytest.fixture
def ledger(desk: Desk) -> Ledger:
    opened = desk.take()
    opened.compare_study()
    return opened


@pytest.fixture
def result(make_trial: MakeTrial, make_point: MakePoint) -> Any:
    return make_trial(0, KNOBS, make_point()).result


# Rows and the study


def test_a_trial_is_in_the_rows_and_in_the_study_from_its_beginning_to_its_end(
    desk: Desk, ledger: Ledger, make_trial: MakeTrial, result: Any
):
    ledger.begin(make_trial(0, KNOBS))
    assert (desk.rows, desk.differences) == (ledger.trials, [])
    ledger.finish(0, result)
    assert desk.rows == ledger.trials
    assert desk.rows[0].result == result
    assert desk.differences == []


def test_numbers_go_on_where_another_process_left_off(desk: Desk, ledger: Ledger, make_trial: MakeTrial):
    assert ledger.next_number == 0
    ledger.begin(make_trial(0, KNOBS))
    ledger.begin(make_trial(1, KNOBS, confirms=0, purpose="confirmation"))
    assert desk.take().next_number == 2


def test_a_confirmation_is_a_row_but_not_searched(desk: Desk, ledger: Ledger, make_trial: MakeTrial):
    ledger.begin(make_trial(0, KNOBS))
    ledger.begin(make_trial(1, KNOBS, confirms=0, purpose="confirmation"))
    assert ([t.number for t in ledger.trials], [t.number for t in ledger.searched]) == ([0, 1], [0])
    assert desk.differences == []


def test_another_launch_of_a_trial_adds_up_what_it_has_occupied(desk: Desk, ledger: Ledger, make_trial: MakeTrial):
    ledger.begin(make_trial(0, KNOBS))
    ledger.begin_again(0, occupied_device_s=30.0)
    again = ledger.begin_again(0, occupied_device_s=12.5)
    assert (again.attempts, again.earlier_device_s) == (3, 42.5)
    assert desk.rows == ledger.trials == (again,)


def test_open_trials_are_closed_as_cancelled_and_no_others(
    desk: Desk, ledger: Ledger, make_trial: MakeTrial, result: Any
):
    ledger.begin(make_trial(0, KNOBS))
    ledger.finish(0, result)
    ledger.begin(make_trial(1, {**KNOBS, "max_num_seqs": 4}))
    ledger.close_open_trials()
    measured, closed = (trial.result.outcome for trial in desk.rows if trial.result)
    assert isinstance(measured, Measured)
    assert isinstance(closed, Interrupted)
    assert closed.evidence.failure is FailureClass.CANCELLED
    assert desk.differences == []


def test_a_row_that_was_written_behind_the_ledgers_back_is_closed_as_what_it_is(
    desk: Desk, ledger: Ledger, make_trial: MakeTrial, result: Any
):
    """As after a Ctrl-C between the commit of a row and the note of it."""
    ledger.begin(make_trial(0, KNOBS))
    lease = ledger._lease
    desk.store.finish_trial(lease, 0, result, utc_now())
    desk.store.start_trial(lease, make_trial(1, {**KNOBS, "max_num_seqs": 4}))
    ledger.close_open_trials()
    assert desk.rows[0].result == result
    assert desk.rows[1].result is not None


# A study that cannot be written to


def test_a_study_that_fails_never_holds_up_the_job(desk: Desk, ledger: Ledger, make_trial: MakeTrial, result: Any):
    desk.storage.away = True
    ledger.begin(make_trial(0, KNOBS))
    ledger.finish(0, result)
    assert desk.rows[0].result == result
    assert desk.differences == ["row 0 is missing"]


def test_a_study_that_is_back_is_brought_into_line(desk: Desk, ledger: Ledger, make_trial: MakeTrial, result: Any):
    desk.storage.away = True
    ledger.begin(make_trial(0, KNOBS))
    ledger.finish(0, result)
    ledger.begin(make_trial(1, {**KNOBS, "max_num_seqs": 4}))
    ledger.compare_study()
    assert desk.differences != []
    desk.storage.away = False
    ledger.compare_study()
    assert desk.differences == []


def test_the_next_trial_brings_the_study_into_line_as_well(
    desk: Desk, ledger: Ledger, make_trial: MakeTrial, result: Any
):
    ledger.begin(make_trial(0, KNOBS))
    desk.storage.away = True
    ledger.finish(0, result)
    desk.storage.away = False
    ledger.begin(make_trial(1, {**KNOBS, "max_num_seqs": 4}))
    assert desk.differences == []


def test_whoever_goes_on_with_a_job_compares_the_study_once(
    desk: Desk, ledger: Ledger, make_trial: MakeTrial, result: Any
):
    desk.storage.away = True
    ledger.begin(make_trial(0, KNOBS))
    desk.storage.away = False
    desk.take().compare_study()
    assert desk.differences == []


# A job that another process has taken over


def test_nothing_is_written_after_the_job_was_taken_over(
    desk: Desk, ledger: Ledger, make_trial: MakeTrial, result: Any
):
    ledger.begin(make_trial(0, KNOBS))
    before = desk.rows
    desk.take()
    for write in (
        lambda: ledger.begin(make_trial(1, KNOBS)),
        lambda: ledger.begin_again(0, occupied_device_s=1.0),
        lambda: ledger.finish(0, result),
        ledger.close_open_trials,
        ledger.cancel_requested,
    ):
        with pytest.raises(LeaseLost):
            write()
    assert desk.rows == before


def test_a_job_that_runs_is_refused_and_the_holder_named(desk: Desk):
    with leased(desk.store, desk.context.job.id), pytest.raises(JobTaken, match=r"process \d+ on "):
        desk.store.claim(desk.context.job.id, "me", now=utc_now())


def test_a_job_is_given_back_however_its_process_ends(desk: Desk):
    with pytest.raises(KeyboardInterrupt), leased(desk.store, desk.context.job.id):
        raise KeyboardInterrupt
    assert desk.store.owner(desk.context.job.id, now=utc_now()) is None


def test_giving_a_job_back_never_hides_why_its_process_ended(desk: Desk):
    """The database is damaged by then."""

    def work(lease: Lease) -> None:
        with closing(sqlite3.connect(desk.file)) as database:
            database.execute("ALTER TABLE autotune_jobs RENAME TO elsewhere")
        with pytest.raises(StoreError, match="no such table"):
            desk.store.release(lease)
        raise StoreError("the first trouble")

    with pytest.raises(StoreError, match="the first trouble"), leased(desk.store, desk.context.job.id) as lease:
        work(lease)


# Time


def test_time_between_resumes_is_not_counted(desk: Desk):
    first = desk.take()
    desk.clock.now_s = 1060.0
    assert first.worked_s == 60.0
    first.cancel_requested()  # says so in the database
    desk.clock.now_s = 9000.0
    second = desk.take()
    desk.clock.now_s = 9010.0
    assert second.worked_s == 70.0


def test_a_cancel_request_is_heard(desk: Desk, ledger: Ledger):
    assert not ledger.cancel_requested()
    desk.store.request_cancel(desk.context.job.id)
    assert ledger.cancel_requested()
