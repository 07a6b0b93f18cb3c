"""What a job may name: search spaces and workloads that ship with the product, and the operator's engine profiles."""

import functools
import shutil
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path

from autotune.errors import EnvironmentProblem
from autotune.loading import bundled
from autotune.platforms import PLATFORMS
from autotune.records import Record
from autotune.results import LoadKind
from autotune.search_space import SearchSpace, size, tunable
from autotune.service.api.common import Service
from autotune.service.auth import Viewer
from autotune.settings import DETECTED, Platform, Settings, built_in_profiles, known_profile
from autotune.spec import json_schema
from autotune.tuner.sources import bundled_space, bundled_workload
from autotune.workload import Workload, ladder_text

router = APIRouter(prefix="/v1", tags=["catalog"])

BundledName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]


class SpaceSummary(Record):
    """A bundled search space."""

    name: str
    description: str
    knobs: tuple[str, ...]  # that are searched
    configurations: int  # that the rules allow or not


class SearchSpaces(Record):
    """The bundled search spaces by name."""

    search_spaces: tuple[SpaceSummary, ...]


class WorkloadSummary(Record):
    """A bundled workload."""

    name: str
    description: str
    dataset: str  # its kind
    arrival: str  # its kind
    load_kind: LoadKind  # what the levels count
    levels: str  # in words


class Workloads(Record):
    """The bundled workloads by name."""

    workloads: tuple[WorkloadSummary, ...]


class ProfileSummary(Record):
    """An engine profile that jobs may name: nothing of what the operator gives it, neither paths nor variables."""

    name: str
    platform: Platform | None  # None: no engine was found
    resource: str | None  # NPU, GPU or CPU, as a job's `devices.resource` has to say; any: the engine is simulated
    engine: Literal["vllm", "simulated"]
    origin: Literal["settings", "detected", "built in"]
    price_per_device_hour: float | None = None  # None: the settings have none
    is_available: bool  # its executable exists on the machine of this service; workers may run elsewhere


class Profiles(Record):
    """The engine profiles."""

    profiles: tuple[ProfileSummary, ...]


@router.get("/search-spaces")
def list_search_spaces(_principal: Viewer) -> SearchSpaces:
    """The search spaces that ship with the product."""
    return _bundled_spaces()


@router.get("/search-spaces/{name}", responses={404: {}})
def show_search_space(_principal: Viewer, name: BundledName) -> SearchSpace:
    """A search space that ships with the product, as it can be submitted with changes of one's own."""
    return bundled_space(name)


@router.get("/workloads")
def list_workloads(_principal: Viewer) -> Workloads:
    """The workloads that ship with the product."""
    return _bundled_workloads()


@router.get("/workloads/{name}", responses={404: {}})
def show_workload(_principal: Viewer, name: BundledName) -> Workload:
    """A workload that ships with the product."""
    return bundled_workload(name)


@router.get("/profiles")
def list_profiles(state: Service, _principal: Viewer) -> Profiles:
    """The engine profiles that jobs may name."""
    return Profiles(profiles=tuple(_profiles(state.settings)))


@router.get("/schemas/job")
def show_job_schema(_principal: Viewer) -> dict[str, Any]:
    """The JSON Schema of the job file."""
    return json_schema()


@functools.cache  # they are part of the installation
def _bundled_spaces() -> SearchSpaces:
    return SearchSpaces(search_spaces=tuple(_space(bundled_space(name)) for name in bundled("search_spaces")))


@functools.cache
def _bundled_workloads() -> Workloads:
    return Workloads(workloads=tuple(_workload(bundled_workload(name)) for name in bundled("workloads")))


def _space(space: SearchSpace) -> SpaceSummary:
    return SpaceSummary(
        name=space.name, description=space.description, knobs=tunable(space), configurations=size(space)
    )


def _workload(workload: Workload) -> WorkloadSummary:
    return WorkloadSummary(
        name=workload.name,
        description=workload.description,
        dataset=workload.dataset.kind,
        arrival=workload.arrival.kind,
        load_kind=workload.load_kind,
        levels=ladder_text(workload),
    )


def _profiles(settings: Settings) -> Iterator[ProfileSummary]:
    for name in sorted({*settings.profiles, DETECTED, *built_in_profiles()}):
        try:
            found = known_profile(settings, name)
        except EnvironmentProblem:  # nothing was detected; the message names paths of the server
            yield ProfileSummary(
                name=name, platform=None, resource=None, engine="vllm", origin="detected", is_available=False
            )
            continue
        yield ProfileSummary(
            name=name,
            platform=found.platform,
            resource=PLATFORMS[found.platform].RESOURCE,
            engine=found.engine,
            origin=_origin(settings, name),
            price_per_device_hour=found.price_per_device_hour,
            is_available=shutil.which(found.executable.expanduser()) is not None,
        )


def _origin(settings: Settings, name: str) -> Literal["settings", "detected", "built in"]:
    if name in settings.profiles:
        return "settings"
    return "detected" if name == DETECTED else "built in"
