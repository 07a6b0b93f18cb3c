"""A job's files, read and checked as far as files go."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from autotune.errors import InputError
from autotune.instruments import problems as instrument_problems
from autotune.loading import Kind, bundled_file, find, load
from autotune.measurement import fewest_samples
from autotune.records import Record
from autotune.search_space import SearchSpace
from autotune.spec import JobSpec, Sla
from autotune.workload import Workload, with_data_file
from autotune.workload.plan import CLOSED_LOOP_TURNS

T = TypeVar("T", bound=Record)


@dataclass(frozen=True, slots=True)
class Sources:
    """What the job's files say, and the folder that relative paths start from."""

    spec: JobSpec
    space: SearchSpace
    workload: Workload
    folder: Path


def load_job(path: Path, overrides: Sequence[str] = ()) -> Sources:
    """Read a job file and the space and workload that it names. Raises InputError with every problem found."""
    if not path.is_file():
        raise InputError(f"{path}: no such job file")
    spec = load(_text(path), JobSpec, source=str(path), overrides=overrides)
    folder = path.resolve().parent
    problems: list[str] = []
    space = _load_named(spec.search_space, "search_spaces", SearchSpace, folder, problems)
    workload = _load_workload(spec.workload, folder, problems)
    if workload is not None:
        problems += mismatches(spec, workload)
    if space is None or workload is None or problems:
        raise InputError(problems)
    return Sources(spec, space, workload, folder)


def mismatches(spec: JobSpec, workload: Workload) -> list[str]:
    """What a job asks for that its workload cannot give."""
    return [
        *instrument_problems(spec.instrument, workload, spec.sla),
        *_too_few_requests(workload, spec.sla),
    ]


@cache
def bundled_space(name: str) -> SearchSpace:
    """A search space that ships with the product. Raises NotFound."""
    return load(_text(bundled_file(name, "search_spaces")), SearchSpace, source=name)


@cache
def bundled_workload(name: str) -> Workload:
    """A workload that ships with the product, with its data file. Raises NotFound."""
    place = bundled_file(name, "workloads")
    return with_data_file(load(_text(place), Workload, source=name), place.resolve().parent)


def _load_named(reference: str, kind: Kind, model: type[T], folder: Path, problems: list[str]) -> T | None:
    try:
        place = find(reference, kind, relative_to=folder)
    except InputError as exc:
        problems += [f"{kind.removesuffix('s')}: {problem}" for problem in exc.problems]
        return None
    try:
        return load(_text(place), model, source=str(place))
    except InputError as exc:
        problems += exc.problems
        return None


def _load_workload(reference: str, folder: Path, problems: list[str]) -> Workload | None:
    """The workload, with the place and the digest of its data file."""
    workload = _load_named(reference, "workloads", Workload, folder, problems)
    if workload is None:
        return None
    place = find(reference, "workloads", relative_to=folder)
    try:
        return with_data_file(workload, place.resolve().parent)
    except InputError as exc:
        problems += [f"{place}: {problem}" for problem in exc.problems]
        return None


def load_workload(reference: str, folder: Path) -> Workload:
    """A bundled workload or a file's, by its name. Raises InputError with every problem found."""
    problems: list[str] = []
    workload = _load_workload(reference, folder, problems)
    if workload is None:
        raise InputError(problems)
    return workload


def check_confidence(workload: Workload, sla: Sla) -> None:
    """Raise InputError when a level has too few requests for the bounds that the SLA's confidence asks for."""
    if problems := _too_few_requests(workload, sla):
        raise InputError(problems)


def _too_few_requests(workload: Workload, sla: Sla) -> list[str]:
    """SLA lines whose upper bound does not exist for so few requests: no configuration could ever meet them.

    A line per gap (ITL) has many samples per request.
    """
    if sla.confidence is None:
        return []
    requests = _fewest_requests(workload)
    return [
        f"sla.{line.name} with {sla.confidence:.4g} confidence needs at least {needed} requests per level, workload "
        f"{workload.name!r} sends {requests:g} at its lowest one; raise requests_per_level, or leave sla.confidence out"
        for line in sla.latency_limits
        if line.metric != "itl" and requests < (needed := fewest_samples(line.percent, sla.confidence))
    ]


def _fewest_requests(workload: Workload) -> float:
    """Requests of the lowest level on one device: no level has fewer."""
    lowest = workload.levels[0] if isinstance(workload.levels, tuple) else workload.levels.start
    match workload.load_kind:
        case "max_concurrency":
            return max(workload.requests_per_level, CLOSED_LOOP_TURNS * lowest)
        case "request_rate":
            return max(workload.requests_per_level, math.ceil(workload.min_level_duration_s * lowest))
        case "replay_speed":  # how many more a duration takes stands in the trace: in a quiet stretch none
            return workload.requests_per_level


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {exc}") from exc
