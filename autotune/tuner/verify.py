"""An exported configuration launched again under its workload, with fresh seeds; no row, no study, no front changes."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import InputError
from autotune.export import Exported
from autotune.instruments import problems as instrument_problems
from autotune.model_card import ModelCard, find_model, read_model
from autotune.platforms import ANY_RESOURCE, PLATFORMS
from autotune.results import Load
from autotune.settings import EngineProfile, Settings, profile
from autotune.spec import Devices
from autotune.trial import TrialRequest
from autotune.tuner.context import describe_engine, find_instrument
from autotune.tuner.sources import load_workload
from autotune.workload import (
    Level,
    Vocabulary,
    Workload,
    document_digest,
    found_level,
    given_levels,
    open_source,
    with_data_file,
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a configuration is verified with, and what a person should know about it."""

    workload: Workload
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verification:
    """A launch that is ready to go."""

    request: TrialRequest
    devices: Devices
    notes: tuple[str, ...]  # how it differs from the measurement that the file tells of


def named_traffic(exported: Exported, reference: str, folder: Path) -> Traffic:
    """The workload that somebody asked for by name or file; another one than was measured is told, not refused."""
    workload = load_workload(reference, folder)
    if _digest(workload) == exported.replay.workload_digest:
        return Traffic(workload)
    return Traffic(workload, (f"the workload {workload.name!r} is not the one that was measured",))


def own_traffic(exported: Exported, stored: Mapping[str, Any] | None, folder: Path) -> Traffic:
    """The workload that was measured: as the database has it (`stored`), else the one of that name.

    Raises InputError when neither is there, or the one of that name is another one now.
    """
    replay = exported.replay
    if stored is not None and document_digest(stored) == replay.workload_digest:
        # Its data file is checked now, for the digest says nothing about whether it is still there.
        return Traffic(with_data_file(Workload.model_validate(stored), folder))
    try:
        workload = load_workload(replay.workload, folder)
    except InputError as exc:
        advice = f"give the workload that job {replay.job} was measured with: --workload FILE"
        raise InputError([*exc.problems, advice]) from exc
    if _digest(workload) != replay.workload_digest:
        raise InputError(
            f"the workload {replay.workload!r} is not what it was when job {replay.job} was measured, and the database "
            f"does not have that job; name the file that was used, or accept this one: --workload {replay.workload}"
        )
    return Traffic(workload)


def fresh_seed() -> int:
    """A seed whose traces no measurement has seen: out of 2**31 none is likely to come twice."""
    return secrets.randbelow(2**31 - 64)


def prepare_verification(
    exported: Exported, traffic: Traffic, settings: Settings, *, engine: str | None, seed: int
) -> Verification:
    """Check the file against this machine, and make the launch: measured exactly as a confirmation.

    `engine` names another profile than the job's. Raises what `prepare` of a job raises.
    """
    replay, workload = exported.replay, traffic.workload
    name = engine or replay.engine
    chosen = profile(settings, name)
    devices = _devices(replay.devices, chosen)
    model = read_model(find_model(exported.model, relative_to=Path.cwd(), roots=chosen.model_roots))
    _check(exported, workload, model)
    info = describe_engine(chosen, settings.home / "probes")
    label = f"{replay.job}-trial-{replay.trial}-{secrets.token_hex(4)}"
    request = TrialRequest(
        job=replay.job,
        number=replay.trial,
        config=exported.config,
        profile=chosen,
        resource=devices.resource,
        model=model,
        engine_version=info.version,
        workload=workload,
        sla=replay.sla,
        levels=(_level(workload, replay.load, replay.level),),
        search_seed=seed,
        confirm_seeds=tuple(seed + run for run in range(replay.runs)),
        folder=settings.home / "verifications" / label,
        instrument=replay.instrument,
        guidellm=find_instrument(replay.instrument, name, chosen, info, settings),
    )
    return Verification(request, devices, (*traffic.notes, *_notes(exported, request, devices)))


def _digest(workload: Workload) -> str:
    return document_digest(workload.model_dump(mode="json"))


def _devices(measured: Devices, chosen: EngineProfile) -> Devices:
    """Those of the job; on a platform with other ones, as many of these."""
    resource = PLATFORMS[chosen.platform].RESOURCE
    if resource in (ANY_RESOURCE, measured.resource):
        return measured
    return Devices.model_validate({**measured.model_dump(), "resource": resource})


def _check(exported: Exported, workload: Workload, model: ModelCard) -> None:
    replay = exported.replay
    problems = instrument_problems(replay.instrument, workload, replay.sla)
    if workload.load_kind != replay.load.kind:
        problems.append(
            f"the workload {workload.name!r} counts its load as {workload.load_kind}, what was measured at "
            f"{replay.load} is {replay.load.kind}; give a workload of that kind: --workload FILE"
        )
    room = exported.config.arguments.get("max_model_len")
    vocabulary = Vocabulary(model.token_ids, model.special_ids)
    needed = open_source(workload.dataset, vocabulary, model=model.path).longest_request_tokens
    if isinstance(room, int) and 0 < room < needed:
        problems.append(
            f"the workload {workload.name!r} has requests of up to {needed} tokens, the file's max-model-len is {room}"
        )
    if problems:
        raise InputError(problems)


def _level(workload: Workload, load: Load, number: int) -> Level:
    """The rung of the ladder with this load; where the workload has none, a new one."""
    listed = (level for level in given_levels(workload) if level.value == load.value)
    return next(listed, found_level(number, load.value))


def _notes(exported: Exported, request: TrialRequest, devices: Devices) -> list[str]:
    replay, notes = exported.replay, []
    if exported.is_edited:
        notes.append("the file was edited after its export: what is launched is not what was measured")
    if exported.left_out:
        notes.append(f"the file's {', '.join(exported.left_out)} are left out: the launch has a place of its own")
    if request.engine_version != replay.engine_version:
        was, now = replay.engine_version or "an engine of unknown version", request.engine_version or "an unknown one"
        notes.append(f"measured with {was}, launched with {now}")
    if devices.resource != replay.devices.resource:
        notes.append(f"measured on {replay.devices.resource} devices, launched on {devices.resource}")
    return notes
