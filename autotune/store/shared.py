"""The database as a shared service and its workers see it: queue, events, tokens, browser sessions, workers."""

import secrets
from collections.abc import Callable, Collection
from datetime import datetime

from autotune.access import TenantLimits, Token, WebSession
from autotune.results import Job, JobStatus, Trial
from autotune.store import access, events, listing, queue, trials
from autotune.store import lease as leases
from autotune.store.lease import Lease
from autotune.store.store import Store
from autotune.submission import (
    Cursor,
    JobEvent,
    JobFilter,
    JobProgress,
    JobSummary,
    News,
    Submission,
    SubmittedJob,
    WorkerSign,
)


class SharedStore(Store):
    """A store with a queue. `tenant` None stands for every tenant; things of another one are as if not there."""

    def submit(self, job: Job, submission: Submission, limits: TenantLimits) -> tuple[str, bool]:
        """Put a job into the queue; its id and whether it is new: an idempotency key may name an earlier one.

        Raises Conflict when that key was used for another job, LimitReached when too many of the tenant wait.
        """
        return self._write(queue.submit, job, submission, limits)

    def requeue(self, job_id: str, *, now: datetime, limits: Callable[[str], TenantLimits]) -> None:
        """Let a worker go on with a failed or cancelled job. Raises Conflict for others, NotFound, LimitReached."""
        self._write(queue.requeue, job_id, now, limits)

    def cancel(self, job_id: str, *, now: datetime) -> JobStatus:
        """Cancel a waiting job at once, ask the worker of a running one; the status after that.

        Raises Conflict when it has ended, and NotFound.
        """
        return self._write(queue.request_cancel, job_id, now)

    def claim_next(
        self,
        owner: str,
        *,
        now: datetime,
        limits: Callable[[str], TenantLimits],
        gone: Callable[[str], bool] = leases.never,
    ) -> tuple[SubmittedJob, Lease] | None:
        """The next job for a worker, with the right to write to it: see `queue.claim_next`. None: nothing to do."""
        claimant = queue.Claimant(secrets.token_hex(16), owner, now, gone, limits)
        return self._write(queue.claim_next, claimant)

    def extend(self, lease: Lease, *, now: datetime) -> None:
        """Keep the job until `LEASE_S` after `now`. Raises LeaseLost."""
        self._write(leases.extend, lease, now)

    def report(self, lease: Lease, progress: JobProgress) -> None:
        """Say what a running job does now; fine when the lease was lost."""
        self._write(queue.report, lease, progress)

    def status_of(self, job_id: str, *, tenant: str | None) -> JobStatus:
        """A job's status alone. Raises NotFound, also for a job of another tenant."""
        return self._read(queue.status_of, job_id, tenant)

    def submitted(self, job_id: str, *, tenant: str | None, now: datetime) -> SubmittedJob:
        """A job with its place in the queue. Raises NotFound."""
        return self._read(queue.detail, job_id, tenant, now)

    def page(
        self, wanted: JobFilter, *, after: Cursor | None = None, most: int = 50
    ) -> tuple[tuple[JobSummary, ...], bool]:
        """A page of the job list, newest first, and whether there are more."""
        return self._read(listing.page, wanted, after, most)

    def job_ids(self, tenant: str) -> frozenset[str]:
        """The ids of a tenant's jobs, which are the names of their studies."""
        return self._read(listing.ids, tenant)

    def summary(self, job_id: str) -> JobSummary | None:
        """One line of the job list."""
        return self._read(listing.summary, job_id)

    def counts(self, *, tenant: str | None = None) -> dict[tuple[str, JobStatus], int]:
        """How many jobs of each tenant (None: of all) are in each status."""
        return self._read(listing.counts, tenant)

    def trial_counts(self, *, tenant: str | None = None) -> dict[tuple[str, str], int]:
        """How many trials of each tenant (None: of all) came to which outcome; `running` is one of them."""
        return self._read(listing.trial_counts, tenant)

    def waiting_since(self) -> dict[str, datetime]:
        """Since when each tenant's oldest job waits for a worker."""
        return self._read(queue.waiting_since)

    def device_s_since(self, tenant: str, since: datetime) -> float:
        """Device-seconds of a tenant's trials that ended after a moment."""
        return self._read(queue.device_s_since, tenant, since)

    def trials_after(self, job_id: str, after: int, *, most: int) -> tuple[Trial, ...]:
        """At most `most` trials of a job with larger numbers than `after`, by number."""
        return self._read(trials.page, job_id, after, most)

    def trial(self, job_id: str, number: int) -> Trial | None:
        """One trial of a job."""
        return self._read(trials.one, job_id, number)

    def events(self, job_id: str, *, after: int = 0) -> tuple[JobEvent, ...]:
        """What happened to a job after the event with that id, the oldest first, at most `events.MOST_EVENTS`."""
        return self._read(events.since, job_id, after)

    def news(self, job_ids: Collection[str]) -> dict[str, News]:
        """The newest event of each of these jobs, and what it does now: one look for many who watch."""
        return self._read(events.news, job_ids)

    def add_token(self, token: Token) -> None:
        """Keep a token."""
        self._write(access.add_token, token)

    def token(self, token_id: str) -> Token | None:
        """A token by its id, valid or not."""
        return self._read(access.token, token_id)

    def has_tokens(self) -> bool:
        """Whether there is a token, valid or not."""
        return self._read(access.has_tokens)

    def tokens(self) -> tuple[Token, ...]:
        """Every token, oldest first."""
        return self._read(access.tokens)

    def revoke_token(self, token_id: str, *, now: datetime) -> None:
        """Make a token worthless, and end its browser sessions. Raises NotFound."""
        self._write(access.revoke_token, token_id, now)

    def used_token(self, token_id: str, *, now: datetime) -> None:
        """Note when a token was used last."""
        self._write(access.used_token, token_id, now)

    def add_session(self, opened: WebSession) -> None:
        """Keep a browser session."""
        self._write(access.add_session, opened)

    def web_session(self, key_hash: str) -> WebSession | None:
        """A browser session, expired or not."""
        return self._read(access.web_session, key_hash)

    def end_session(self, key_hash: str) -> None:
        """Forget a browser session."""
        self._write(access.end_session, key_hash)

    def sign(self, worker: WorkerSign) -> None:
        """Write a worker's sign of life."""
        self._write(access.sign, worker)

    def leave(self, owner: str) -> None:
        """Forget a worker that ends."""
        self._write(access.leave, owner)

    def workers(self) -> tuple[WorkerSign, ...]:
        """The workers that were seen within a day."""
        return self._read(access.workers)
