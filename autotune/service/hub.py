"""News of running jobs for everybody who watches them, at the price of one look at the database for all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi.concurrency import run_in_threadpool

from autotune.errors import LimitReached, StoreError
from autotune.store import SharedStore
from autotune.submission import JobEvent, JobProgress
from autotune.telemetry import get_logger

log = get_logger()

POLL_S = 0.5  # between two looks
TROUBLE_PAUSE_S = 5.0  # after the database could not be read
MOST_WATCHERS = 1000  # of one process
KEPT_EVENTS = 200  # of a job, for whoever is a little behind


class Feed:
    """What is new of one job: the events after `base`, its progress, and a signal that is set once it grows."""

    def __init__(self) -> None:
        self.watchers = 0
        self.base: int | None = None  # every event with a larger id is in `recent`; None: nobody has read any yet
        self.recent: list[JobEvent] = []
        self.progress = JobProgress()
        self.grown = asyncio.Event()

    @property
    def last(self) -> int | None:
        """The newest event that is known."""
        return self.recent[-1].id if self.recent else self.base

    def after(self, position: int) -> list[JobEvent] | None:
        """The known events after a position; None when the feed does not reach back so far."""
        if self.base is None or position < self.base:
            return None
        return [event for event in self.recent if event.id > position]

    def grow(self, events: tuple[JobEvent, ...], progress: JobProgress) -> None:
        """Take what is new, and wake the watchers."""
        if not events and progress == self.progress:
            return
        self.recent += events
        self.progress = progress
        if len(self.recent) > KEPT_EVENTS:
            self.base = self.recent[-KEPT_EVENTS - 1].id
            self.recent = self.recent[-KEPT_EVENTS:]
        self.grown.set()
        self.grown = asyncio.Event()


class Hub:
    """Looks for news while somebody watches. Used on the event loop only; the database is read in threads."""

    def __init__(self, store: SharedStore, poll_s: float = POLL_S) -> None:
        self._store, self._poll_s = store, poll_s
        self._feeds: dict[str, Feed] = {}
        self._looking: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    @property
    def watchers(self) -> int:
        """How many there are."""
        return sum(feed.watchers for feed in self._feeds.values())

    @property
    def is_looking(self) -> bool:
        """Whether it reads the database now and then."""
        return self._looking is not None

    def check_room(self) -> None:
        """Raise LimitReached when no more watchers are served."""
        if self.watchers >= MOST_WATCHERS:
            raise LimitReached(f"{MOST_WATCHERS} streams of events are open, no more are served; try again later")

    def close(self) -> None:
        """End every stream: the process is about to leave."""
        self._closed.set()
        for feed in self._feeds.values():
            feed.grown.set()

    async def watch(
        self, job_id: str, after: int, *, silence_s: float
    ) -> AsyncIterator[tuple[JobEvent, ...] | JobProgress | None]:
        """Events after an id as they come, the progress when it changes, None after every silence; to the job's end.

        A job that goes on after its end has more events: only an end that is the newest event ends the stream.
        """
        feed, position, progress = self._join(job_id), after, JobProgress()
        try:
            while not self._closed.is_set():
                grown = feed.grown
                events = await self._events(feed, job_id, position)
                if events:
                    yield events
                    position = events[-1].id
                    if events[-1].kind == "job_finished" and not await self._events(feed, job_id, position, sure=True):
                        return
                elif feed.progress != progress:
                    progress = feed.progress
                    yield progress
                elif not await _happens(grown, silence_s):
                    yield None
        finally:
            self._leave(job_id, feed)

    async def _events(self, feed: Feed, job_id: str, position: int, *, sure: bool = False) -> tuple[JobEvent, ...]:
        known = None if sure else feed.after(position)
        if known is not None:
            return tuple(known)
        events = await run_in_threadpool(self._store.events, job_id, after=position)
        if not events and feed.base is None:
            feed.base = position
        return events

    def _join(self, job_id: str) -> Feed:
        feed = self._feeds.setdefault(job_id, Feed())
        feed.watchers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return feed

    def _leave(self, job_id: str, feed: Feed) -> None:
        feed.watchers -= 1
        if not feed.watchers:
            self._feeds.pop(job_id, None)
        if not self._feeds and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self._read_news()
            except StoreError as exc:  # the watchers wait, and go on where they were
                log.warning("events_unreadable", problem=str(exc))
                await asyncio.sleep(TROUBLE_PAUSE_S)

    async def _read_news(self) -> None:
        news = await run_in_threadpool(self._store.news, tuple(self._feeds))
        for job_id, told in news.items():
            feed = self._feeds.get(job_id)
            if feed is None or feed.last is None:
                continue
            events: tuple[JobEvent, ...] = ()
            if told.last_event > feed.last:
                events = await run_in_threadpool(self._store.events, job_id, after=feed.last)
            feed.grow(events, told.progress)


async def _happens(signal: asyncio.Event, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(signal.wait(), within_s)
    return signal.is_set()
