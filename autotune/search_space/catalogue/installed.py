"""What is known of an engine and a model, and whether something of the catalogue holds there."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from packaging.version import Version

from autotune.engine_config import Value
from autotune.releases import parsed
from autotune.search_space.catalogue.knobs import Conditions, Conflict, Knob, Override, Platform, Span, Where
from autotune.search_space.catalogue.values import number, spelled

_FIRST_RELEASE = (0, 2)  # below: a build from source without its tags says nothing

Possible = Callable[[str], "tuple[Value, ...] | None"]
"""Flat name -> the values it may have; None: not known."""


@dataclass(frozen=True, slots=True)
class Installed:
    """An engine, a model and a platform, as far as they are known. Empty or None means: not known."""

    platform: Platform | None = None
    versions: Mapping[str, str] = field(default_factory=dict)  # by distribution name
    arguments: frozenset[str] = frozenset()  # of `vllm serve`, in Python spelling
    models: frozenset[str] = frozenset()  # the model's `model_type`, and dense, moe, hybrid as they apply
    build: str = ""  # the NPUs that vllm-ascend was built for, such as A2
    environment: Mapping[str, str] = field(default_factory=dict)  # what every engine inherits
    name: str = "the engine"  # in words, for messages

    def version(self, package: str) -> Version | None:
        """The installed version of a package; None when it is not known."""
        found = parsed(self.versions.get(package, ""))
        return None if found is None or found.release < _FIRST_RELEASE else found


def holds(where: Where, installed: Installed) -> bool | None:
    """Whether it is so on this engine; None when that cannot be told."""
    return _all(
        [
            None if where.platforms and installed.platform is None else _among(installed.platform, where.platforms),
            *(_at_least(installed, package, bound) for package, bound in where.since.items()),
            *(_not(_at_least(installed, package, bound)) for package, bound in where.before.items()),
            _model(installed, where.models, wanted=True),
            _model(installed, where.not_models, wanted=False),
            not any(build in installed.build for build in where.not_builds),  # 310P builds always say so
        ]
    )


def exists(knob: Knob, installed: Installed) -> bool | None:
    """Whether these releases have the knob; None when that cannot be told."""
    return holds(Where(since=knob.since, before=knob.gone), installed)


def is_gone(knob: Knob, installed: Installed) -> bool:
    """Whether these releases surely have it no more."""
    return any(_at_least(installed, package, bound) is True for package, bound in knob.gone.items())


def default(knob: Knob, installed: Installed) -> Value | None:
    """What surely runs where nothing is asked: the environment's value, else the engine's default; None: not known."""
    if knob.target == "environment" and knob.name in installed.environment:
        return installed.environment[knob.name]
    known = [(one, holds(one, installed)) for one in knob.defaults]
    for one, so in known:
        if so:
            return one.value
    return None if any(so is None for _, so in known) else knob.default


def applies(case: Override | Conflict, installed: Installed, possible: Possible) -> bool:
    """Whether it surely applies, whatever of the possible values is chosen."""
    return holds(case, installed) is True and met(case, possible)


def met(case: Override | Conflict, possible: Possible) -> bool:
    """Whether the conditions of a case are surely met, whatever of the possible values is chosen."""
    return _met(case.when, possible, all) is True and all(
        _met(alternative, possible, any) is False for alternative in case.unless
    )


def _met(conditions: Conditions, possible: Possible, quantifier: Callable[[Iterable[bool]], bool]) -> bool | None:
    judged: list[bool | None] = []
    for name, wanted in conditions.items():
        values = possible(name)
        judged.append(None if values is None else quantifier(_fits(value, wanted) for value in values))
    return _all(judged)


def _fits(value: Value, wanted: Span | tuple[Value, ...]) -> bool:
    if isinstance(wanted, tuple):
        return any(spelled(value) == spelled(one) for one in wanted)
    found = number(value)
    if found is None:
        return False
    return (wanted.least is None or found >= wanted.least) and (wanted.most is None or found <= wanted.most)


def _at_least(installed: Installed, package: str, bound: str) -> bool | None:
    found, first = installed.version(package), Version(bound)
    if found is None or (found.is_prerelease and not first.is_prerelease and found.release == first.release):
        return None  # a candidate of that very release: nobody looked
    return found >= first


def _model(installed: Installed, models: tuple[str, ...], *, wanted: bool) -> bool | None:
    if not models:
        return True
    return None if not installed.models else bool(installed.models & set(models)) is wanted


def _among(one: Platform | None, several: tuple[Platform, ...]) -> bool:
    return not several or one in several


def _not(so: bool | None) -> bool | None:
    return None if so is None else not so


def _all(judged: Iterable[bool | None]) -> bool | None:
    found = list(judged)
    if False in found:
        return False
    return None if None in found else True
