"""Everything a job needs before its first launch, loaded and checked at once."""

import contextlib
import dataclasses
import hashlib
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autotune.engine_config import EngineConfig, Value, devices_needed
from autotune.engines.examine import EngineInfo, probe, questions
from autotune.engines.simulated import info as simulated
from autotune.errors import EnvironmentProblem, InputError, NotFound
from autotune.instruments import Instrument, version_problem
from autotune.model_card import ModelCard, find_model, read_model
from autotune.platforms import ANY_RESOURCE, PLATFORMS
from autotune.results import Job, JobStatus, Trial
from autotune.search_space import SearchSpace, baseline_config, levels, resolve
from autotune.search_space.catalogue import Installed
from autotune.settings import EngineProfile, Platform, Settings, guidellm, known_profile, profile
from autotune.spec import JobSpec
from autotune.tuner.installed import checked_space, installed
from autotune.tuner.sources import Sources
from autotune.workload import Vocabulary, Workload, open_source

BUNDLED_MODELS = (Path(__file__).resolve().parents[1] / "demo",)  # what a service offers that names no other roots
_BY_RESOURCE: dict[str, Platform] = {"NPU": "ascend", "GPU": "cuda", "CPU": "cpu"}
LENGTH_STEP = 64  # max_model_len is rounded up to a multiple of it, so that prompts at the longest length fit


@dataclass(frozen=True, slots=True)
class JobContext:
    """A job that can run on this machine."""

    job: Job
    spec: JobSpec
    space: SearchSpace
    workload: Workload
    profile: EngineProfile
    model: ModelCard
    engine: EngineInfo
    derived: Mapping[str, Value]  # names the space's rules may use besides its parameters
    guidellm: Path | None = None  # where the job's instrument is, if it is GuideLLM

    @property
    def folder(self) -> Path:
        """The job's artifacts."""
        return Path(self.job.folder)

    @property
    def baseline(self) -> EngineConfig:
        """The engine's own defaults: only the space's fixed parameters and the derived length are given."""
        return with_profile(baseline_config(self.space, derived=self.derived), self.profile)

    @property
    def installed(self) -> Installed:
        """The engine and the model as the knob catalogue wants to know them."""
        return installed(self.profile, self.engine, self.model)

    def configuration(self, knobs: Mapping[str, Value]) -> EngineConfig:
        """What a choice of knobs launches."""
        return with_profile(resolve(self.space, knobs, derived=self.derived), self.profile)


def with_profile(config: EngineConfig, profile: EngineProfile) -> EngineConfig:
    """The configuration with the operator's arguments, which are measured, stored and exported with it.

    The job's choice wins; where both have a mapping (`additional_config`), their keys are united. The profile's
    environment may hold secrets and stays out.
    """
    arguments: dict[str, Any] = dict(profile.arguments)
    for name, value in config.arguments.items():
        theirs = arguments.get(name)
        arguments[name] = {**theirs, **value} if isinstance(theirs, dict) and isinstance(value, dict) else value
    return config.model_copy(update={"arguments": arguments, "devices": devices_needed(arguments)})


def prepare(sources: Sources, settings: Settings) -> JobContext:
    """Check a job against this machine: profile, model, lengths, and the knobs against catalogue and engine.

    The space of the job is the one that is searched: without what does nothing on this engine.
    """
    chosen = profile(settings, sources.spec.engine)
    _check_resource(sources.spec, chosen)
    model = read_model(find_model(sources.spec.model, relative_to=sources.folder, roots=chosen.model_roots))
    engine = describe_engine(chosen, settings.home / "probes")
    space = checked_space(sources.space, installed(chosen, engine, model), chosen, settings.allowed_knobs)
    sources = dataclasses.replace(sources, space=space)
    return _context(new_job(sources, model, settings), sources, chosen, model, engine, settings)


