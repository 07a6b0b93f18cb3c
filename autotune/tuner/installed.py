"""The engine, the model and the platform of a job, as the knob catalogue wants to know them."""

import os
from collections.abc import Mapping, Sequence

from autotune.engines.examine import EngineInfo
from autotune.engines.simulated.devices import DEVICES, chosen
from autotune.engines.simulated.info import MODELLED_VERSIONS
from autotune.errors import InputError
from autotune.model_card import ModelCard
from autotune.search_space import SearchSpace
from autotune.search_space.catalogue import Installed, check, knobs
from autotune.search_space.catalogue.knobs import Platform
from autotune.settings import EngineProfile
from autotune.telemetry import get_logger

log = get_logger()

_OURS = frozenset({"OMP_NUM_THREADS"})  # never inherited: the platform sets it for each launch


def installed(profile: EngineProfile, engine: EngineInfo | None = None, model: ModelCard | None = None) -> Installed:
    """What is known of them; without an engine its versions and arguments are not."""
    return Installed(
        platform=_platform(profile),
        versions=_versions(profile, engine),
        arguments=frozenset() if engine is None else engine.arguments,
        models=frozenset() if model is None else model.kinds,
        build="" if engine is None else engine.build,
        environment=_inherited(os.environ) | profile.environment,
        name="the engine" if engine is None else engine.version,
    )


def checked_space(space: SearchSpace, found: Installed, profile: EngineProfile, allowed: Sequence[str]) -> SearchSpace:
    """The space without the parameters that do nothing on this engine. Raises InputError with everything wrong."""
    checked = check(space, found, given=profile.arguments, allowed=allowed)
    if checked.problems:
        raise InputError(checked.problems)
    for name, why in checked.space.dropped.items():
        log.info("knob_dropped", space=space.name, knob=name, reason=why)
    return checked.space


def _platform(profile: EngineProfile) -> Platform | None:
    if profile.platform != "simulated":
        return profile.platform
    device = DEVICES.get(chosen(profile.environment))
    return None if device is None else device.family


def _versions(profile: EngineProfile, engine: EngineInfo | None) -> Mapping[str, str]:
    platform = _platform(profile)
    if profile.platform == "simulated":
        return MODELLED_VERSIONS[platform] if platform is not None else {}
    return {} if engine is None else engine.versions


def _inherited(environment: Mapping[str, str]) -> dict[str, str]:
    names = {knob.name for knob in knobs().values() if knob.target == "environment"} - _OURS
    return {name: value for name, value in environment.items() if name in names}
