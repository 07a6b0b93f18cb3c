"""What every database behind the queue keeps: one class per thing, run over SQLite and PostgreSQL."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest
import sqlalchemy

from autotune.access import Role, TenantLimits, Token, WebSession, new_token, secret_hash, split_token
from autotune.engine_config import EngineConfig
from autotune.errors import Conflict, LeaseLost, LimitReached, NotFound
from autotune.results import (
    Evidence,
    FailureClass,
    Infeasible,
    Interrupted,
    Job,
    JobStatus,
    LoadPoint,
    Timings,
    Trial,
    TrialResult,
)
from autotune.store import LEASE_S, Lease, SharedStore
from autotune.submission import Cursor, JobFilter, JobProgress, Submission, WorkerSign

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ROOMY = TenantLimits()
SPEC = {
    "model": "tiny",
    "engine": "vllm",
    "workload": "chat",
    "search_space": "cpu",
    "sla": {"p99_ttft_ms": 200},
    "budget": {"trials": 7},
}


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def job(job_id: str, minutes: float = 0) -> Job:
    return Job(
        id=job_id,
        name="qwen",
        status=JobStatus.QUEUED,
        spec=SPEC,
        space={},
        workload={},
        model_path="/models/tiny",
        folder="jobs/" + job_id,
        created_at=at(minutes),
    )


def trial(number: int) -> Trial:
    return Trial(
        number=number,
        purpose="search",
        origin="gp",
        knobs={},
        config=EngineConfig(arguments={"max_num_seqs": number + 1}),
        started_at=NOON,
    )


def occupied(hours: float) -> TrialResult:
    """A failed launch that had one device for so long."""
    evidence = Evidence(failure=FailureClass.OOM, signature=None, cause="no room", advice="lower it")
    return TrialResult(outcome=Infeasible(evidence=evidence), timings=Timings(total_s=hours * 3600), devices=("npu-0",))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/autotune.db"
    return request.getfixturevalue("postgresql_url")


@pytest.fixture
def store(url: str) -> Iterator[SharedStore]:
    with SharedStore.open(url) as opened:
        yield opened


def submit(
    store: SharedStore,
    job_id: str,
    tenant: str = "red",
    *,
    minutes: float = 0,
    priority: int = 0,
    key: str | None = None,
    content: str = "",
    limits: TenantLimits = ROOMY,
) -> tuple[str, bool]:
    submission = Submission(
        tenant=tenant,
        submitted_by="ann",
        priority=priority,
        queued_at=at(minutes),
        idempotency_key=key,
        request_hash=content,
    )
    return store.submit(job(job_id, minutes), submission, limits)


def claim(
    store: SharedStore, worker: str = "worker 1", minutes: float = 0, *, gone: tuple[str, ...] = (), **limits: object
) -> tuple[str, Lease] | None:
    """The next job's id and its lease."""
    allowed = TenantLimits.model_validate(limits)
    found = store.claim_next(worker, now=at(minutes), limits=lambda _tenant: allowed, gone=lambda name: name in gone)
    return None if found is None else (found[0].job.id, found[1])


def claimed(store: SharedStore, worker: str = "worker 1", minutes: float = 0, **limits: object) -> str | None:
    found = claim(store, worker, minutes, **limits)
    return None if found is None else found[0]


def finish(store: SharedStore, lease: Lease, status: JobStatus = JobStatus.SUCCEEDED) -> None:
    store.finish_job(lease, status, None, finished_at=NOON)