def admit(sources: Sources, settings: Settings) -> Job:
    """Check a job as far as it can be without its engine and its devices, and make its row.

    For a front door that launches nothing: whoever runs the job checks the rest with `restore`. Raises what `prepare`
    raises, but for a missing engine.
    """
    spec = sources.spec
    chosen = known_profile(settings, spec.engine)
    _check_resource(spec, chosen)
    roots = chosen.model_roots or settings.model_roots or BUNDLED_MODELS
    model = read_model(find_model(spec.model, relative_to=sources.folder, roots=roots))
    space = checked_space(sources.space, installed(chosen, model=model), chosen, settings.allowed_knobs)
    sources = dataclasses.replace(sources, space=space)
    longest_request(sources, model)
    return new_job(sources, model, settings)


def new_job(sources: Sources, model: ModelCard, settings: Settings) -> Job:
    """The row of a job that has not begun, with a fresh id."""
    identity = f"{sources.spec.name}-{secrets.token_hex(4)}"
    return Job(
        id=identity,
        name=sources.spec.name,
        status=JobStatus.QUEUED,
        spec=sources.spec.document,
        space=sources.space.model_dump(mode="json"),
        workload=sources.workload.model_dump(mode="json"),
        model_path=str(model.path),
        folder=str(settings.home / "jobs" / identity),
        created_at=datetime.now(UTC),
    )


def _check_resource(spec: JobSpec, chosen: EngineProfile) -> None:
    resource = PLATFORMS[chosen.platform].RESOURCE
    if resource not in (spec.devices.resource, ANY_RESOURCE):
        raise InputError(
            f"devices.resource: {spec.devices.resource} does not fit the engine profile {spec.engine!r}, whose "
            f"platform {chosen.platform} uses {resource}"
        )


def restore(job: Job, settings: Settings) -> JobContext:
    """A stored job as it can go on here, from the documents it was started with.

    One that waits in the queue gets its space as `prepare` would make it. Raises what `prepare` raises.
    """
    sources = Sources(
        spec=JobSpec.model_validate(job.spec),
        space=SearchSpace.model_validate(job.space),
        workload=Workload.model_validate(job.workload),
        folder=Path(job.folder),
    )
    chosen = profile(settings, sources.spec.engine)
    model, engine = read_model(Path(job.model_path)), describe_engine(chosen, settings.home / "probes")
    space = checked_space(sources.space, installed(chosen, engine, model), chosen, settings.allowed_knobs)
    if job.status is JobStatus.QUEUED:  # nobody has asked the engine yet; later the space stays what was searched
        job = job.model_copy(update={"space": space.model_dump(mode="json")})
        sources = dataclasses.replace(sources, space=space)
    return _context(job, sources, chosen, model, engine, settings)


def checked_without_engine(sources: Sources, settings: Settings) -> SearchSpace:
    """The space as `prepare` would leave it, by what is known before an engine is asked. Raises InputError."""
    platform = _BY_RESOURCE[sources.spec.devices.resource]
    try:
        chosen = known_profile(settings, sources.spec.engine)
    except (EnvironmentProblem, NotFound):  # not on this machine; the job may run on another
        chosen = EngineProfile(executable=Path(), platform=platform)
    if chosen.platform != "simulated":
        chosen = chosen.model_copy(update={"platform": platform})
    model: ModelCard | None = None
    with contextlib.suppress(InputError):
        model = read_model(find_model(sources.spec.model, relative_to=sources.folder, roots=chosen.model_roots))
    return checked_space(sources.space, installed(chosen, model=model), chosen, settings.allowed_knobs)


def check_same_engine(context: JobContext, trials: Sequence[Trial]) -> None:
    """Raise EnvironmentProblem when trials were measured with another engine than the context's."""
    measured = {trial.result.engine_version for trial in trials if trial.result and trial.result.engine_version}
    others = sorted(measured - {context.engine.version})
    if others:
        raise EnvironmentProblem(
            f"job {context.job.id} was measured with {', '.join(others)}, the engine profile {context.spec.engine!r} "
            f"now has {context.engine.version}: their numbers cannot be compared. Bring that engine back, or start the "
            "job anew with: autotune run"
        )


