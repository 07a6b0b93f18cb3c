"""Where jobs are, for commands that read them: the database of this machine, or a server."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from autotune.results import Job, Trial
from autotune.submission import JobEvent, JobFilter, JobSummary, LogPart, SubmittedJob

if TYPE_CHECKING:
    from autotune.client import Server


class Events(Protocol):
    """What happens to one job."""

    def next(self, within_s: float) -> JobEvent | None:
        """The next event; None when there is none in time."""

    def close(self) -> None:
        """Stop listening."""


class Place(Protocol):
    """What commands read. A job is found by its id, its name (the newest of it), or the start of its id."""

    @property
    def options(self) -> str:
        """What other commands need to be typed with, to mean the same place: ` --server URL`, or nothing."""

    def jobs(self, wanted: JobFilter, *, most: int) -> tuple[JobSummary, ...]:
        """Jobs, newest first."""

    def find(self, key: str) -> SubmittedJob:
        """The job that a user means. Raises NotFound, and InputError when he may mean several."""

    def job(self, job_id: str) -> SubmittedJob:
        """The job with this id. Raises NotFound."""

    def trials(self, job_id: str) -> tuple[Trial, ...]:
        """Its trials by number, those that still run included."""

    def trial(self, job_id: str, number: int) -> Trial:
        """One of them. Raises NotFound."""

    def price(self, job: Job) -> float | None:
        """What a device-hour of its engine costs; None: not known here."""

    def log(self, job_id: str, trial: Trial, offset: int) -> LogPart:
        """What the trial's engine has logged from a byte on."""

    def export(self, job: Job, select: str, form: str) -> str | None:
        """The selected configuration as text; None when nothing meets the SLA."""

    def workers(self) -> int:
        """How many workers have been heard of within a minute."""

    def follow(self, job_id: str) -> Events:
        """Everything that has happened to a job, and then what happens."""


@contextmanager
def place(server: str | None) -> Iterator[Place]:
    """The server at that address, or the local database when none was named."""
    if server:
        with connected(server) as there:
            yield there
        return
    from autotune.cli.local import LocalPlace
    from autotune.settings import load_settings
    from autotune.store import SharedStore

    settings = load_settings()
    with SharedStore.open(settings.database) as store:
        yield LocalPlace(store, settings)


@contextmanager
def connected(server: str) -> Iterator["Server"]:
    """A server with the user's token. Warns when others on the way could read that."""
    from autotune.client import Address, Server, find_token

    address, token = Address.parse(server), find_token(os.environ)
    if token is not None and address.is_exposed:
        print(
            f"warning: the token goes to {address.url} unencrypted, others on the way can read it; use https",
            file=sys.stderr,
        )
    with Server(address, token) as there:
        yield there
