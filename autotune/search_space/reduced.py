"""A search space without some of its parameters: they stand where the baseline has them."""

from collections.abc import Mapping

from autotune.engine_config import Value
from autotune.search_space.parameters import FixedParameter, Parameter, When, same
from autotune.search_space.rules import Comparison, ProductRule, options
from autotune.search_space.space import BASELINE, SearchSpace, by_condition


def without(space: SearchSpace, reasons: Mapping[str, str]) -> SearchSpace:
    """The space without the parameters that `reasons` names; they are kept, with the reasons, in its `dropped`.

    A condition on such a parameter holds when the baseline's value meets it; a parameter whose condition can never
    hold any more is left out too, and so is a rule about a parameter that is gone. Raises ValueError when nothing is
    left to search.
    """
    dropped = dict(reasons)
    kept: dict[str, Parameter] = {}
    for name in by_condition(space):
        parameter = space.parameters[name]
        lost = _unmet(space, parameter.when, dropped)
        if name not in dropped and lost:
            dropped[name] = f"it is searched only with {lost[0]}, which was left out"
        if name not in dropped:
            kept[name] = parameter.model_copy(update={"when": _without(parameter.when, dropped)})
    points = {
        point: {name: value for name, value in knobs.items() if name in kept}
        for point, knobs in space.starting_points.items()
    }
    return SearchSpace.model_validate(
        {
            **space.model_dump(),
            "parameters": {name: kept[name] for name in space.parameters if name in kept},
            "rules": _rules(space, dropped),
            "starting_points": points,
            "dropped": {**space.dropped, **dropped},
        }
    )


def _rules(space: SearchSpace, dropped: Mapping[str, str]) -> list[Comparison | ProductRule]:
    return [
        rule.model_copy(update={"when": _without(rule.when, dropped)})
        for rule in space.rules
        if not dropped.keys() & {one for one in rule.operands if isinstance(one, str)}
        and not _unmet(space, rule.when, dropped)
    ]


def _unmet(space: SearchSpace, when: When, dropped: Mapping[str, str]) -> list[str]:
    """The dropped parameters of a condition that does not hold where the baseline has them."""
    return [
        name
        for name, want in when.items()
        if name in dropped and not any(same(_standing(space, name), one) for one in options(want))
    ]


def _standing(space: SearchSpace, name: str) -> Value | None:
    parameter = space.parameters[name]
    return parameter.value if isinstance(parameter, FixedParameter) else space.starting_points[BASELINE].get(name)


def _without(when: When, dropped: Mapping[str, str]) -> When:
    return {name: want for name, want in when.items() if name not in dropped}