def _context(
    job: Job, sources: Sources, chosen: EngineProfile, model: ModelCard, engine: EngineInfo, settings: Settings
) -> JobContext:
    derived: dict[str, Value] = {"max_model_len": longest_request(sources, model)}
    tool = find_instrument(sources.spec.instrument, sources.spec.engine, chosen, engine, settings)
    return JobContext(job, sources.spec, sources.space, sources.workload, chosen, model, engine, derived, tool)


def find_instrument(
    instrument: Instrument, name: str, chosen: EngineProfile, engine: EngineInfo, settings: Settings
) -> Path | None:
    """Where GuideLLM is, if that is the instrument. Refuses one that is not there for the engine of profile `name`."""
    if instrument == "guidellm":
        return guidellm(settings)
    if instrument == "vllm-bench" and chosen.engine == "simulated":
        raise InputError(
            f"instrument vllm-bench: the engine profile {name!r} is simulated and has no `vllm bench serve`; "
            "use instrument: autotune or guidellm"
        )
    problem = version_problem(instrument, engine.versions.get("vllm", ""))
    if problem is not None:
        raise InputError(problem)
    return None


def longest_request(sources: Sources, model: ModelCard) -> int:
    """The `max_model_len` of every launch: what the workload's longest request needs.

    Raises InputError when the model or the space does not allow it.
    """
    vocabulary = Vocabulary(model.token_ids, model.special_ids)
    needed = open_source(sources.workload.dataset, vocabulary, model=model.path).longest_request_tokens
    _check_own_length(sources.space, needed, sources.workload.name, model.max_positions)
    if model.max_positions and needed > model.max_positions:
        raise InputError(
            f"workload {sources.workload.name!r} has requests of up to {needed} tokens, the model has "
            f"{model.max_positions} positions; choose shorter lengths"
        )
    rounded = math.ceil(needed / LENGTH_STEP) * LENGTH_STEP
    return min(rounded, model.max_positions) if model.max_positions else rounded


def _check_own_length(space: SearchSpace, needed: int, workload: str, positions: int = 0) -> None:
    """A space may choose `max_model_len` itself, but not below what the workload sends: those requests would fail.

    Nor above what the model has: nothing would start. No positions: not known.
    """
    parameter = space.parameters.get("max_model_len")
    if parameter is None:
        return
    wrong = [value for value in levels(parameter) if not isinstance(value, int) or value < needed]
    if wrong:
        raise InputError(
            f"search space {space.name!r}: max_model_len {', '.join(map(str, wrong))} is not a whole number of at "
            f"least {needed}, the longest request of workload {workload!r}"
        )
    above = [value for value in levels(parameter) if isinstance(value, int) and positions and value > positions]
    if above:
        raise InputError(
            f"search space {space.name!r}: max_model_len {', '.join(map(str, above))} is more than the model's "
            f"{positions} positions; lower it, or leave it out to take the workload's longest request"
        )


def describe_engine(chosen: EngineProfile, cache: Path) -> EngineInfo:
    """What the engine's environment holds; asked once, for importing vLLM takes ten seconds."""
    executable = chosen.executable
    if chosen.engine == "simulated":
        return simulated.describe(executable)
    packages = executable.parent.parent.glob("lib/python*/site-packages")  # touched by every pip install
    changed = [place.stat().st_mtime_ns for place in (executable, *sorted(packages))]
    identity = f"{questions()}:{executable}:{changed}:{sorted(chosen.environment.items())}"
    known = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, ValidationError):  # none yet, or half written: ask again
        return EngineInfo.model_validate_json(known.read_text())
    found = probe(str(executable), environment=dict(os.environ) | chosen.environment)
    if not found.problems:
        cache.mkdir(parents=True, exist_ok=True)
        fresh = known.with_suffix(f".{os.getpid()}")
        fresh.write_text(found.model_dump_json(indent=2))
        fresh.replace(known)
    return found
