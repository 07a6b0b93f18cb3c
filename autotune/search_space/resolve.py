"""From knobs to what is launched: which are active, which rules they break, and the engine configuration."""

import itertools
import math
from collections.abc import Collection, Mapping
from typing import Any

from autotune.engine_config import EngineConfig, Value, devices_needed
from autotune.search_space.parameters import FixedParameter, config_value, is_special, levels, place
from autotune.search_space.rules import BUILT_IN, broken, holds
from autotune.search_space.space import BASELINE, SearchSpace, by_condition, tunable


def starting_point(space: SearchSpace, name: str) -> dict[str, Value]:
    """The knobs of a starting point; what it leaves out is as in the baseline. Raises KeyError."""
    knobs = {**space.starting_points[BASELINE], **space.starting_points[name]}
    return {parameter: knobs[parameter] for parameter in tunable(space)}


def active(space: SearchSpace, knobs: Mapping[str, Value]) -> dict[str, Value]:
    """The knobs that have an effect: those whose `when` holds, in the order of the file."""
    values = _in_force(space, knobs)
    return {name: values[name] for name in tunable(space) if name in values}


def _in_force(space: SearchSpace, knobs: Mapping[str, Value]) -> dict[str, Value]:
    """Active knobs and active fixed parameters."""
    values: dict[str, Value] = {}
    for name in by_condition(space):
        parameter = space.parameters[name]
        value = parameter.value if isinstance(parameter, FixedParameter) else knobs.get(name)
        if value is not None and holds(parameter.when, values):
            values[name] = value
    return values


def broken_rules(space: SearchSpace, knobs: Mapping[str, Value], derived: Mapping[str, Value]) -> tuple[str, ...]:
    """One sentence per rule that the knobs break: the space's own and the engine's.

    `derived` may hold `max_model_len` (tokens); `devices` is what the configuration itself takes.
    A rule about a value that is not given, not active or `auto` is not judged.
    """
    config = resolve(space, knobs, derived=derived)
    outside = {**derived, "devices": config.devices}
    given = {**outside, **config.arguments}
    values = {**dict.fromkeys(space.parameters), **outside, **_in_force(space, knobs)}
    found = [broken(rule, values) for rule in space.rules]
    found += [broken(rule, given) for rule in BUILT_IN if set(rule.operands) <= given.keys()]
    return tuple(dict.fromkeys(problem for problem in found if problem))


def resolve(space: SearchSpace, knobs: Mapping[str, Value], *, derived: Mapping[str, Value]) -> EngineConfig:
    """The engine configuration of these knobs and the fixed parameters; inactive and special values are not given.

    `max_model_len` comes from `derived` unless the space has a parameter for it; `devices` is
    the product of the parallel sizes.
    """
    return _config(space, _in_force(space, knobs), derived)


def config_of(
    space: SearchSpace, knobs: Mapping[str, Value], given: Collection[str], *, derived: Mapping[str, Value]
) -> EngineConfig:
    """The engine configuration in which only the knobs `given` are set: the others are the engine's own defaults.

    All `knobs` decide which of them are active, as in `resolve`.
    """
    tuned = tunable(space)
    values = _in_force(space, knobs)
    return _config(space, {name: v for name, v in values.items() if name in given or name not in tuned}, derived)


def baseline_config(space: SearchSpace, *, derived: Mapping[str, Value]) -> EngineConfig:
    """The engine's own defaults: only `max_model_len` and the fixed parameters whose `when` holds at the baseline."""
    values = _in_force(space, space.starting_points[BASELINE])
    tuned = tunable(space)
    return _config(space, {name: value for name, value in values.items() if name not in tuned}, derived)


def _config(space: SearchSpace, values: Mapping[str, Value], derived: Mapping[str, Value]) -> EngineConfig:
    places = {name: place(name, parameter) for name, parameter in space.parameters.items()}
    arguments: dict[str, Any] = {}
    environment: dict[str, str] = {}
    for name in space.parameters:
        if name not in values or is_special(values[name]):
            continue
        kind, target = places[name]
        if kind == "argument":
            arguments[target] = values[name]
        elif kind == "environment":
            environment[target] = _variable(values[name])
        else:
            _put(arguments.setdefault(kind, {}), target.split("."), config_value(values[name]))
    if "max_model_len" in derived and ("argument", "max_model_len") not in places.values():
        arguments["max_model_len"] = derived["max_model_len"]
    return EngineConfig(arguments=arguments, environment=environment, devices=devices_needed(arguments))


def _variable(value: Value) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _put(mapping: dict[str, Any], keys: list[str], value: Value | list[Value]) -> None:
    for key in keys[:-1]:
        mapping = mapping.setdefault(key, {})
    mapping[keys[-1]] = value


def size(space: SearchSpace) -> int:
    """Number of distinct combinations of levels: an inactive knob tells none apart. Rules are not counted."""
    conditions = {name for parameter in space.parameters.values() for name in parameter.when}
    switches = [name for name in tunable(space) if name in conditions]
    seen: dict[tuple[tuple[str, Value], ...], int] = {}
    for choice in itertools.product(*(levels(space.parameters[name]) for name in switches)):
        # The other knobs stand at any level: only whether they are active matters here.
        knobs = {name: levels(space.parameters[name])[0] for name in tunable(space)} | dict(
            zip(switches, choice, strict=True)
        )
        in_force = active(space, knobs)
        key = tuple((name, in_force[name]) for name in switches if name in in_force)
        others = (len(levels(space.parameters[name])) for name in in_force if name not in switches)
        seen[key] = math.prod(others)
    return sum(seen.values())
