"""What happens to a job, as a thread hears it: from the server's stream, or by looking again and again."""

import queue
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from autotune.client.stream import NoStream, Stream
from autotune.errors import AutotuneError
from autotune.results import ENDED, Trial
from autotune.submission import EventKind, JobEvent, SubmittedJob

POLL_S = 3.0  # between two looks, where there is no stream
JOIN_S = 5.0

Look = Callable[[], tuple[SubmittedJob, tuple[Trial, ...]]]


class Feed:
    """Events of one job; `next` waits for one. Close it, or use it in a `with`."""

    def __init__(self, stream: Stream, look: Look) -> None:
        self._stream, self._look = stream, look
        self._heard: queue.SimpleQueue[JobEvent | AutotuneError] = queue.SimpleQueue()
        self._told: set[tuple[str, int | None]] = set()  # by the stream, before looking began
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def next(self, within_s: float) -> JobEvent | None:
        """The next event; None when there is none in time. Raises what ended the listening."""
        try:
            heard = self._heard.get(timeout=within_s)
        except queue.Empty:
            return None
        if isinstance(heard, AutotuneError):
            raise heard
        return heard

    @property
    def is_listening(self) -> bool:
        """Whether its thread lives."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop listening."""
        self._stream.close()
        self._thread.join(JOIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self) -> None:
        try:
            try:
                for event in self._stream:
                    self._told.add((event.kind, event.trial))
                    self._heard.put(event)
            except NoStream:
                for event in self._seen():
                    self._heard.put(event)
        except AutotuneError as exc:
            self._heard.put(exc)

    def _seen(self) -> Iterator[JobEvent]:
        """What two looks differ in, as events without ids; what comes and goes between two looks is missed."""
        while True:
            job, trials = self._look()
            for kind, trial, data in _facts(job, trials):
                if (kind, trial) not in self._told:
                    self._told.add((kind, trial))
                    yield JobEvent(id=0, job=job.job.id, at=datetime.now(UTC), kind=kind, trial=trial, data=data)
            if job.job.status in ENDED or self._stream.wait(POLL_S):
                return


def _facts(
    submitted: SubmittedJob, trials: tuple[Trial, ...]
) -> Iterator[tuple[EventKind, int | None, dict[str, Any]]]:
    if submitted.started_at is not None:
        yield "job_started", None, {}
    if submitted.cancel_requested:
        yield "cancel_requested", None, {}
    for trial in trials:
        yield "trial_started", trial.number, {"purpose": trial.purpose, "origin": trial.origin}
        if trial.result is not None:
            yield "trial_finished", trial.number, {"purpose": trial.purpose, "outcome": trial.result.outcome.kind}
    if submitted.job.status in ENDED:
        yield "job_finished", None, {"status": submitted.job.status.value}
