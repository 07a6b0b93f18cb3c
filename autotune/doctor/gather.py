"""Gathers all facts: runs the tools, reads the files, asks the engine's interpreter, looks at the database."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from autotune.doctor.facts import (
    DatabaseFacts,
    DeviceFacts,
    DiskFacts,
    EngineFacts,
    Facts,
    JobFacts,
    RayFacts,
)
from autotune.doctor.host import gather_host, missing_libraries
from autotune.engines import preload
from autotune.engines.examine import EngineInfo, probe
from autotune.engines.simulated import info as simulated
from autotune.errors import EnvironmentProblem, InputError, StoreError
from autotune.model_card import ModelCard, Shape, find_model, read_model, shape_of
from autotune.platforms import PLATFORMS
from autotune.search_space import SearchSpace, baseline_config, levels
from autotune.settings import DETECTED, EngineProfile, Settings, detected_platform, load_settings, profile
from autotune.store import look
from autotune.tuner.context import longest_request, with_profile
from autotune.tuner.sources import Sources, load_job

_WIDTHS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the doctor was asked: a job file, or an engine profile, or nothing."""

    job_file: Path | None = None
    engine: str | None = None
    root: Path = Path("/")  # where the operating system's files are looked for


def gather(asked: Asked) -> Facts:
    """Everything the checks need; what cannot be had is said in its place, nothing is raised."""
    settings, problems = _settings()
    sources, of_job = _load(asked.job_file)
    name = asked.engine or (sources.spec.engine if sources else DETECTED)
    chosen, problem = _profile(settings, name)
    kind = chosen.platform if chosen else detected_platform(asked.root / "dev")
    environment = dict(os.environ) | (chosen.environment if chosen else {})
    job = _with_model(sources, chosen) if sources else of_job
    return Facts(
        platform=kind,
        host=gather_host(asked.root, environment),
        engine=_engine(name, chosen, problem, job, asked.root),
        devices=_devices(kind),
        ray=RayFacts(importlib.metadata.version("ray"), platform.python_version(), _ray_address(settings)),
        disk=_disk(settings.home) if settings else None,
        database=_database(settings.database) if settings else None,
        job=job,
        settings_problems=problems,
    )


def _settings() -> tuple[Settings | None, tuple[str, ...]]:
    try:
        return load_settings(), ()
    except InputError as exc:
        return None, exc.problems


def _load(job_file: Path | None) -> tuple[Sources | None, JobFacts | None]:
    if job_file is None:
        return None, None
    try:
        return load_job(job_file), None
    except InputError as exc:
        return None, JobFacts(problems=exc.problems)


def _profile(settings: Settings | None, name: str) -> tuple[EngineProfile | None, str]:
    if settings is None:
        return None, "not examined: the settings cannot be read"
    try:
        return profile(settings, name), ""
    except (InputError, EnvironmentProblem) as exc:
        return None, str(exc)


def _engine(name: str, chosen: EngineProfile | None, problem: str, job: JobFacts | None, root: Path) -> EngineFacts:
    if chosen is None:
        return EngineFacts(name, problem=problem)
    model = job.card.path if job and job.card else None
    environment = dict(os.environ)
    environment |= (preload.environment(environment, root=root) if chosen.jemalloc else {}) | chosen.environment
    libraries = missing_libraries(root, environment.get("LD_PRELOAD", ""))
    try:
        return EngineFacts(name, chosen, _info(chosen, environment, model), libraries=libraries)
    except EnvironmentProblem as exc:
        return EngineFacts(name, chosen, problem=str(exc), libraries=libraries)


def _info(chosen: EngineProfile, environment: Mapping[str, str], model: Path | None) -> EngineInfo:
    if chosen.engine == "simulated":
        return simulated.describe(chosen.executable)
    return probe(str(chosen.executable), environment=environment, model=model)


def _devices(kind: str) -> DeviceFacts:
    try:
        return DeviceFacts(PLATFORMS[kind].discover())
    except EnvironmentProblem as exc:
        return DeviceFacts(problem=str(exc))


def _ray_address(settings: Settings | None) -> str | None:
    return settings.ray_address if settings else None


def _disk(home: Path) -> DiskFacts:
    """Of the folder, or of the one that it will be made in; one that may not be looked into is not writable."""
    existing = next((place for place in (home, *home.parents) if os.path.lexists(place)), Path("/"))
    try:
        return DiskFacts(home, shutil.disk_usage(existing).free, existing.is_dir() and os.access(existing, os.W_OK))
    except OSError:
        return DiskFacts(home, 0, False)


def _database(url: str) -> DatabaseFacts:
    try:
        return DatabaseFacts(look(url))
    except (InputError, StoreError) as exc:
        return DatabaseFacts(problem=str(exc))


def _with_model(sources: Sources, chosen: EngineProfile | None) -> JobFacts:
    roots = chosen.model_roots if chosen else ()
    try:
        card = read_model(find_model(sources.spec.model, relative_to=sources.folder, roots=roots))
        return JobFacts(spec=sources.spec, card=card, shapes=tuple(_shapes(sources, card, chosen)))
    except InputError as exc:
        return JobFacts(problems=exc.problems, spec=sources.spec)


def _shapes(sources: Sources, card: ModelCard, chosen: EngineProfile | None) -> Iterator[Shape]:
    """The engine's defaults at every width of the search space, the narrowest first."""
    config = baseline_config(sources.space, derived={"max_model_len": longest_request(sources, card)})
    if chosen is not None:
        config = with_profile(config, chosen)
    environment = {**os.environ, **(chosen.environment if chosen else {}), **config.environment}
    found = {
        shape_of({**config.arguments, **dict(zip(_WIDTHS, widths, strict=True))}, environment)
        for widths in product(*(_sizes(sources.space, name, config.arguments) for name in _WIDTHS))
    }
    most = sources.spec.devices.max_per_trial
    fitting = [shape for shape in found if most == "all" or shape.parallel.devices <= most]
    return iter(sorted(fitting, key=lambda shape: (shape.parallel.devices, shape.parallel.tensor)))


def _sizes(space: SearchSpace, name: str, arguments: Mapping[str, object]) -> tuple[object, ...]:
    parameter = space.parameters.get(name)
    return tuple(levels(parameter)) if parameter is not None else (arguments.get(name, 1),)
