"""What an engine will make of a configuration: its defaults, what it overrides, and what does not go together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from autotune.engine_config import EngineConfig, Value
from autotune.search_space.catalogue.installed import Installed, Possible, default, exists, holds, met
from autotune.search_space.catalogue.knobs import Conflict, Knob, Override, knobs
from autotune.search_space.catalogue.values import flattened, spelled

Case = TypeVar("Case", Override, Conflict)


@dataclass(frozen=True, slots=True)
class Habits:
    """The part of the catalogue that surely holds on one engine, by flat name; nothing else is ever predicted."""

    defaults: Mapping[str, Value]
    idle: frozenset[str]  # knobs of other platforms
    overrides: Mapping[str, tuple[Override, ...]]
    conflicts: Mapping[str, tuple[Conflict, ...]]


def habits(installed: Installed) -> Habits:
    """What is known of an engine, for predictions about many configurations."""
    idle = frozenset(name for name, knob in knobs().items() if _is_idle(knob, installed))
    here = {name: knob for name, knob in knobs().items() if name not in idle}
    known = {name: default(knob, installed) for name, knob in here.items() if exists(knob, installed)}
    return Habits(
        defaults={name: value for name, value in known.items() if value is not None},
        idle=idle,
        overrides={name: cases for name, knob in here.items() if (cases := _held(knob.overrides, installed))},
        conflicts={name: clash for name, knob in here.items() if (clash := _held(knob.conflicts, installed))},
    )


def predicted(config: EngineConfig, engine: Habits) -> dict[str, Any]:
    """What the configuration surely runs as, by flat name: defaults filled in, overridden values replaced.

    What the engine ignores is left out, so that two configurations that run alike give the same. Where versions or
    values are not known nothing is predicted, and what was asked stands.
    """
    asked = {**engine.defaults, **_given(config)}
    possible = _settled(asked, config.devices)
    runs: dict[str, Any] = {name: value for name, value in asked.items() if name not in engine.idle}
    for name, cases in engine.overrides.items():
        override = next((case for case in cases if met(case, possible)), None) if name in runs else None
        if override is not None and override.runs_as is not None:
            runs[name] = override.runs_as
        elif override is not None:
            del runs[name]
    return runs


def conflicts(config: EngineConfig, engine: Habits) -> tuple[str, ...]:
    """One sentence for each value in the configuration that the engine is known not to run together with the rest."""
    given = _given(config)
    possible = _settled({**engine.defaults, **given}, config.devices)
    return tuple(
        f"{name} {given[name]}: {case.why}"
        for name, cases in engine.conflicts.items()
        if name in given
        for case in cases
        if (not case.values or any(spelled(given[name]) == spelled(one) for one in case.values)) and met(case, possible)
    )


def _given(config: EngineConfig) -> dict[str, Value]:
    return flattened({**config.arguments, **config.environment})


def _held(cases: Sequence[Case], installed: Installed) -> tuple[Case, ...]:
    return tuple(case for case in cases if holds(case, installed))


def _is_idle(knob: Knob, installed: Installed) -> bool:
    return bool(knob.platforms) and installed.platform is not None and installed.platform not in knob.platforms


def _settled(runs: Mapping[str, Value], devices: int) -> Possible:
    def possible(name: str) -> tuple[Value, ...] | None:
        if name == "devices":
            return (devices,)
        return (runs[name],) if name in runs else None

    return possible