@contextlib.contextmanager
def before_lock(store: SharedStore, happen: Callable[[], object]) -> Iterator[None]:
    """Something happens before this store locks its next row."""

    happened: list[object] = []

    def look(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "FOR UPDATE" in statement and not happened:
            happened.append(True)
            happen()

    sqlalchemy.event.listen(store._engine, "before_cursor_execute", look)
    yield
    assert happened


class TestSubmitting:
    def test_a_job_waits_for_a_worker(self, store: SharedStore) -> None:
        assert submit(store, "aa") == ("aa", True)
        found = store.submitted("aa", tenant="red", now=NOON)
        assert (found.job, found.submission.submitted_by, found.owner) == (job("aa"), "ann", None)

    def test_the_same_key_and_content_make_one_job(self, store: SharedStore) -> None:
        assert submit(store, "aa", key="k", content="x") == ("aa", True)
        assert submit(store, "bb", key="k", content="x") == ("aa", False)
        assert [summary.id for summary in store.page(JobFilter())[0]] == ["aa"]

    def test_the_same_key_with_other_content_is_refused(self, store: SharedStore) -> None:
        submit(store, "aa", key="k", content="x")
        with pytest.raises(Conflict, match="the idempotency key 'k' was used for another job"):
            submit(store, "bb", key="k", content="y")

    def test_keys_of_two_tenants_are_two_keys(self, store: SharedStore) -> None:
        submit(store, "aa", "red", key="k", content="x")
        assert submit(store, "bb", "blue", key="k", content="y") == ("bb", True)

    def test_a_tenant_with_too_many_waiting_jobs_is_told_his_limit(self, store: SharedStore) -> None:
        tight = TenantLimits(queued_jobs=1)
        submit(store, "aa", limits=tight)
        with pytest.raises(LimitReached, match="tenant 'red' has 1 jobs in the queue already, its limit is 1"):
            submit(store, "bb", limits=tight)
        assert submit(store, "cc", "blue", limits=tight) == ("cc", True)

    def test_of_twenty_submissions_at_once_with_one_key_there_is_one_job(self, store: SharedStore) -> None:
        together = Barrier(8)

        def one(number: int) -> str:
            together.wait(30)
            return submit(store, f"job-{number}", key="k", content="x")[0]

        with ThreadPoolExecutor(8) as pool:
            ids = set(pool.map(one, range(8)))
        assert len(ids) == 1
        assert len(store.page(JobFilter())[0]) == 1


class TestClaiming:
    def test_an_empty_queue_has_no_job(self, store: SharedStore) -> None:
        assert claim(store) is None

    def test_a_claimed_job_runs_and_is_its_workers(self, store: SharedStore) -> None:
        submit(store, "aa")
        found = store.claim_next("worker 1", now=at(1), limits=lambda _tenant: ROOMY)
        assert found is not None
        assert (found[0].job.status, found[0].owner, found[0].started_at) == (JobStatus.RUNNING, "worker 1", at(1))
        store.set_status(found[1], JobStatus.RUNNING)

    def test_a_job_of_its_own_command_is_no_workers(self, store: SharedStore) -> None:
        store.create_job(job("aa"))
        assert claim(store) is None

    def test_eight_workers_at_once_get_eight_jobs(self, store: SharedStore) -> None:
        for number in range(8):
            submit(store, f"job-{number}", f"tenant-{number % 3}")
        together = Barrier(8)

        def one(number: int) -> str | None:
            together.wait(30)
            return claimed(store, f"worker {number}", running_jobs=8)

        with ThreadPoolExecutor(8) as pool:
            ids = sorted(filter(None, pool.map(one, range(8))))
        assert ids == [f"job-{number}" for number in range(8)]

    def test_the_oldest_of_a_tenant_comes_first(self, store: SharedStore) -> None:
        submit(store, "late", minutes=2)
        submit(store, "early", minutes=1)
        assert claimed(store) == "early"

    def test_a_higher_priority_comes_before_an_older_job(self, store: SharedStore) -> None:
        submit(store, "old", minutes=1)
        submit(store, "urgent", minutes=2, priority=5)
        submit(store, "lazy", minutes=0, priority=-5)
        assert [claimed(store, f"worker {n}") for n in range(3)] == ["urgent", "old", "lazy"]

    def test_tenants_take_turns_however_many_jobs_one_has(self, store: SharedStore) -> None:
        for number in range(4):
            submit(store, f"red-{number}", "red", minutes=number)
        submit(store, "blue-0", "blue", minutes=10)
        order = []
        for minute in range(3):  # one worker: each job ends before the next begins
            found = claim(store, minutes=20 + minute)
            assert found is not None
            order.append(found[0])
            finish(store, found[1])
        assert order == ["red-0", "blue-0", "red-1"]

    def test_one_tenants_priority_does_not_push_another_tenant_back(self, store: SharedStore) -> None:
        for number in range(3):
            submit(store, f"red-{number}", "red", minutes=number, priority=100)
        submit(store, "blue-0", "blue", minutes=10)
        first, second = claimed(store, "worker 1", 20), claimed(store, "worker 2", 20.5)
        assert (first, second) == ("red-0", "blue-0")

    def test_a_tenant_has_no_more_running_jobs_than_its_limit(self, store: SharedStore) -> None:
        for number in range(2):
            submit(store, f"red-{number}", "red", minutes=number)
        submit(store, "blue-0", "blue", minutes=10)
        assert [claimed(store, f"worker {n}", running_jobs=1) for n in range(3)] == ["red-0", "blue-0", None]

    def test_a_tenant_whose_device_hours_are_used_up_waits(self, store: SharedStore) -> None:
        submit(store, "first", minutes=0)
        found = claim(store, device_hours=2)
        assert found is not None
        store.start_trial(found[1], trial(0))
        store.finish_trial(found[1], 0, occupied(hours=2), NOON)
        finish(store, found[1])
        submit(store, "second", minutes=1)
        assert store.device_s_since("red", NOON - timedelta(days=30)) == 7200
        assert claimed(store, device_hours=2) is None
        assert claimed(store, minutes=30 * 24 * 60 + 1, device_hours=2) == "second"  # a month later they are free again

    def test_a_waiting_job_that_its_own_command_has_resumed_is_passed_over(self, store: SharedStore) -> None:
        submit(store, "aa")
        store.claim("aa", "process 7", now=NOON)
        assert claim(store) is None


class TestLostWorkers:
    def test_a_silent_worker_loses_its_job_to_the_next(self, store: SharedStore) -> None:
        submit(store, "aa")
        first = claim(store, "worker 1")
        assert first is not None
        assert claim(store, "worker 2", minutes=(LEASE_S - 1) / 60) is None
        second = claim(store, "worker 2", minutes=(LEASE_S + 1) / 60)
        assert second is not None
        assert second[0] == "aa"
        with pytest.raises(LeaseLost):
            store.set_status(first[1], JobStatus.RUNNING)

    def test_a_worker_that_is_known_to_be_dead_loses_its_job_at_once(self, store: SharedStore) -> None:
        submit(store, "aa")
        claim(store, "worker 1")
        again = claim(store, "worker 2", gone=("worker 1",))
        assert again is not None
        assert again[0] == "aa"

    def test_a_lost_job_comes_before_waiting_ones_and_counts_against_no_limit(self, store: SharedStore) -> None:
        submit(store, "aa", minutes=1)
        submit(store, "bb", minutes=0, priority=9)
        found = claim(store, "worker 1", running_jobs=1)
        assert found is not None
        assert found[0] == "bb"
        again = claim(store, "worker 2", gone=("worker 1",), running_jobs=1)
        assert again is not None
        assert again[0] == "bb"

    def test_a_worker_keeps_its_job_as_long_as_it_extends_the_lease(self, store: SharedStore) -> None:
        submit(store, "aa")
        found = claim(store, "worker 1")
        assert found is not None
        store.extend(found[1], now=at(1))
        assert claim(store, "worker 2", minutes=1.5) is None

    def test_a_lost_lease_cannot_be_extended(self, store: SharedStore) -> None:
        submit(store, "aa")
        found = claim(store, "worker 1")
        assert found is not None
        claim(store, "worker 2", gone=("worker 1",))
        with pytest.raises(LeaseLost):
            store.extend(found[1], now=at(1))

    def test_a_cancel_that_nobody_obeyed_is_told_to_the_next_worker(self, store: SharedStore) -> None:
        submit(store, "aa")
        claim(store, "worker 1")
        store.cancel("aa", now=NOON)
        found = store.claim_next("worker 2", now=at(10), limits=lambda _tenant: ROOMY)
        assert found is not None
        assert found[0].cancel_requested


class TestCancelAndResume:
    def test_a_waiting_job_is_cancelled_at_once(self, store: SharedStore) -> None:
        submit(store, "aa")
        assert store.cancel("aa", now=at(1)) is JobStatus.CANCELLED
        assert claim(store) is None

    def test_a_running_job_is_asked_to_stop(self, store: SharedStore) -> None:
        submit(store, "aa")
        claim(store)
        assert store.cancel("aa", now=NOON) is JobStatus.RUNNING
        assert store.cancel_requested("aa")

    def test_an_ended_job_cannot_be_cancelled(self, store: SharedStore) -> None:
        submit(store, "aa")
        store.cancel("aa", now=NOON)
        with pytest.raises(Conflict, match="has ended already"):
            store.cancel("aa", now=NOON)

    def test_a_cancelled_job_goes_back_into_the_queue(self, store: SharedStore) -> None:
        submit(store, "aa")
        store.cancel("aa", now=NOON)
        store.requeue("aa", now=at(1), limits=lambda _: ROOMY)
        found = store.claim_next("worker 1", now=at(2), limits=lambda _tenant: ROOMY)
        assert found is not None
        assert (found[0].job.id, found[0].cancel_requested, found[0].job.finished_at) == ("aa", False, None)

    def test_a_resumed_job_counts_as_one_that_waits(self, store: SharedStore) -> None:
        submit(store, "aa")
        store.cancel("aa", now=NOON)
        submit(store, "bb")
        with pytest.raises(LimitReached, match="has 1 jobs in the queue"):
            store.requeue("aa", now=at(1), limits=lambda _: TenantLimits(queued_jobs=1))
        assert store.job("aa").status is JobStatus.CANCELLED

    def test_a_job_that_succeeded_cannot_be_resumed(self, store: SharedStore) -> None:
        submit(store, "aa")
        found = claim(store)
        assert found is not None
        finish(store, found[1])
        with pytest.raises(Conflict, match="only a failed or cancelled job can be resumed"):
            store.requeue("aa", now=NOON, limits=lambda _: ROOMY)

    def test_an_unknown_job_is_not_found(self, store: SharedStore) -> None:
        with pytest.raises(NotFound):
            store.cancel("nope", now=NOON)
        with pytest.raises(NotFound):
            store.requeue("nope", now=NOON, limits=lambda _: ROOMY)


class TestBetweenLookAndLock:
    """What PostgreSQL lets happen after a worker has chosen a job and before it has it; SQLite has one writer."""

    def test_a_job_that_is_cancelled_then_is_not_run(self, postgresql_url: str) -> None:
        with SharedStore.open(postgresql_url) as store, SharedStore.open(postgresql_url) as other:
            submit(store, "aa")
            submit(store, "bb", minutes=1)
            with before_lock(store, lambda: other.cancel("aa", now=NOON)):
                assert claimed(store) == "bb"
            assert store.job("aa").status is JobStatus.CANCELLED

    def test_a_lease_that_is_renewed_then_is_not_lost(self, postgresql_url: str) -> None:
        with SharedStore.open(postgresql_url) as store, SharedStore.open(postgresql_url) as other:
            submit(store, "aa")
            found = claim(store, "worker 1")
            assert found is not None
            with before_lock(store, lambda: other.extend(found[1], now=at(10))):
                assert claimed(store, "worker 2", minutes=10) is None

    def test_a_job_that_ends_then_is_not_opened_again(self, postgresql_url: str) -> None:
        with SharedStore.open(postgresql_url) as store, SharedStore.open(postgresql_url) as other:
            submit(store, "aa")
            found = claim(store, "worker 1")
            assert found is not None
            with before_lock(store, lambda: finish(other, found[1])):
                assert claimed(store, "worker 2", minutes=10) is None
            assert store.job("aa").status is JobStatus.SUCCEEDED


class TestLists:
    def test_pages_follow_each_other_without_gaps(self, store: SharedStore) -> None:
        for number in range(5):
            submit(store, f"job-{number}", minutes=number // 2)  # some at the same moment
        seen: list[str] = []
        after: Cursor | None = None
        more = True
        while more:
            jobs, more = store.page(JobFilter(), after=after, most=2)
            seen += [one.id for one in jobs]
            after = Cursor(created_at=jobs[-1].created_at, id=jobs[-1].id)
        assert seen == ["job-4", "job-3", "job-2", "job-1", "job-0"]

    def test_a_summary_counts_what_the_budget_counts_and_shows_the_best_of_the_search(
        self, store: SharedStore, make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint]
    ) -> None:
        """A re-run may be faster, and a trial that was cancelled was never judged."""
        submit(store, "aa")
        lease = store.claim("aa", "worker 1", now=NOON)
        stopped = Evidence(failure=FailureClass.CANCELLED, signature=None, cause="The job was stopped.", advice="")
        rows = [
            make_trial(0, {}, make_point(100.0, 500.0)),
            make_trial(1, {}, result=TrialResult(outcome=Interrupted(evidence=stopped)), finished_at=NOON),
            make_trial(2, {}, make_point(100.0, 600.0), make_point(900.0, 800.0, level=1)),
            make_trial(3, {}, make_point(100.0, 700.0), purpose="confirmation", confirms=2),
        ]
        for row in rows:
            store.start_trial(lease, row.model_copy(update={"result": None, "finished_at": None}))
            assert row.result is not None
            store.finish_trial(lease, row.number, row.result, NOON)
        (summary,) = store.page(JobFilter())[0]
        assert (summary.trials, summary.best_output_throughput_per_device) == (2, 600.0)

    def test_a_tenant_sees_its_own_only(self, store: SharedStore) -> None:
        submit(store, "aa", "red")
        submit(store, "bb", "blue")
        assert [one.id for one in store.page(JobFilter(tenant="blue"))[0]] == ["bb"]
        with pytest.raises(NotFound):
            store.submitted("aa", tenant="blue", now=NOON)

    def test_filters_by_status_name_and_part_of_an_id(self, store: SharedStore) -> None:
        submit(store, "aa-1")
        submit(store, "a%-2")
        store.cancel("aa-1", now=NOON)
        assert [one.id for one in store.page(JobFilter(status=(JobStatus.QUEUED,)))[0]] == ["a%-2"]
        assert [one.id for one in store.page(JobFilter(search="a%"))[0]] == ["a%-2"]
        assert store.page(JobFilter(name="other"))[0] == ()

    def test_a_line_tells_the_job_in_short(self, store: SharedStore) -> None:
        submit(store, "aa")
        found = claim(store)
        assert found is not None
        store.start_trial(found[1], trial(0))
        store.finish_trial(found[1], 0, occupied(1), NOON)
        line = store.summary("aa")
        assert line is not None
        assert (line.model, line.workload, line.budget_trials, line.trials) == ("tiny", "chat", 7, 1)
        assert line.sla == "error_rate <= 0.01, p99_ttft_ms <= 200"
        assert store.counts() == {("red", JobStatus.RUNNING): 1}


class TestEvents:
    def test_a_jobs_story_is_told_in_order(self, store: SharedStore) -> None:
        submit(store, "aa")
        found = claim(store)
        assert found is not None
        store.start_trial(found[1], trial(0))
        store.finish_trial(found[1], 0, occupied(1), NOON)
        store.cancel("aa", now=NOON)
        finish(store, found[1], JobStatus.CANCELLED)
        told = store.events("aa")
        assert [event.kind for event in told] == [
            "job_queued",
            "job_started",
            "trial_started",
            "trial_finished",
            "cancel_requested",
            "job_finished",
        ]
        assert [event.id for event in told] == sorted({event.id for event in told})
        assert told[3].data == {"purpose": "search", "outcome": "infeasible", "failure": "oom", "cause": "no room"}

    def test_a_reader_goes_on_after_the_last_event_it_has(self, store: SharedStore) -> None:
        submit(store, "aa")
        first = store.events("aa")
        store.cancel("aa", now=NOON)
        assert [event.kind for event in store.events("aa", after=first[-1].id)] == ["job_finished"]

    def test_what_is_told_twice_happened_once(self, store: SharedStore) -> None:
        """Every transaction may be repeated, because the answer to a commit can get lost."""
        submit(store, "aa")
        found = claim(store)
        assert found is not None
        for _ in range(2):
            store.start_trial(found[1], trial(0))
        for _ in range(2):
            store.finish_trial(found[1], 0, occupied(1), NOON)
        for _ in range(2):
            store.cancel("aa", now=NOON)
        kinds = [event.kind for event in store.events("aa")]
        assert len(kinds) == len(set(kinds)) == 5

    def test_news_are_the_newest_event_and_the_progress_of_the_jobs_asked_for(self, store: SharedStore) -> None:
        submit(store, "aa")
        submit(store, "bb", minutes=1)
        found = claim(store)
        assert found is not None
        progress = JobProgress(phase="confirmation", done=1, planned=3)
        store.report(found[1], progress)
        news = store.news(("aa", "nope"))
        assert (news["aa"].last_event, news["aa"].progress) == (store.events("aa")[-1].id, progress)
        assert "bb" not in news


class TestProgress:
    def test_it_is_what_the_runner_said_last(self, store: SharedStore) -> None:
        submit(store, "aa")
        found = claim(store)
        assert found is not None
        progress = JobProgress(phase="confirmation", done=1, planned=3, running={4: {"stage": "loading"}}, at=NOON)
        store.report(found[1], progress)
        assert store.submitted("aa", tenant=None, now=NOON).progress == progress

    def test_who_has_lost_the_job_says_nothing_of_it(self, store: SharedStore) -> None:
        submit(store, "aa")
        found = claim(store, "worker 1")
        assert found is not None
        claim(store, "worker 2", gone=("worker 1",))
        store.report(found[1], JobProgress(phase="confirmation"))
        assert store.submitted("aa", tenant=None, now=NOON).progress == JobProgress()

    def test_an_ended_job_has_none(self, store: SharedStore) -> None:
        submit(store, "aa")
        found = claim(store)
        assert found is not None
        store.report(found[1], JobProgress(phase="confirmation"))
        finish(store, found[1])
        assert store.submitted("aa", tenant=None, now=NOON).progress == JobProgress()


class TestAccess:
    def token(self, store: SharedStore) -> tuple[Token, str]:
        token, text = new_token("red", Role.SUBMITTER, "ann", now=NOON, expires_at=at(60))
        store.add_token(token)
        return token, text

    def test_a_token_is_kept_without_its_secret(self, store: SharedStore) -> None:
        token, text = self.token(store)
        parts = split_token(text)
        assert parts is not None
        kept = store.token(parts[0])
        assert kept == token
        assert kept.matches(parts[1])
        assert parts[1] not in kept.model_dump_json()

    def test_an_expired_or_revoked_token_is_not_valid(self, store: SharedStore) -> None:
        token, _ = self.token(store)
        assert token.is_valid(at(59))
        assert not token.is_valid(at(60))
        store.revoke_token(token.id, now=at(1))
        kept = store.token(token.id)
        assert kept is not None
        assert not kept.is_valid(at(2))

    def test_an_unknown_token_cannot_be_revoked(self, store: SharedStore) -> None:
        with pytest.raises(NotFound, match="no token has the id 'nope'"):
            store.revoke_token("nope", now=NOON)

    def test_its_last_use_is_known_to_the_minute(self, store: SharedStore) -> None:
        token, _ = self.token(store)
        for minutes in (0, 0.5, 1.5):
            store.used_token(token.id, now=at(minutes))
        assert [kept.last_used_at for kept in store.tokens()] == [at(1.5)]

    def test_revoking_a_token_ends_its_browser_sessions(self, store: SharedStore) -> None:
        token, _ = self.token(store)
        opened = WebSession(key_hash=secret_hash("k"), token_id=token.id, created_at=NOON, expires_at=at(60))
        store.add_session(opened)
        assert store.web_session(secret_hash("k")) == opened
        store.revoke_token(token.id, now=at(1))
        assert store.web_session(secret_hash("k")) is None

    def test_expired_sessions_are_forgotten_when_another_begins(self, store: SharedStore) -> None:
        for key, minutes in (("old", 0), ("new", 120)):
            store.add_session(
                WebSession(key_hash=key, token_id="", created_at=at(minutes), expires_at=at(minutes + 60))
            )
        assert store.web_session("old") is None
        assert store.web_session("new") is not None


class TestWorkers:
    def test_the_last_sign_of_life_counts(self, store: SharedStore) -> None:
        for minutes, running in ((0, None), (1, "aa")):
            store.sign(WorkerSign(owner="worker 1", started_at=NOON, seen_at=at(minutes), version="1", job=running))
        assert [(sign.owner, sign.seen_at, sign.job) for sign in store.workers()] == [("worker 1", at(1), "aa")]

    def test_who_leaves_or_was_silent_for_a_day_is_forgotten(self, store: SharedStore) -> None:
        store.sign(WorkerSign(owner="silent", started_at=NOON, seen_at=NOON, version="1"))
        store.sign(WorkerSign(owner="leaves", started_at=NOON, seen_at=at(24 * 60 + 1), version="1"))
        assert [sign.owner for sign in store.workers()] == ["leaves"]
        store.leave("leaves")
        assert store.workers() == ()
