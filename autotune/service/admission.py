"""From what was submitted to a job in the queue: the same records and checks as for a job file, without its files."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from autotune.access import Principal
from autotune.errors import InputError
from autotune.records import Record
from autotune.results import Job
from autotune.search_space import SearchSpace
from autotune.search_space.catalogue import not_allowed
from autotune.service.state import State
from autotune.spec import JobSpec
from autotune.submission import IdempotencyKey, Priority, Submission
from autotune.tuner.context import admit
from autotune.tuner.sources import Sources, bundled_space, bundled_workload, mismatches
from autotune.workload import ShareGpt, Trace, Workload, with_data_file

T = TypeVar("T")

NOWHERE = Path("/nonexistent")  # where relative paths of a submitted job start from: they mean nothing here


class SubmitRequest(Record):
    """A job as it is submitted: the job file, and the space and workload it names where they are not bundled ones."""

    job: JobSpec
    search_space: SearchSpace | None = None
    workload: Workload | None = None
    priority: Priority = 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """A job that is in the queue."""

    id: str
    is_new: bool


def check(state: State, asked: SubmitRequest) -> Job:
    """The job that would be put into the queue. Raises InputError with every problem."""
    return admit(sources_of(state, asked), state.settings)


def submit(state: State, principal: Principal, asked: SubmitRequest, key: IdempotencyKey | None) -> Admitted:
    """Check a job and put it into the queue. Raises InputError with every problem, Conflict, LimitReached."""
    job = check(state, asked)
    digest = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
    submission = Submission(
        tenant=principal.tenant,
        submitted_by=principal.name,
        priority=asked.priority,
        queued_at=state.now(),
        idempotency_key=key,
        request_hash=digest,
    )
    limits = state.settings.service.limits_of(principal.tenant)
    return Admitted(*state.store.submit(job, submission, limits))


def sources_of(state: State, asked: SubmitRequest) -> Sources:
    """The job with its space and workload, both checked. Raises InputError with the problems of all three."""
    problems: list[str] = []
    space = asked.search_space or _found(lambda: bundled_space(asked.job.search_space), "job.search_space", problems)
    workload = _found(lambda: _workload(state, asked), "workload", problems)
    if workload is not None:
        problems += mismatches(asked.job, workload)
    if space is not None:
        problems += not_allowed(space, state.settings.allowed_knobs)
    if space is None or workload is None or problems:
        raise InputError(problems)
    return Sources(asked.job, space, workload, folder=NOWHERE)


def _found(find: Callable[[], T], place: str, problems: list[str]) -> T | None:
    try:
        return find()
    except InputError as exc:
        problems += [f"{place}: {problem}" for problem in exc.problems]
        return None


def _workload(state: State, asked: SubmitRequest) -> Workload:
    """The bundled workload of that name, or the one that came along; its data file has to lie where they may."""
    if asked.workload is None:
        return bundled_workload(asked.job.workload)
    dataset = asked.workload.dataset
    if not isinstance(dataset, ShareGpt | Trace):
        return asked.workload
    roots = [root.resolve() for root in state.settings.data_roots]
    place = dataset.path  # `~` would be the server's own home
    if not place.is_absolute() or "\0" in str(place) or not any(place.resolve().is_relative_to(root) for root in roots):
        allowed = ", ".join(map(str, roots)) or "no folder (the operator sets data_roots)"
        raise InputError(
            f"dataset.path: {dataset.path} is not the absolute path of a file below what this server allows: {allowed}"
        )
    return with_data_file(asked.workload, place.parent)
