"""The record of a search space, with everything about it checked when it is loaded."""

from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from autotune.engine_config import Value
from autotune.records import Record
from autotune.search_space.limits import refusal
from autotune.search_space.parameters import FixedParameter, Parameter, ParameterName, place, problem_of
from autotune.search_space.rules import Rule, rule_problems, unknown, when_problems

BASELINE = "baseline"

PointName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class SearchSpace(Record):
    """What may be tuned on an engine, what may not be combined, and where to start.

    `starting_points.baseline` says at which levels the engine's own defaults lie: it places the
    baseline for the sampler, while the baseline itself is launched with no tunable value at all.
    """

    version: Literal[1]
    name: PointName
    description: str = ""
    parameters: Annotated[dict[ParameterName, Parameter], Field(min_length=1)]
    rules: tuple[Rule, ...] = ()
    starting_points: dict[PointName, dict[str, Value]]
    dropped: dict[ParameterName, str] = Field(
        default={}, description="Parameters that the check before a job left out, and why; written by the check."
    )

    @property
    def argument_names(self) -> tuple[str, ...]:
        """The engine arguments that this space may set, to be checked against what the engine knows."""
        places = [place(name, parameter) for name, parameter in self.parameters.items()]
        return tuple(dict.fromkeys(_argument(kind, name) for kind, name in places if kind != "environment"))

    @model_validator(mode="after")
    def _fits_together(self) -> "SearchSpace":
        problems = [*_target_problems(self), *_condition_problems(self), *_start_problems(self)]
        for index, rule in enumerate(self.rules):
            problems += [f"rules.{index}.{problem}" for problem in rule_problems(rule, self.parameters)]
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _argument(kind: str, name: str) -> str:
    return name if kind == "argument" else kind


def tunable(space: SearchSpace) -> tuple[str, ...]:
    """The names of the parameters that are searched, in the order of the file."""
    return tuple(name for name, parameter in space.parameters.items() if not isinstance(parameter, FixedParameter))


def by_condition(space: SearchSpace) -> tuple[str, ...]:
    """All parameter names, each after those its `when` names. Raises CycleError."""
    return tuple(TopologicalSorter({name: p.when.keys() for name, p in space.parameters.items()}).static_order())


def _target_problems(space: SearchSpace) -> Iterator[str]:
    places = {name: place(name, parameter) for name, parameter in space.parameters.items()}
    unconditional = Counter(places[name] for name, parameter in space.parameters.items() if not parameter.when)
    for name, (kind, target) in places.items():
        why = refusal(kind, target)
        if why:
            yield f"parameters.{name}: {why}"
        shared = [other for other, one in places.items() if one == (kind, target) and other != name]
        if shared and unconditional[kind, target] > 0:
            yield f"parameters.{name}: sets the same {kind} '{target}' as {', '.join(shared)}"
        inside = [other for other, one in places.items() if one[0] == kind and one[1].startswith(f"{target}.")]
        if inside:
            yield f"parameters.{name}: sets '{target}' whole, and {', '.join(inside)} a key within it"


def _condition_problems(space: SearchSpace) -> Iterator[str]:
    broken = False
    for name, parameter in space.parameters.items():
        for problem in when_problems(parameter.when, space.parameters):
            broken = True
            yield f"parameters.{name}.when.{problem}"
    if broken:
        return
    try:
        by_condition(space)
    except CycleError as exc:
        yield f"parameters: conditions go round in a circle: {' -> '.join(map(str, exc.args[1]))}"


def _start_problems(space: SearchSpace) -> Iterator[str]:
    names = tunable(space)
    if not names:
        yield "parameters: all are fixed, so there is nothing to search"
    missing = [name for name in names if name not in space.starting_points.get(BASELINE, {})]
    if missing:
        yield f"starting_points.{BASELINE}: must say where the engine's defaults lie; missing {', '.join(missing)}"
    for point, knobs in space.starting_points.items():
        for name, value in knobs.items():
            why = problem_of(space.parameters[name], value) if name in names else unknown(name, names)
            if why:
                yield f"starting_points.{point}.{name}: {why}"
