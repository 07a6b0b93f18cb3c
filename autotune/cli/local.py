"""Jobs in the database of this machine, as commands read them."""

import time
from datetime import timedelta
from pathlib import Path

from autotune.choice import price_of, source_of, trial_of
from autotune.export import export
from autotune.results import Job, JobStatus, Trial
from autotune.settings import Settings
from autotune.store import SharedStore
from autotune.submission import Cursor, JobEvent, JobFilter, JobSummary, LogPart, SubmittedJob
from autotune.trial import trial_folder
from autotune.trial.artifacts import ENGINE_LOG
from autotune.tuner.owner import runner, utc_now

POLL_S = 0.5  # between two looks for events
WORKER_SILENCE = timedelta(seconds=60)  # after which a worker counts as gone
_PAGE = 200
_MOST_BYTES = 1 << 20  # of one piece of a log


class LocalPlace:
    """The local database; `autotune.cli.place.Place`."""

    options = ""

    def __init__(self, store: SharedStore, settings: Settings) -> None:
        self._store, self._settings = store, settings

    def jobs(self, wanted: JobFilter, *, most: int) -> tuple[JobSummary, ...]:
        """Jobs, newest first; of one whose runner is gone the message says so."""
        found: list[JobSummary] = []
        after: Cursor | None = None
        while len(found) < most:
            page, more = self._store.page(wanted, after=after, most=min(_PAGE, most - len(found)))
            found += page
            if not more:
                break
            after = Cursor(created_at=page[-1].created_at, id=page[-1].id)
        return tuple(self._with_runner(job) for job in found)

    def find(self, key: str) -> SubmittedJob:
        """The job that a user means. Raises NotFound, and InputError when he may mean several."""
        return self.job(self._store.job(key).id)

    def job(self, job_id: str) -> SubmittedJob:
        """The job with this id. Raises NotFound."""
        found = self._store.submitted(job_id, tenant=None, now=utc_now())
        if found.owner is not None and runner(self._store, job_id) is None:  # its process is gone, its lease not yet
            return found.model_copy(update={"owner": None})
        return found

    def trials(self, job_id: str) -> tuple[Trial, ...]:
        """Its trials by number, those that still run included."""
        return self._store.trials(job_id)

    def trial(self, job_id: str, number: int) -> Trial:
        """One of them. Raises NotFound."""
        found = self._store.trial(job_id, number)
        if found is None:
            return trial_of(self._store.job(job_id), self._store.trials(job_id), number)
        return found

    def price(self, job: Job) -> float | None:
        """What a device-hour of its engine costs, by the settings."""
        return price_of(job, self._settings)

    def log(self, job_id: str, trial: Trial, offset: int) -> LogPart:
        """What the engine of the trial's last launch has logged from a byte on."""
        path = trial_folder(Path(self._store.job(job_id).folder), trial.number, attempt=trial.attempts) / ENGINE_LOG
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                start = offset if offset <= size else 0  # the log was begun anew
                file.seek(start)
                content = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return LogPart(content=b"", next_offset=0)
        return LogPart(content=content, next_offset=start + len(content))

    def export(self, job: Job, select: str, form: str) -> str | None:
        """The selected configuration as text; None when nothing meets the SLA."""
        source = source_of(job, self._store.trials(job.id), select, self.price(job))
        return None if source is None else export(source, form)

    def workers(self) -> int:
        """How many workers have been heard of within a minute."""
        now = utc_now()
        return sum(now - sign.seen_at < WORKER_SILENCE for sign in self._store.workers())

    def follow(self, job_id: str) -> "LocalEvents":
        """Everything that has happened to a job, and then what happens."""
        return LocalEvents(self._store, job_id)

    def _with_runner(self, job: JobSummary) -> JobSummary:
        if job.status is not JobStatus.RUNNING or runner(self._store, job.id) is not None:
            return job
        return job.model_copy(update={"message": f"nobody runs it any more; go on with: autotune resume {job.id}"})


class LocalEvents:
    """A job's events, by looking into the database again and again."""

    def __init__(self, store: SharedStore, job_id: str) -> None:
        self._store, self._job_id = store, job_id
        self._known: list[JobEvent] = []
        self._last = 0

    def next(self, within_s: float) -> JobEvent | None:
        """The next event; None when there is none in time."""
        deadline = time.monotonic() + within_s
        while not self._known:
            self._known = list(self._store.events(self._job_id, after=self._last))
            if self._known:
                break
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            time.sleep(min(POLL_S, left_s))
        event = self._known.pop(0)
        self._last = event.id
        return event

    def close(self) -> None:
        """Nothing is open."""
