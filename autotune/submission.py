"""Jobs as a queue sees them: whose they are, in which order they come, and what is told of them while they run."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, NonNegativeInt

from autotune.access import LOCAL_TENANT, TenantName
from autotune.records import Record
from autotune.results import Job, JobStatus

Priority = Annotated[int, Field(ge=-100, le=100, description="Jobs of a higher one are claimed first.")]
IdempotencyKey = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]

EventKind = Literal[
    "job_queued",
    "job_started",
    "job_resumed",
    "cancel_requested",
    "trial_started",
    "trial_relaunched",
    "trial_finished",
    "job_finished",
]


class Submission(Record):
    """Where a job comes from, and where it stands in the queue.

    Tenants take turns; `priority` orders the jobs of one tenant.
    """

    tenant: TenantName = LOCAL_TENANT
    submitted_by: str = ""  # the token's name
    priority: Priority = 0
    queued_at: datetime | None = None  # None: it is run by its own command and no worker may take it
    idempotency_key: IdempotencyKey | None = None
    request_hash: str = ""  # of what was submitted: the same key with another job is refused


class JobProgress(Record):
    """What a running job does now, as its worker last said."""

    phase: str = ""
    done: NonNegativeInt = 0  # launches finished in this phase
    planned: NonNegativeInt = 0  # launches planned in this phase
    running: Mapping[int, Mapping[str, Any]] = {}  # trial number -> its stage, and how far that is
    at: datetime | None = None  # when it was said


class JobSummary(Record):
    """A line of the job list: what is known without reading the job's documents."""

    id: str
    name: str
    tenant: str
    status: JobStatus
    message: str
    priority: int
    submitted_by: str
    cancel_requested: bool
    model: str
    engine: str
    workload: str
    search_space: str
    sla: str
    created_at: datetime
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    trials: int = 0  # searched ones that have ended, the baseline included, cancelled ones not
    budget_trials: int = 0
    best_output_throughput_per_device: float | None = None  # of the search, where the SLA is met
    front_size: int = 0


class SubmittedJob(Record):
    """A job with its place in the queue and what it does now."""

    job: Job
    submission: Submission
    progress: JobProgress
    cancel_requested: bool
    started_at: datetime | None = None  # when a worker last took it from the queue
    owner: str | None = None  # who runs it, with a lease that has not run out


class JobFilter(Record):
    """Which jobs a list shows."""

    tenant: str | None = None  # None: every tenant's
    status: tuple[JobStatus, ...] = ()  # empty: any
    name: str | None = None
    search: str | None = None  # in the id or name


class Cursor(Record):
    """The last line of a page: the next page begins after it. Newest first, then by id."""

    created_at: AwareDatetime
    id: str


class JobEvent(Record):
    """Something that happened to a job; ids grow within a job in the order of their commits."""

    id: int
    job: str
    at: datetime
    kind: EventKind
    trial: int | None = None
    data: Mapping[str, Any] = {}


class News(Record):
    """How far a job is, for whoever watches it."""

    last_event: int  # the newest event's id; 0: none yet
    progress: JobProgress


class WorkerSign(Record):
    """A sign of life of a worker."""

    owner: str
    started_at: datetime
    seen_at: datetime
    version: str
    job: str | None = None  # what it runs


class LogPart(Record):
    """A piece of a trial's log, and where the next one begins."""

    content: bytes  # UTF-8; a piece may end within a character
    next_offset: NonNegativeInt  # smaller than the one asked for: the log was begun anew
