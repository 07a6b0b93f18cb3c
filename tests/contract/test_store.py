"""What every database behind the store keeps: one class, run over SQLite and PostgreSQL."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from threading import Barrier

import optuna
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.engine_config import EngineConfig
from autotune.errors import InputError, JobTaken, LeaseLost, NotFound, StoreError
from autotune.results import (
    Comparison,
    Confirmation,
    Evidence,
    FailureClass,
    FrontPoint,
    Infeasible,
    Interrupted,
    Job,
    JobResult,
    JobStatus,
    Latency,
    Load,
    LoadPoint,
    Measured,
    ParetoFront,
    Quantile,
    Recommendation,
    Timings,
    Trial,
    TrialResult,
)
from autotune.store import LEASE_S, Lease, Store, url_for_optuna
from autotune.store.migrate import options
from autotune.store.schema import Tables

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RATE_4 = Load(kind="request_rate", value=4)


def job(job_id: str, *, name: str = "qwen", minutes: int = 0) -> Job:
    return Job(
        id=job_id,
        name=name,
        status=JobStatus.QUEUED,
        spec={"sla": {"p99_ttft_ms": 200}},
        space={"parameters": []},
        workload={"kind": "synthetic"},
        model_path="/models/tiny",
        folder="artifacts/" + job_id,
        created_at=NOON + timedelta(minutes=minutes),
    )


def trial(number: int) -> Trial:
    config = EngineConfig(arguments={"max_num_seqs": 64}, environment={"OMP_NUM_THREADS": "1"}, devices=2)
    return Trial(
        number=number, purpose="search", origin="gp", knobs={"max_num_seqs": 64}, config=config, started_at=NOON
    )


def latency(p99_ms: float | None) -> Latency:
    quantile = Quantile(percent=99, value_ms=p99_ms, lower_ms=p99_ms, upper_ms=p99_ms)
    return Latency(count=500, mean_ms=80.0, quantiles=(quantile,))


def point(level: int, *, p99_ttft_ms: float | None = 150.0, seed: int = 0) -> LoadPoint:
    return LoadPoint(
        level=level,
        load=RATE_4,
        devices=2,
        seed=seed,
        duration_s=60.0,
        completed=500,
        failed=0,
        request_throughput=8.0,
        output_throughput=1000.0,
        total_token_throughput=3000.0,
        request_goodput=7.5,
        ttft=latency(p99_ttft_ms),
        tpot=latency(20.0),
        itl=latency(21.0),
        e2el=latency(2000.0),
        client_lag_ms=0.5,
        violations={"p99_ttft_ms": -0.2, "error_rate": -1.0, "launch": -1.0},
    )


def measured(*points: LoadPoint) -> TrialResult:
    return TrialResult(outcome=Measured(points=points, operating_level=points[0].level), node="rack1", devices=("0",))


OUT_OF_MEMORY = TrialResult(
    outcome=Infeasible(
        evidence=Evidence(failure=FailureClass.OOM, signature="kv", cause="no room", advice="lower it", log_tail="\0")
    )
)


def front_point(number: int, level: int, throughput: float) -> FrontPoint:
    return FrontPoint(
        trial=number,
        level=level,
        load=RATE_4,
        output_throughput_per_device=throughput,
        p99_ttft_ms=150.0,
        request_throughput=8.0,
    )


def result(*points: FrontPoint) -> JobResult:
    return JobResult(
        stopped_by="trials",
        front=ParetoFront(points=points),
        recommendation=Recommendation(trial=1, level=0, reason="highest throughput that holds"),
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/new/folder/autotune.db"
    return request.getfixturevalue("postgresql_url")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


@pytest.fixture
def sql(url: str, store: Store) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(url_for_optuna(url))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def lease(store: Store) -> Lease:
    """The right to write to the job aa01, which is made."""
    return claimed(store, "aa01")


def claimed(store: Store, job_id: str) -> Lease:
    store.create_job(job(job_id))
    return store.claim(job_id, "worker 1", now=NOON)


class TestJobs:
    def test_a_job_comes_back_as_it_was_created(self, store: Store) -> None:
        store.create_job(job("aa01"))
        assert store.job("aa01") == job("aa01")

    def test_jobs_survive_closing_the_store(self, store: Store, url: str) -> None:
        store.create_job(job("aa01"))
        store.close()
        with Store.open(url) as again:
            assert again.jobs() == (job("aa01"),)

    def test_jobs_are_listed_newest_first(self, store: Store) -> None:
        for job_id, minutes in (("aa", 1), ("bb", 3), ("cc", 2)):
            store.create_job(job(job_id, minutes=minutes))
        assert [listed.id for listed in store.jobs()] == ["bb", "cc", "aa"]

    def test_an_id_is_taken_once(self, store: Store) -> None:
        store.create_job(job("aa01"))
        with pytest.raises(StoreError, match="another job with the id 'aa01' exists already"):
            store.create_job(job("aa01", name="llama"))
        assert store.job("aa01").name == "qwen"

    def test_creating_the_same_job_again_changes_nothing(self, store: Store, lease: Lease) -> None:
        """The answer to the first time may have got lost; the job may run by now."""
        store.set_status(lease, JobStatus.RUNNING)
        store.create_job(job("aa01"))
        assert [(kept.id, kept.status) for kept in store.jobs()] == [("aa01", JobStatus.RUNNING)]

    def test_a_name_finds_its_newest_job(self, store: Store) -> None:
        store.create_job(job("aa01", name="qwen", minutes=2))
        store.create_job(job("bb02", name="qwen", minutes=1))
        assert store.job("qwen").id == "aa01"

    def test_an_id_beats_a_name(self, store: Store) -> None:
        store.create_job(job("aa01", name="qwen"))
        store.create_job(job("qwen", name="other"))
        assert store.job("qwen").name == "other"

    def test_a_unique_start_of_an_id_is_enough(self, store: Store) -> None:
        store.create_job(job("aa01"))
        store.create_job(job("ab02"))
        assert store.job("ab").id == "ab02"

    def test_a_start_is_compared_letter_by_letter(self, store: Store) -> None:
        """`_` and `%` are no wildcards."""
        store.create_job(job("aa01"))
        with pytest.raises(NotFound):
            store.job("a_")

    def test_an_ambiguous_start_names_the_candidates(self, store: Store) -> None:
        store.create_job(job("aa01"))
        store.create_job(job("aa02"))
        with pytest.raises(InputError, match="several jobs have ids that start with 'aa': aa01, aa02"):
            store.job("aa")

    def test_an_unknown_name_suggests_the_closest(self, store: Store) -> None:
        store.create_job(job("aa01", name="qwen-chat"))
        with pytest.raises(NotFound, match="'qwen-caht'; did you mean 'qwen-chat'"):
            store.job("qwen-caht")

    def test_an_unknown_name_with_nothing_like_it_lists_the_newest(self, store: Store) -> None:
        store.create_job(job("aa01", name="qwen"))
        with pytest.raises(NotFound, match=r"the newest are aa01 \(qwen\)"):
            store.job("zzzzzz")

    def test_an_empty_database_says_so(self, store: Store) -> None:
        with pytest.raises(NotFound, match="holds no jobs"):
            store.job("qwen")

    def test_a_status_carries_its_message(self, store: Store, lease: Lease) -> None:
        store.set_status(lease, JobStatus.RUNNING, "trial 3 of 30")
        assert (store.job("aa01").status, store.job("aa01").message) == (JobStatus.RUNNING, "trial 3 of 30")

    def test_a_space_may_shrink_until_something_was_launched_from_it(self, store: Store, lease: Lease) -> None:
        store.set_space(lease, {"parameters": ["first"]})
        store.start_trial(lease, trial(0))
        store.set_space(lease, {"parameters": ["second"]})
        assert store.job("aa01").space == {"parameters": ["first"]}

    def test_a_message_may_quote_a_log_with_nul_bytes(self, store: Store, lease: Lease) -> None:
        store.set_status(lease, JobStatus.FAILED, "it said \0")
        assert store.job("aa01").message == "it said \N{REPLACEMENT CHARACTER}"

    def test_an_unknown_job_cannot_be_written_to(self, store: Store) -> None:
        with pytest.raises(NotFound, match="'zz'"):
            store.set_status(Lease("zz", "token"), JobStatus.RUNNING)

    def test_a_cancel_request_stays_until_it_is_heard(self, store: Store, lease: Lease) -> None:
        """A queued job that is cancelled must not lose the request when a worker starts it."""
        asked_before = store.cancel_requested("aa01")
        store.request_cancel("aa01")
        store.set_status(lease, JobStatus.RUNNING)
        assert (asked_before, store.cancel_requested("aa01")) == (False, True)

    def test_an_ended_job_cannot_be_cancelled(self, store: Store, lease: Lease) -> None:
        store.finish_job(lease, JobStatus.SUCCEEDED, result(), finished_at=NOON)
        with pytest.raises(InputError, match=r"ended already \(succeeded\)"):
            store.request_cancel("aa01")

    def test_a_job_that_runs_again_is_open_again(self, store: Store, lease: Lease) -> None:
        store.request_cancel("aa01")
        store.finish_job(lease, JobStatus.CANCELLED, None, finished_at=NOON)
        again = store.claim("aa01", "worker 2", now=NOON)
        store.set_status(again, JobStatus.RUNNING)
        assert (store.job("aa01").finished_at, store.cancel_requested("aa01")) == (None, False)

    def test_an_ended_job_that_somebody_works_on_can_be_cancelled_once(self, store: Store, lease: Lease) -> None:
        """Its explanation is under way: that is what ends. The next one begins without the old request."""
        store.finish_job(lease, JobStatus.SUCCEEDED, None, finished_at=NOON)
        again = store.claim("aa01", "an explanation", now=NOON)
        store.request_cancel("aa01")
        assert store.renew(again, now=NOON, worked_s=0.0)
        store.release(again)
        later = store.claim("aa01", "another explanation", now=NOON)
        assert not store.renew(later, now=NOON, worked_s=0.0)

    def test_a_cancel_that_was_asked_for_before_a_job_is_reopened_is_forgotten(
        self, store: Store, lease: Lease
    ) -> None:
        """Whoever ran it was killed before it could obey, so the job has never ended."""
        store.set_status(lease, JobStatus.RUNNING)
        store.request_cancel("aa01")
        again = store.claim("aa01", "worker 2", now=NOON, gone=lambda _: True)
        store.reopen(again)
        assert (store.job("aa01").status, store.cancel_requested("aa01")) == (JobStatus.RUNNING, False)

    def test_a_job_that_is_reopened_forgets_how_it_ended(self, store: Store, lease: Lease) -> None:
        store.finish_job(lease, JobStatus.FAILED, None, finished_at=NOON, message="no driver")
        store.reopen(store.claim("aa01", "worker 2", now=NOON))
        kept = store.job("aa01")
        assert (kept.status, kept.message, kept.finished_at) == (JobStatus.RUNNING, "", None)


class TestTrials:
    def test_a_started_trial_has_no_result(self, store: Store, lease: Lease) -> None:
        store.start_trial(lease, trial(0))
        assert store.trials("aa01") == (trial(0),)

    def test_a_finished_trial_brings_its_result(self, store: Store, lease: Lease) -> None:
        store.start_trial(lease, trial(0))
        store.finish_trial(lease, 0, measured(point(0), point(1)), NOON)
        expected = trial(0).model_copy(update={"result": measured(point(0), point(1)), "finished_at": NOON})
        assert store.trials("aa01") == (expected,)

    def test_an_infeasible_trial_keeps_its_evidence(self, store: Store, lease: Lease) -> None:
        """NUL bytes of a log included."""
        store.start_trial(lease, trial(0))
        store.finish_trial(lease, 0, OUT_OF_MEMORY, NOON)
        assert store.trials("aa01")[0].result == OUT_OF_MEMORY

    def test_the_order_of_constraints_is_kept(self, store: Store, lease: Lease) -> None:
        """Samplers map constraints by position."""
        store.start_trial(lease, trial(0))
        store.finish_trial(lease, 0, measured(point(0)), NOON)
        assert list(store.load_points("aa01")[0][1].violations) == ["p99_ttft_ms", "error_rate", "launch"]

    def test_trials_come_by_number(self, store: Store, lease: Lease) -> None:
        for number in (2, 0, 1):
            store.start_trial(lease, trial(number))
        assert [kept.number for kept in store.trials("aa01")] == [0, 1, 2]

    def test_a_number_is_taken_once(self, store: Store, lease: Lease) -> None:
        store.start_trial(lease, trial(0))
        with pytest.raises(StoreError, match="has another trial 0 already"):
            store.start_trial(lease, trial(0).model_copy(update={"origin": "sobol"}))
        assert store.trials("aa01") == (trial(0),)

    def test_starting_the_same_trial_again_changes_nothing(self, store: Store, lease: Lease) -> None:
        for _ in range(2):
            store.start_trial(lease, trial(0))
        assert store.trials("aa01") == (trial(0),)

    def test_two_jobs_may_use_the_same_number(self, store: Store, lease: Lease) -> None:
        store.start_trial(lease, trial(0))
        store.start_trial(claimed(store, "bb02"), trial(0))
        assert (len(store.trials("aa01")), len(store.trials("bb02"))) == (1, 1)

    def test_a_trial_needs_its_job(self, store: Store) -> None:
        with pytest.raises(NotFound, match="no job has the id 'zz'"):
            store.start_trial(Lease("zz", "token"), trial(0))

    def test_a_trial_is_finished_once(self, store: Store, lease: Lease) -> None:
        store.start_trial(lease, trial(0))
        store.finish_trial(lease, 0, OUT_OF_MEMORY, NOON)
        with pytest.raises(StoreError, match="trial 0 of job 'aa01' is finished already, with another result"):
            store.finish_trial(lease, 0, measured(point(0)), NOON)
        assert store.trials("aa01")[0].result == OUT_OF_MEMORY

    def test_finishing_with_the_same_result_again_changes_nothing(self, store: Store, lease: Lease) -> None:
        store.start_trial(lease, trial(0))
        for minutes in (0, 1):
            store.finish_trial(lease, 0, measured(point(0), point(1)), NOON + timedelta(minutes=minutes))
        assert store.trials("aa01")[0].finished_at == NOON
        assert store.load_points("aa01") == ((0, point(0)), (0, point(1)))

    def test_a_relaunch_counts_the_launches_and_what_the_earlier_ones_occupied(
        self, store: Store, lease: Lease
    ) -> None:
        store.start_trial(lease, trial(0))
        again = store.relaunch_trial(lease, 0, attempts=2, earlier_device_s=90.0)
        assert (again.attempts, again.earlier_device_s, again.started_at) == (2, 90.0, NOON)
        assert store.trials("aa01") == (again,)

    def test_a_relaunch_keeps_how_many_launches_have_failed(self, store: Store, lease: Lease) -> None:
        store.start_trial(lease, trial(0))
        store.relaunch_trial(lease, 0, attempts=2, earlier_device_s=90.0, failures=1)
        assert store.trials("aa01")[0].failures == 1

    def test_the_same_relaunch_again_changes_nothing(self, store: Store, lease: Lease) -> None:
        store.start_trial(lease, trial(0))
        twice = [store.relaunch_trial(lease, 0, attempts=2, earlier_device_s=90.0) for _ in range(2)]
        assert [again.attempts for again in (*twice, *store.trials("aa01"))] == [2, 2, 2]

    @pytest.mark.parametrize("attempts", [1, 3])
    def test_launches_are_counted_one_by_one(self, store: Store, lease: Lease, attempts: int) -> None:
        store.start_trial(lease, trial(0))
        with pytest.raises(StoreError, match=f"launched 1 times, so the next launch cannot be number {attempts}"):
            store.relaunch_trial(lease, 0, attempts=attempts, earlier_device_s=90.0)
        assert store.trials("aa01") == (trial(0),)

    def test_a_finished_trial_is_not_launched_again(self, store: Store, lease: Lease) -> None:
        store.start_trial(lease, trial(0))
        store.finish_trial(lease, 0, OUT_OF_MEMORY, NOON)
        with pytest.raises(StoreError, match="finished already; it is not launched again"):
            store.relaunch_trial(lease, 0, attempts=2, earlier_device_s=90.0)

    def test_a_trial_that_never_started_is_not_launched_again(self, store: Store, lease: Lease) -> None:
        with pytest.raises(NotFound, match="has no trial 7"):
            store.relaunch_trial(lease, 7, attempts=2, earlier_device_s=0.0)

    def test_a_trial_that_never_started_cannot_finish(self, store: Store, lease: Lease) -> None:
        with pytest.raises(NotFound, match="has no trial 7"):
            store.finish_trial(lease, 7, OUT_OF_MEMORY, NOON)

    def test_load_points_come_by_trial_and_as_measured(self, store: Store, lease: Lease) -> None:
        """A confirmation measures one level with several seeds."""
        for number in (0, 1):
            store.start_trial(lease, trial(number))
        store.finish_trial(lease, 1, measured(point(3, seed=9), point(3, seed=8)), NOON)
        store.finish_trial(lease, 0, measured(point(0)), NOON)
        assert store.load_points("aa01") == ((0, point(0)), (1, point(3, seed=9)), (1, point(3, seed=8)))

    def test_load_points_can_be_queried_by_sql(self, store: Store, lease: Lease, sql: sqlalchemy.Connection) -> None:
        store.start_trial(lease, trial(0))
        store.finish_trial(lease, 0, measured(point(0), point(1, p99_ttft_ms=None)), NOON)
        query = "SELECT level, load_kind, load_value, output_throughput_per_device, p99_ttft_ms, p99_e2el_ms "
        query += "FROM autotune_load_points WHERE feasible ORDER BY level"
        assert [tuple(row) for row in sql.execute(sqlalchemy.text(query))] == [
            (0, "request_rate", 4.0, 500.0, 150.0, 2000.0),
            (1, "request_rate", 4.0, 500.0, None, 2000.0),
        ]

    def test_processes_may_write_at_the_same_time(self, store: Store, lease: Lease, url: str) -> None:
        def run(number: int) -> None:
            with Store.open(url) as own:
                own.start_trial(lease, trial(number))
                own.finish_trial(lease, number, measured(point(0)), NOON)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(run, range(12)))
        assert [(kept.number, kept.finished_at) for kept in store.trials("aa01")] == [(n, NOON) for n in range(12)]


SECOND = timedelta(seconds=1)
WRITES = {
    "renew": lambda store, lease: store.renew(lease, now=NOON, worked_s=9.0),
    "set_status": lambda store, lease: store.set_status(lease, JobStatus.FAILED, "by the first"),
    "reopen": lambda store, lease: store.reopen(lease),
    "start_trial": lambda store, lease: store.start_trial(lease, trial(1)),
    "relaunch_trial": lambda store, lease: store.relaunch_trial(lease, 0, attempts=2, earlier_device_s=9.0),
    "finish_trial": lambda store, lease: store.finish_trial(lease, 0, measured(point(0)), NOON),
    "finish_job": lambda store, lease: store.finish_job(lease, JobStatus.SUCCEEDED, None, finished_at=NOON),
}


class TestLeases:
    def test_a_claim_changes_no_status(self, store: Store) -> None:
        store.create_job(job("aa01"))
        store.claim("aa01", "worker 1", now=NOON)
        assert store.job("aa01") == job("aa01")

    def test_a_claimed_job_is_taken_and_says_by_whom_and_until_when(self, store: Store, lease: Lease) -> None:
        with pytest.raises(JobTaken, match="'aa01' is run by worker 1; its lease ends at 2026-03-01 12:01:00 UTC"):
            store.claim("aa01", "worker 2", now=NOON)

    def test_an_unknown_job_cannot_be_claimed(self, store: Store) -> None:
        with pytest.raises(NotFound, match="'zz'"):
            store.claim("zz", "worker 1", now=NOON)

    def test_a_lease_lasts_for_its_time(self, store: Store, lease: Lease) -> None:
        ends = NOON + timedelta(seconds=LEASE_S)
        assert [store.owner("aa01", now=now) for now in (NOON, ends - SECOND, ends)] == ["worker 1", "worker 1", None]

    def test_a_lease_that_has_run_out_is_free_to_be_taken(self, store: Store, lease: Lease) -> None:
        ends = NOON + timedelta(seconds=LEASE_S)
        with pytest.raises(JobTaken):
            store.claim("aa01", "worker 2", now=ends - SECOND)
        assert store.claim("aa01", "worker 2", now=ends).token != lease.token
        assert store.owner("aa01", now=ends) == "worker 2"

    def test_a_renewed_lease_lasts_from_its_renewal(self, store: Store, lease: Lease) -> None:
        store.renew(lease, now=NOON + 50 * SECOND, worked_s=50.0)
        now = NOON + timedelta(seconds=50 + LEASE_S)
        assert [store.owner("aa01", now=now - SECOND), store.owner("aa01", now=now)] == ["worker 1", None]

    def test_a_lease_that_has_run_out_but_was_taken_by_nobody_still_holds(self, store: Store, lease: Lease) -> None:
        """A process that was stopped for an hour goes on if nobody else has started the job."""
        later = NOON + timedelta(hours=1)
        store.set_status(lease, JobStatus.RUNNING)
        store.renew(lease, now=later, worked_s=1.0)
        assert store.owner("aa01", now=later) == "worker 1"

    def test_a_job_is_taken_from_an_owner_that_is_gone(self, store: Store, lease: Lease) -> None:
        asked: list[str] = []
        store.claim("aa01", "worker 2", now=NOON, gone=lambda owner: not asked.append(owner))
        assert (asked, store.owner("aa01", now=NOON)) == (["worker 1"], "worker 2")

    def test_an_owner_that_lives_keeps_its_job(self, store: Store, lease: Lease) -> None:
        with pytest.raises(JobTaken):
            store.claim("aa01", "worker 2", now=NOON, gone=lambda owner: owner != "worker 1")
        store.set_status(lease, JobStatus.RUNNING)

    def test_the_same_owner_cannot_claim_twice(self, store: Store, lease: Lease) -> None:
        """Two processes may be told the same name; only the token tells them apart."""
        with pytest.raises(JobTaken):
            store.claim("aa01", "worker 1", now=NOON)

    def test_a_released_job_is_free_and_its_lease_void(self, store: Store, lease: Lease) -> None:
        for _ in range(2):
            store.release(lease)
        assert store.owner("aa01", now=NOON) is None
        with pytest.raises(LeaseLost, match="'aa01' any more: it was given back"):
            store.set_status(lease, JobStatus.RUNNING)
        store.claim("aa01", "worker 2", now=NOON)

    def test_releasing_a_lost_lease_leaves_the_new_owner_alone(self, store: Store, lease: Lease) -> None:
        store.claim("aa01", "worker 2", now=NOON + timedelta(hours=1))
        store.release(lease)
        assert store.owner("aa01", now=NOON + timedelta(hours=1)) == "worker 2"

    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
    def test_a_stolen_lease_refuses_every_write_and_leaves_no_trace(
        self, store: Store, lease: Lease, write: Callable[[Store, Lease], object]
    ) -> None:
        store.start_trial(lease, trial(0))
        later = NOON + timedelta(hours=1)
        store.claim("aa01", "worker 2", now=later)
        before = store.job("aa01"), store.trials("aa01"), store.load_points("aa01")
        with pytest.raises(LeaseLost, match="'aa01' any more: worker 2 has taken it over; nothing was written"):
            write(store, lease)
        assert (store.job("aa01"), store.trials("aa01"), store.load_points("aa01")) == before
        assert store.owner("aa01", now=later) == "worker 2"

    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
    def test_a_lease_is_for_one_job(self, store: Store, lease: Lease, write: Callable[[Store, Lease], object]) -> None:
        claimed(store, "bb02")
        with pytest.raises(LeaseLost, match="'bb02' any more"):
            write(store, Lease("bb02", lease.token))
        assert (store.job("bb02"), store.trials("bb02")) == (job("bb02"), ())

    def test_of_claimants_at_once_one_gets_the_job(self, store: Store, url: str) -> None:
        store.create_job(job("aa01"))
        together = Barrier(4)

        def try_to(number: int) -> str:
            with Store.open(url) as own:
                together.wait()
                try:
                    own.claim("aa01", f"worker {number}", now=NOON)
                except JobTaken:
                    return "taken"
                return f"worker {number}"

        with ThreadPoolExecutor(4) as pool:
            answers = sorted(pool.map(try_to, range(4)))
        assert answers == ["taken", "taken", "taken", store.owner("aa01", now=NOON)]

    def test_of_thieves_at_once_one_gets_the_job(self, store: Store, lease: Lease, url: str) -> None:
        """All see the same holder gone; the row is locked while they look."""
        together = Barrier(3)

        def try_to(number: int) -> bool:
            with Store.open(url) as own:
                together.wait()
                try:
                    own.claim("aa01", f"thief {number}", now=NOON, gone=lambda owner: owner == "worker 1")
                except JobTaken:
                    return False
                return True

        with ThreadPoolExecutor(3) as pool:
            assert sorted(pool.map(try_to, range(3))) == [False, False, True]

    def test_a_renewal_keeps_the_seconds_worked(self, store: Store, lease: Lease) -> None:
        for worked_s in (5.0, 12.5):
            store.renew(lease, now=NOON, worked_s=worked_s)
        assert store.job("aa01").worked_s == 12.5

    def test_a_renewal_brings_the_cancel_request(self, store: Store, lease: Lease) -> None:
        before = store.renew(lease, now=NOON, worked_s=0.0)
        store.request_cancel("aa01")
        assert (before, store.renew(lease, now=NOON, worked_s=0.0)) == (False, True)


class TestFinishedJobs:
    @pytest.fixture(autouse=True)
    def _trials(self, store: Store, lease: Lease) -> None:
        for number in (0, 1):
            store.start_trial(lease, trial(number))
            store.finish_trial(lease, number, measured(point(0), point(1)), NOON)

    def test_a_result_comes_back_with_its_front(self, store: Store, lease: Lease) -> None:
        ended = result(front_point(1, 0, 400.0), front_point(0, 1, 500.0))
        store.finish_job(lease, JobStatus.SUCCEEDED, ended, finished_at=NOON)
        kept = store.job("aa01")
        assert (kept.status, kept.result, kept.finished_at) == (JobStatus.SUCCEEDED, ended, NOON)

    def test_the_front_can_be_queried_by_sql(self, store: Store, lease: Lease, sql: sqlalchemy.Connection) -> None:
        ended = result(front_point(1, 0, 400.0), front_point(0, 1, 500.0))
        store.finish_job(lease, JobStatus.SUCCEEDED, ended, finished_at=NOON)
        query = "SELECT position, trial, level, output_throughput_per_device FROM autotune_front_points "
        query += "WHERE job_id = 'aa01' ORDER BY position"
        assert [tuple(row) for row in sql.execute(sqlalchemy.text(query))] == [(0, 1, 0, 400.0), (1, 0, 1, 500.0)]

    @pytest.mark.parametrize("numbers", [(), (0,), (1, 0, 1)])
    def test_a_later_result_replaces_the_front(self, store: Store, lease: Lease, numbers: tuple[int, ...]) -> None:
        earlier = result(front_point(1, 0, 400.0), front_point(0, 1, 500.0))
        store.finish_job(lease, JobStatus.CANCELLED, earlier, finished_at=NOON)
        later = result(*(front_point(number, 0, 450.0) for number in numbers))
        again = store.claim("aa01", "worker 2", now=NOON)
        store.finish_job(again, JobStatus.SUCCEEDED, later, finished_at=NOON)
        assert store.job("aa01").result == later

    def test_the_lease_ends_with_the_job(self, store: Store, lease: Lease) -> None:
        store.finish_job(lease, JobStatus.SUCCEEDED, result(), finished_at=NOON)
        assert store.owner("aa01", now=NOON) is None
        with pytest.raises(LeaseLost, match="given back"):
            store.set_status(lease, JobStatus.RUNNING)

    def test_ending_a_job_in_the_same_way_again_changes_nothing(self, store: Store, lease: Lease) -> None:
        """NUL bytes in the message included, which are stored as another character."""
        ended = result(front_point(1, 0, 400.0))
        for _ in range(2):
            store.finish_job(lease, JobStatus.FAILED, ended, finished_at=NOON, message="it said \0")
        assert store.job("aa01").result == ended

    def test_ending_an_ended_job_in_another_way_is_refused(self, store: Store, lease: Lease) -> None:
        store.finish_job(lease, JobStatus.SUCCEEDED, result(), finished_at=NOON)
        with pytest.raises(LeaseLost):
            store.finish_job(lease, JobStatus.FAILED, result(), finished_at=NOON)
        assert store.job("aa01").status == JobStatus.SUCCEEDED

    def test_a_failed_job_has_a_message_and_no_result(self, store: Store, lease: Lease) -> None:
        store.finish_job(lease, JobStatus.FAILED, None, finished_at=NOON, message="no driver")
        assert (store.job("aa01").result, store.job("aa01").message) == (None, "no driver")

    def test_a_job_ends_as_a_whole_or_not_at_all(self, store: Store, lease: Lease) -> None:
        """A front that names an unknown trial is a defect; the status must not be written without it."""
        with pytest.raises(StoreError, match="nothing was written"):
            store.finish_job(lease, JobStatus.SUCCEEDED, result(front_point(9, 0, 1.0)), finished_at=NOON)
        assert (store.job("aa01").status, store.job("aa01").result) == (JobStatus.QUEUED, None)


class TestTheSameDatabaseForOptuna:
    def test_both_keep_their_tables(self, store: Store, url: str) -> None:
        """Ours equal the models, and Optuna's are not seen as a difference."""
        storage = optuna.storages.RDBStorage(url_for_optuna(url))
        optuna.create_study(storage=storage, study_name="watched")
        with storage.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts=options())
            assert compare_metadata(context, Tables.metadata) == []
        storage.engine.dispose()
        store.create_job(job("aa01"))
        assert store.jobs() == (job("aa01"),)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
