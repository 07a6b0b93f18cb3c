"""Events of jobs: replay, streams that follow, and what many watchers cost."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from autotune.access import Role
from autotune.errors import StoreError
from autotune.results import JobStatus, Trial
from autotune.service.api import events
from autotune.service.hub import KEPT_EVENTS, MOST_WATCHERS, Hub
from autotune.store import Lease, SharedStore
from autotune.submission import JobEvent, JobProgress

from .conftest import LIMITS, NOW, Service, listening

POLL_S = 0.005
SILENCE_S = 30.0  # longer than any of these tests
DONE = ["job_queued", "job_started", "trial_started", "trial_finished"] + ["trial_started", "trial_finished"] * 2


@dataclass(frozen=True)
class Sent:
    """One message of a stream."""

    kind: str
    id: int | None
    data: dict[str, Any]


def messages(lines: Iterator[str]) -> Iterator[Sent]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            if "event" in fields:
                yield Sent(fields["event"], int(fields["id"]) if "id" in fields else None, json.loads(fields["data"]))
            fields = {}


def replayed(service: Service, job: str, query: str = "", **headers: str) -> list[Sent]:
    """A stream that ends by itself."""
    answer = service.client().get(f"/v1/jobs/{job}/events{query}", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    return list(messages(iter(answer.text.splitlines())))


# Replay


def test_the_history_of_an_ended_job_is_replayed_and_the_stream_ends(service: Service, finished: str):
    sent = replayed(service, finished)
    assert [message.kind for message in sent] == [*DONE, "job_finished"]
    assert [message.id for message in sent] == [event.id for event in service.store.events(finished)]
    assert JobEvent.model_validate(sent[-1].data).data == {"status": "succeeded", "stopped_by": "trials"}


def test_a_stream_begins_after_the_event_that_the_caller_has(service: Service, finished: str):
    known = service.store.events(finished)[-3]
    assert [m.kind for m in replayed(service, finished, f"?after={known.id}")] == ["trial_finished", "job_finished"]


def test_the_header_of_a_browser_that_comes_back_wins_over_the_address(service: Service, finished: str):
    last = service.store.events(finished)[-2].id
    sent = replayed(service, finished, "?after=0", **{"Last-Event-ID": str(last)})
    assert [message.kind for message in sent] == ["job_finished"]


def test_a_browser_that_has_everything_of_an_ended_job_is_told_not_to_come_back(service: Service, finished: str):
    last = service.store.events(finished)[-1].id
    answer = service.client().get(f"/v1/jobs/{finished}/events?after={last}")
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["-1", "x", "9" * 30, "1.5", "²"])
def test_an_event_id_that_is_none_is_a_problem_of_the_input(service: Service, finished: str, last: str):
    answer = service.client().get(f"/v1/jobs/{finished}/events", headers={"Last-Event-ID": last.encode()})
    assert answer.status_code == 422


def test_the_end_of_a_job_that_went_on_ends_no_stream(service: Service):
    job, client = service.queue("job-1"), service.client()
    for action in ("cancel", "resume", "cancel"):
        client.post(f"/v1/jobs/{job}/{action}")
    kinds = [message.kind for message in replayed(service, job)]
    assert kinds == ["job_queued", "job_finished", "job_queued", "job_finished"]


# The hub


class CountingStore(SharedStore):
    """Counts the reads that a hub costs, and fails while it is `away`."""

    away = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.looks, self.reads = 0, 0
        self.looked = threading.Event()

    def news(self, job_ids: Any) -> Any:
        self.looks += 1
        self.looked.set()
        if self.away:
            raise StoreError("gone")
        return super().news(job_ids)

    def events(self, job_id: str, *, after: int = 0) -> Any:
        self.reads += 1
        return super().events(job_id, after=after)


@pytest.fixture
def counting(service: Service) -> Iterator[CountingStore]:
    with CountingStore.open(service.settings.database) as store:
        yield store


async def kinds(stream: AsyncIterator[Any]) -> list[str]:
    found: list[str] = []
    async for told in stream:
        if isinstance(told, tuple):
            found += [event.kind for event in told]
    return found


async def caught_up(hub: Hub, job: str, watchers: int) -> None:
    """Until the hub has looked once with so many watchers, who have read what there was."""
    while hub.watchers < watchers or hub._feeds[job].base is None:  # noqa: ASYNC110 - nothing signals that
        await asyncio.sleep(0)


def test_sixty_watchers_cost_no_more_looks_than_one(
    service: Service, counting: CountingStore, trials: tuple[Trial, ...]
):
    lease = service.begin("job-1")

    async def scenario() -> list[list[str]]:
        hub = Hub(counting, poll_s=POLL_S)
        watching = [asyncio.create_task(kinds(hub.watch("job-1", 0, silence_s=SILENCE_S))) for _ in range(60)]
        await caught_up(hub, "job-1", 60)
        await asyncio.to_thread(lambda: [service.play(lease, trial) for trial in trials])
        await asyncio.to_thread(service.finish, lease, trials)
        return await asyncio.gather(*watching)

    told = asyncio.run(scenario())
    assert all(found == [*DONE, "job_finished"] for found in told)
    # Each watcher reads what there was, learns that this is all, and makes sure that the end is the end.
    assert counting.reads <= 60 * 3 + counting.looks


def test_a_hub_looks_only_while_somebody_watches(service: Service, counting: CountingStore):
    service.begin("job-1")

    async def scenario() -> list[tuple[int, bool]]:
        hub = Hub(counting, poll_s=POLL_S)
        stream = hub.watch("job-1", 0, silence_s=SILENCE_S)
        seen = [(hub.watchers, hub.is_looking)]
        await anext(stream)
        await asyncio.to_thread(counting.looked.wait, 10)
        seen.append((hub.watchers, hub.is_looking))
        await stream.aclose()
        return [*seen, (hub.watchers, hub.is_looking)]

    assert asyncio.run(scenario()) == [(0, False), (1, True), (0, False)]


def test_progress_is_told_when_it_changes_and_not_again(service: Service, counting: CountingStore):
    lease = service.begin("job-1")
    said = [JobProgress(phase="search", done=done, planned=4, at=NOW) for done in (1, 2)]

    async def scenario() -> list[JobProgress]:
        hub, seen = Hub(counting, poll_s=POLL_S), []
        async for told in hub.watch("job-1", 0, silence_s=SILENCE_S):
            if isinstance(told, JobProgress):
                seen.append(told)
            if len(seen) == len(said):
                return seen
            await asyncio.to_thread(service.store.report, lease, said[len(seen)])
        return seen

    assert asyncio.run(scenario()) == said


def test_silence_is_told(service: Service, counting: CountingStore):
    service.begin("job-1")

    async def scenario() -> Any:
        stream = Hub(counting, poll_s=POLL_S).watch("job-1", 0, silence_s=POLL_S)
        await anext(stream)
        told = await anext(stream)
        await stream.aclose()
        return told

    assert asyncio.run(scenario()) is None


def test_watchers_outlast_a_database_that_is_away(
    service: Service, counting: CountingStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("autotune.service.hub.TROUBLE_PAUSE_S", POLL_S)
    lease = service.begin("job-1")

    async def scenario() -> list[str]:
        hub = Hub(counting, poll_s=POLL_S)
        watching = asyncio.create_task(kinds(hub.watch("job-1", 0, silence_s=SILENCE_S)))
        await caught_up(hub, "job-1", 1)
        counting.away = True
        counting.looked.clear()
        await asyncio.to_thread(counting.looked.wait, 10)
        await asyncio.to_thread(service.store.finish_job, lease, JobStatus.FAILED, None, finished_at=NOW)
        counting.away = False
        return await watching

    assert asyncio.run(scenario()) == ["job_queued", "job_started", "job_finished"]


def test_a_watcher_that_falls_behind_what_is_kept_misses_nothing(service: Service, counting: CountingStore):
    """One watcher does not take what it is given while more happens than the hub keeps."""
    job = service.queue("job-1")

    def happen() -> None:
        for _ in range(KEPT_EVENTS // 2 + 10):
            service.store.cancel(job, now=NOW)
            service.store.requeue(job, now=NOW, limits=lambda _: LIMITS)
        service.store.cancel(job, now=NOW)

    async def scenario() -> list[int]:
        hub = Hub(counting, poll_s=POLL_S)
        slow, quick = (hub.watch(job, 0, silence_s=SILENCE_S) for _ in range(2))
        seen = [event.id for event in await anext(slow)]
        other = asyncio.create_task(kinds(quick))
        await caught_up(hub, job, 2)
        await asyncio.to_thread(happen)
        await other
        async for told in slow:
            seen += [event.id for event in told] if isinstance(told, tuple) else []
        return seen

    assert asyncio.run(scenario()) == [event.id for event in service.store.events(job)]


def test_a_hub_that_is_closed_ends_its_streams(service: Service, counting: CountingStore):
    service.begin("job-1")

    async def scenario() -> list[str]:
        hub = Hub(counting, poll_s=POLL_S)
        watching = asyncio.create_task(kinds(hub.watch("job-1", 0, silence_s=SILENCE_S)))
        await caught_up(hub, "job-1", 1)
        hub.close()
        return await watching

    assert asyncio.run(scenario()) == ["job_queued", "job_started"]


def test_more_watchers_than_a_process_serves_are_refused(service: Service, monkeypatch: pytest.MonkeyPatch):
    assert MOST_WATCHERS >= 50
    monkeypatch.setattr("autotune.service.hub.MOST_WATCHERS", 0)
    service.begin("job-1")
    assert service.client().get("/v1/jobs/job-1/events").status_code == 429


# On a socket


def test_a_stream_follows_a_running_job_and_a_broken_one_goes_on_where_it_was(
    service: Service, trials: tuple[Trial, ...], serve: Callable[..., Service]
):
    lease = service.begin("job-1")
    with listening(service) as address, httpx.Client(base_url=address, timeout=30) as client:
        with client.stream("GET", "/v1/jobs/job-1/events") as stream:
            told = messages(stream.iter_lines())
            first = [next(told) for _ in range(2)]
            service.play(lease, trials[0])
            first += [next(told) for _ in range(2)]
        assert [message.kind for message in first] == DONE[:4]
        service.finish(lease, trials[:1])
        asked = {"Last-Event-ID": str(first[-1].id)}
        with client.stream("GET", "/v1/jobs/job-1/events", headers=asked) as stream:
            rest = list(messages(stream.iter_lines()))
    assert [message.kind for message in rest] == ["job_finished"]


def test_the_stream_of_a_busy_job_ends_with_the_token(service: Service, monkeypatch: pytest.MonkeyPatch):
    """Each time it is looked at here, not every 15 s."""
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.1)
    lease = service.begin("job-1", tenant="red")
    token = service.token("red", Role.VIEWER)
    with listening(service) as address, httpx.Client(base_url=address, timeout=30) as client:
        headers = {"Authorization": f"Bearer {token}"}
        with client.stream("GET", "/v1/jobs/job-1/events", headers=headers) as stream:
            told = messages(stream.iter_lines())
            next(told)
            service.store.revoke_token(token.split("_")[1], now=NOW)
            over = threading.Event()
            busy = threading.Thread(target=keep_reporting, args=(service, lease, over))
            busy.start()
            try:
                rest = list(told)
            finally:
                over.set()
                busy.join()
    assert "job_finished" not in [message.kind for message in rest]
    assert service.store.job("job-1").status is JobStatus.RUNNING


def keep_reporting(service: Service, lease: Lease, over: threading.Event) -> None:
    for done in range(1000):
        service.store.report(lease, JobProgress(phase="search", done=done, planned=1000, running={}, at=NOW))
        if over.wait(0.02):
            return
