"""A search space against the catalogue and an installed engine: what is wrong, and what would be searched as noise."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from autotune.engine_config import PARALLELISM, Value
from autotune.search_space.catalogue.installed import Installed, Possible, applies, default, exists, is_gone
from autotune.search_space.catalogue.knobs import Knob, find, flat_name, knobs
from autotune.search_space.catalogue.values import flattened, number, spelled
from autotune.search_space.parameters import FixedParameter, Parameter, is_special, levels, place
from autotune.search_space.reduced import without
from autotune.search_space.space import SearchSpace, tunable


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a check: the space that is worth searching, and everything that is wrong with the one given."""

    space: SearchSpace  # without the parameters that do nothing; they are in its `dropped`
    problems: tuple[str, ...]


def check(
    space: SearchSpace, installed: Installed, *, given: Mapping[str, Any] | None = None, allowed: Collection[str] = ()
) -> Checked:
    """Check every parameter of a space for the engine, as far as that is known.

    `given` are the engine arguments of every launch, `allowed` the flat names that the catalogue need not have.
    """
    possible = _possible(space, installed, flattened(given or {}))
    problems: list[str] = []
    idle: dict[str, str] = {}
    for name, parameter in space.parameters.items():
        wrong = list(_problems(name, parameter, installed, allowed))
        problems += [f"search space {space.name!r}: {problem}" for problem in wrong]
        why = "" if wrong else _without_effect(name, parameter, installed, possible)
        if why:
            idle[name] = why
    if not idle:
        return Checked(space, tuple(problems))
    if not set(tunable(space)) - idle.keys():
        reasons = "; ".join(f"{name}: {why}" for name, why in idle.items())
        problems.append(f"search space {space.name!r}: nothing is left to search with {installed.name}: {reasons}")
        return Checked(space, tuple(problems))
    return Checked(without(space, idle), tuple(problems))


def _problems(name: str, parameter: Parameter, installed: Installed, allowed: Collection[str]) -> Iterator[str]:
    kind, target = place(name, parameter)
    knob = find(kind, target)
    missing = _missing(kind, target, knob, installed)
    if missing:
        yield missing
    elif knob is None and kind != "argument" and flat_name(kind, target) not in allowed:
        yield (
            f"{kind} '{target}' is not in the knob catalogue{_guess(kind, target, installed)}; one who knows it may "
            f"allow it with allowed_knobs: [{flat_name(kind, target)}] in the settings"
        )
    elif knob is not None:
        yield from (f"{name}: {problem}" for problem in _values(parameter, knob))


def _missing(kind: str, target: str, knob: Knob | None, installed: Installed) -> str:
    """Why the engine does not have the target; empty when it has, or when nobody knows."""
    argument = kind if kind.endswith("_config") else target
    if kind != "environment" and installed.arguments:
        if argument in installed.arguments:
            if kind == "argument":
                return ""
        else:
            gone = f": it is gone; {knob.successor}" if knob is not None and knob.gone else ""
            guess = "" if gone else _guess("argument", argument, installed)
            return f"{installed.name} has no argument {argument!r}{gone}{guess}"
    if knob is None or exists(knob, installed) is not False:
        return ""
    if is_gone(knob, installed):
        first = ", ".join(f"{package} {bound}" for package, bound in knob.gone.items())
        return f"{kind} '{target}' is gone since {first} ({installed.name} is installed); {knob.successor}"
    first = ", ".join(f"{package} {bound}" for package, bound in knob.since.items())
    return f"{kind} '{target}' is known from {first} on ({installed.name} is installed)"


def _guess(kind: str, target: str, installed: Installed) -> str:
    if kind == "argument" and installed.arguments:
        known = sorted(installed.arguments)
    else:
        known = [knob.name for knob in knobs().values() if knob.target == kind and exists(knob, installed) is not False]
    close = get_close_matches(target, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _values(parameter: Parameter, knob: Knob) -> Iterator[str]:
    wrong = [value for value in levels(parameter) if not is_special(value) and not _is_allowed(value, knob)]
    if wrong:
        yield f"{', '.join(map(str, wrong))}: must be {_expected(knob)}"


def _is_allowed(value: Value, knob: Knob) -> bool:
    if knob.choices:
        return any(spelled(value) == spelled(choice) for choice in knob.choices)
    found = number(value)
    if knob.type not in ("int", "float") or found is None:
        return True  # the engine knows more spellings, such as 25G
    above = knob.above is None or found > knob.above
    return above and (knob.least is None or found >= knob.least) and (knob.most is None or found <= knob.most)


def _expected(knob: Knob) -> str:
    if knob.choices:
        return f"one of {', '.join(map(str, knob.choices))}"
    bounds = (("above", knob.above), ("at least", knob.least), ("at most", knob.most))
    return ", ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


def _without_effect(name: str, parameter: Parameter, installed: Installed, possible: Possible) -> str:
    knob = find(*place(name, parameter))
    if knob is None:
        return ""
    if knob.platforms and installed.platform is not None and installed.platform not in knob.platforms:
        return f"it does something on {', '.join(knob.platforms)} only, and this is {installed.platform}"
    if told := next((one.why for one in knob.overrides if applies(one, installed, possible)), ""):
        return told
    own = None if knob.name in installed.environment else default(knob, installed)
    chosen = {value for value in levels(parameter) if not is_special(value)}
    if knob.target == "environment" and own is not None and chosen == {own}:
        return f"{own} is what the engine does without it"
    return ""


def _possible(space: SearchSpace, installed: Installed, given: Mapping[str, Value]) -> Possible:
    """The values that each knob may have in any launch of the space, its baseline included."""
    found: dict[str, set[Value]] = {}
    certain: set[str] = set()
    for name, parameter in space.parameters.items():
        flat = flat_name(*place(name, parameter))
        found.setdefault(flat, set()).update(value for value in levels(parameter) if not is_special(value))
        if isinstance(parameter, FixedParameter) and not parameter.when and not is_special(parameter.value):
            certain.add(flat)

    def unset(name: str) -> Value | None:
        knob = knobs().get(name)
        return given[name] if name in given else default(knob, installed) if knob is not None else None

    def possible(name: str) -> tuple[Value, ...] | None:
        if name == "devices":
            sizes = [possible(size) for size in PARALLELISM]
            numbers = [[int(value) for value in values or (1,)] for values in sizes]
            return tuple({math.prod(chosen) for chosen in itertools.product(*numbers)})
        values = tuple(found.get(name, ()))
        if name in certain:
            return values
        left_out = unset(name)
        return None if left_out is None else (*values, left_out)

    return possible
