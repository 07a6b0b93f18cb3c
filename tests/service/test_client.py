"""The client over the real application on a socket: our records come back, and our errors."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from autotune.access import Role
from autotune.client import Address, Server
from autotune.errors import Conflict, InputError, LimitReached, NotAllowed, NotFound
from autotune.results import JobStatus, Trial
from autotune.settings import EngineProfile, ServiceSettings
from autotune.submission import JobFilter

from .conftest import DEMO, Service, listening

ANYTHING = JobFilter()


@contextlib.contextmanager
def connected(service: Service, token: str | None = None) -> Iterator[Server]:
    secret = None if token is None else SecretStr(token)
    with listening(service) as address, Server(Address.parse(address), secret) as there:
        yield there


@pytest.fixture
def there(service: Service) -> Iterator[Server]:
    with connected(service) as server:
        yield server


# Submitting


def test_a_submitted_job_waits_with_its_priority(there: Server, service: Service):
    job_id = there.submit({"job": DEMO, "priority": 7}, "key-1")
    found = there.job(job_id)
    assert (found.job.name, found.job.status, found.submission.priority) == ("demo", JobStatus.QUEUED, 7)
    assert found == service.store.submitted(job_id, tenant=None, now=service.now)


def test_a_key_makes_one_job_and_refuses_another(there: Server):
    first = there.submit({"job": DEMO}, "key-1")
    assert there.submit({"job": DEMO}, "key-1") == first
    with pytest.raises(Conflict, match="key-1"):
        there.submit({"job": DEMO | {"seed": 5}}, "key-1")


def test_every_problem_of_a_job_is_told_with_its_place(there: Server):
    wrong = DEMO | {"sla": {"p99_ttft_ms": -1}, "budget": {"trials": 0}}
    with pytest.raises(InputError) as refused:
        there.submit({"job": wrong}, "key-1")
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [
        "job.sla.p99_ttft_ms",
        "job.budget.trials",
    ]


def test_a_full_queue_is_told_and_not_waited_for(service: Service):
    limited = service.settings.model_copy(
        update={"service": ServiceSettings.model_validate({"limits": {"queued_jobs": 1}})}
    )
    with connected(Service(service.home, service.store, limited, service.clients)) as there:
        there.submit({"job": DEMO}, "key-1")
        with pytest.raises(LimitReached, match="its limit is 1"):
            there.submit({"job": DEMO}, "key-2")


# Finding


def test_a_job_is_found_by_its_id_its_name_and_the_start_of_its_id(there: Server, service: Service):
    service.queue("alpha-1111")
    service.later(minutes=1)
    newest = service.queue("beta-2222")
    assert [there.find(key).job.id for key in ("alpha-1111", "alp", "tiny")] == ["alpha-1111", "alpha-1111", newest]


def test_what_may_mean_several_jobs_or_none_is_told(there: Server, service: Service):
    service.queue("alpha-1111")
    service.queue("alpha-2222")
    with pytest.raises(InputError, match=r"alpha-2222, alpha-1111"):
        there.find("alpha")
    with pytest.raises(NotFound, match="no job 'gamma'"):
        there.find("gamma")


def test_a_list_goes_over_as_many_pages_as_it_takes(there: Server, service: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("autotune.client.server.PAGE", 2)
    for number in range(5):
        service.later(minutes=1)
        service.queue(f"job-{number}")
    assert [job.id for job in there.jobs(ANYTHING, most=4)] == ["job-4", "job-3", "job-2", "job-1"]
    assert len(there.jobs(ANYTHING, most=100)) == 5
    assert there.jobs(JobFilter(status=(JobStatus.FAILED,)), most=100) == ()


# Reading


def test_trials_come_back_as_they_are_stored(there: Server, service: Service, finished: str):
    stored = service.store.trials(finished)
    assert there.trials(finished) == stored
    assert there.trial(finished, 1) == stored[1]
    with pytest.raises(NotFound, match="no trial 9"):
        there.trial(finished, 9)


def test_an_export_is_the_servers_text_and_none_where_nothing_meets_the_sla(
    there: Server, service: Service, finished: str, trials: tuple[Trial, ...]
):
    text = there.export(there.job(finished).job, "max-throughput", "command")
    assert text is not None
    assert "--max-num-seqs 8" in text
    lease = service.begin("hopeless-1")
    service.play(lease, trials[2].model_copy(update={"number": 0}))
    service.finish(lease, [trials[2]])
    assert there.export(there.job("hopeless-1").job, "recommended", "vllm") is None


def test_a_log_is_read_from_an_offset_on_and_is_empty_before_there_is_one(
    there: Server, service: Service, finished: str
):
    job, trial = there.job(finished).job, there.trial(finished, 0)
    assert there.log(finished, trial, 0).content == b""
    folder = Path(job.folder) / "trial-0000"
    folder.mkdir(parents=True)
    (folder / "engine.log").write_text("first\nsecond\n")
    begun = there.log(finished, trial, 0)
    assert (begun.content, begun.next_offset) == (b"first\nsecond\n", 13)
    assert there.log(finished, trial, 6).content == b"second\n"


def test_the_price_of_a_device_hour_is_that_of_the_jobs_engine(serve: Callable[..., Service]):
    priced = {"costly": EngineProfile(platform="cpu", executable=Path("/opt/vllm"), price_per_device_hour=2.5)}
    service = serve(profiles=priced)
    service.queue("job-1")
    with connected(service) as there:
        job = there.job("job-1").job
        assert there.price(job) is None
        assert there.price(job.model_copy(update={"spec": {**job.spec, "engine": "costly"}})) == 2.5


def test_the_workers_of_the_last_minute_are_counted(there: Server):
    assert there.workers() == 0


# Changing


def test_a_waiting_job_is_cancelled_and_goes_back_into_the_queue(there: Server, service: Service):
    job_id = service.queue("job-1")
    there.cancel(job_id)
    assert there.job(job_id).job.status is JobStatus.CANCELLED
    there.resume(job_id)
    assert there.job(job_id).job.status is JobStatus.QUEUED


def test_a_job_that_has_succeeded_is_neither_cancelled_nor_resumed(there: Server, finished: str):
    for change in (there.cancel, there.resume):
        with pytest.raises(Conflict, match="succeeded"):
            change(finished)


# Who may


def test_without_a_token_where_one_is_needed_nothing_is_read(service: Service):
    service.token("red")
    with connected(service) as there, pytest.raises(NotAllowed, match="AUTOTUNE_TOKEN"):
        there.jobs(ANYTHING, most=1)


def test_a_viewer_reads_and_does_not_submit(service: Service):
    service.queue("job-1", tenant="red")
    with connected(service, service.token("red", Role.VIEWER)) as there:
        assert [job.id for job in there.jobs(ANYTHING, most=9)] == ["job-1"]
        with pytest.raises(NotAllowed, match="needs the role submitter"):
            there.submit({"job": DEMO}, "key-1")


def test_a_job_of_another_tenant_is_as_if_not_there(service: Service):
    service.queue("job-1", tenant="red")
    with connected(service, service.token("blue")) as there, pytest.raises(NotFound):
        there.find("job-1")


# Following


def test_a_job_is_followed_from_its_first_event_to_its_end(there: Server, service: Service, trials: tuple[Trial, ...]):
    lease = service.begin("job-1")
    feed = there.follow("job-1")
    with contextlib.closing(feed):
        heard = [feed.next(20) for _ in range(2)]
        service.play(lease, trials[0])
        heard += [feed.next(20) for _ in range(2)]
        service.finish(lease, trials[:1])
        heard.append(feed.next(20))
    assert tuple(heard) == service.store.events("job-1")
    assert [event.kind for event in heard if event is not None] == [
        "job_queued",
        "job_started",
        "trial_started",
        "trial_finished",
        "job_finished",
    ]


def test_a_feed_that_is_closed_while_it_waits_leaves_no_thread(there: Server, service: Service):
    service.begin("job-1")
    before = threading.active_count()
    feed = there.follow("job-1")
    assert feed.next(20) is not None
    feed.close()
    assert not feed.is_listening
    assert threading.active_count() <= before + 1  # the service's own pool may have grown


def test_where_no_stream_is_to_be_had_the_job_is_looked_at_again_and_again(
    there: Server, service: Service, trials: tuple[Trial, ...], monkeypatch: pytest.MonkeyPatch
):
    """The stream is looked for at an address that the server does not have."""
    monkeypatch.setattr("autotune.client.stream.PATH", "/no-events")
    monkeypatch.setattr("autotune.client.feed.POLL_S", 0.01)
    lease = service.begin("job-1")
    service.play(lease, trials[0])
    with there.follow("job-1") as feed:
        heard = [feed.next(20) for _ in range(3)]
        service.finish(lease, trials[:1])
        heard.append(feed.next(20))
    assert [(event.kind, event.trial) for event in heard if event is not None] == [
        ("job_started", None),
        ("trial_started", 0),
        ("trial_finished", 0),
        ("job_finished", None),
    ]