number = st.floats(allow_nan=False, allow_infinity=False)
counter = st.integers(0, 2**31 - 1)
stamp = st.datetimes(
    datetime(2000, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.builds(timezone, st.integers(-840, 840).map(lambda minutes: timedelta(minutes=minutes))),
)
value = st.recursive(st.none() | st.booleans() | st.integers() | number | text, st.lists, max_leaves=3)
document = st.dictionaries(text, value, max_size=3)
names = st.dictionaries(text, text, max_size=2)


def some(strategy: st.SearchStrategy, at_least: int = 0) -> st.SearchStrategy:
    return st.lists(strategy, min_size=at_least, max_size=3).map(tuple)


load = st.builds(Load, kind=st.sampled_from(["request_rate", "max_concurrency"]), value=number)
bound = st.none() | number
quantile = st.builds(Quantile, percent=st.sampled_from([50.0, 99.0]), value_ms=bound, lower_ms=bound, upper_ms=bound)
latencies = st.builds(Latency, count=counter, mean_ms=bound, quantiles=some(quantile))
load_point = st.builds(
    LoadPoint,
    level=counter,
    load=load,
    devices=st.integers(1, 64),
    seed=counter,
    completed=counter,
    failed=counter,
    **dict.fromkeys(("ttft", "tpot", "itl", "e2el"), latencies),
    **dict.fromkeys(("duration_s", "request_throughput", "output_throughput", "total_token_throughput"), number),
    **dict.fromkeys(("request_goodput", "client_lag_ms"), number),
    **dict.fromkeys(("violations", "engine"), st.dictionaries(text, number, max_size=3)),
)
evidence = st.builds(
    Evidence,
    failure=st.sampled_from(FailureClass),
    signature=st.none() | text,
    **dict.fromkeys(("cause", "advice", "line", "log_tail", "log_path"), text),
)
outcome = (
    st.builds(
        Measured,
        points=some(load_point, at_least=1),
        operating_level=st.none() | counter,
        effective_config=names,
        overridden=names,
    )
    | st.builds(Infeasible, evidence=evidence)
    | st.builds(Interrupted, evidence=evidence)
)
trial_result = st.builds(
    TrialResult,
    outcome=outcome,
    timings=st.builds(Timings, start_s=number),
    devices=some(text),
    node=text,
    engine_version=text,
    artifacts=names,
)
any_trial = st.builds(
    Trial,
    number=counter,
    purpose=st.sampled_from(["baseline", "search", "confirmation", "ablation"]),
    origin=name,
    knobs=document,
    config=st.builds(EngineConfig, arguments=document, environment=names, devices=st.integers(1, 64)),
    result=st.none(),
    confirms=st.none() | counter,
    attempts=st.integers(1, 5),
    failures=st.integers(0, 5),
    earlier_device_s=number,
    started_at=stamp,
    finished_at=st.none(),
)
any_job = st.builds(
    Job,
    id=st.just("job"),
    name=name,
    status=st.sampled_from(JobStatus),
    spec=document,
    space=document,
    workload=document,
    model_path=name,
    folder=name,
    message=name,
    worked_s=number,
    result=st.none(),
    created_at=stamp,
    finished_at=st.none() | stamp,
)
confirmation = st.builds(
    Confirmation,
    trial=counter,
    load=load,
    runs=some(load_point),
    holds=st.booleans(),
    output_throughput_per_device=number,
    p99_ttft_ms=bound,
)
recommendation = st.builds(
    Recommendation,
    trial=st.none() | counter,
    level=st.none() | counter,
    reason=text,
    confirmed=st.booleans(),
    versus_baseline=st.none() | st.builds(Comparison, throughput_ratio=bound, p99_ttft_ratio=bound),
    closest_trial=st.none() | counter,
)
any_front = some(
    st.builds(
        FrontPoint,
        trial=st.just(0),
        level=counter,
        load=load,
        **dict.fromkeys(("output_throughput_per_device", "p99_ttft_ms", "request_throughput"), number),
    )
)
job_result = st.builds(
    JobResult,
    stopped_by=text,
    front=st.builds(ParetoFront, points=any_front),
    recommendation=recommendation,
    confirmations=some(confirmation),
)
_ids = count()
round_trip = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class TestRoundTrips:
    """What goes in comes out equal, when it went in twice too; every example uses a job of its own in one database."""

    @round_trip
    @given(made=any_job)
    def test_of_any_job(self, store: Store, made: Job) -> None:
        made = made.model_copy(update={"id": f"job{next(_ids)}"})
        for _ in range(2):
            store.create_job(made)
        assert store.job(made.id) == made

    @round_trip
    @given(made=any_trial, brought=trial_result, ended=stamp)
    def test_of_any_trial(self, store: Store, made: Trial, brought: TrialResult, ended: datetime) -> None:
        lease = claimed(store, f"job{next(_ids)}")
        for _ in range(2):
            store.start_trial(lease, made)
        started = store.trials(lease.job_id)
        for _ in range(2):
            store.finish_trial(lease, made.number, brought, ended)
        assert started == (made,)
        assert store.trials(lease.job_id) == (made.model_copy(update={"result": brought, "finished_at": ended}),)

    @round_trip
    @given(brought=job_result)
    def test_of_any_result(self, store: Store, brought: JobResult) -> None:
        lease = claimed(store, f"job{next(_ids)}")
        store.start_trial(lease, trial(0))
        for _ in range(2):
            store.finish_job(lease, JobStatus.SUCCEEDED, brought, finished_at=NOON)
        assert store.job(lease.job_id).result == brought
