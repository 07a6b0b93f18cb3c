"""What the submit form offers: engine profiles, models, search spaces and workloads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

from autotune.errors import EnvironmentProblem
from autotune.loading import bundled
from autotune.platforms import ANY_RESOURCE, PLATFORMS
from autotune.settings import DETECTED, Settings, built_in_profiles, known_profile
from autotune.tuner.context import BUNDLED_MODELS
from autotune.tuner.sources import bundled_space, bundled_workload

MOST_MODELS = 200  # of the list; others can be typed
_MOST_FOLDERS = 2000  # that are looked at


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine profile a job may name."""

    name: str
    about: str  # empty: it says all itself
    resource: str | None  # the only one it runs on


def engines(settings: Settings) -> tuple[Engine, ...]:
    """The operator's profiles first, then the detected engine, then the simulated ones."""
    names = dict.fromkeys([*settings.profiles, DETECTED, *built_in_profiles()])
    return tuple(engine for name in names if (engine := _engine(settings, name)) is not None)


def _engine(settings: Settings, name: str) -> Engine | None:
    try:
        profile = known_profile(settings, name)
    except EnvironmentProblem:  # this machine has no vLLM of its own
        return None
    resource = PLATFORMS[profile.platform].RESOURCE
    about = "for trying out, no device needed" if profile.engine == "simulated" else profile.platform
    return Engine(name, about, None if resource == ANY_RESOURCE else resource)


def models(settings: Settings) -> tuple[str, ...]:
    """Names of the models below the folders that jobs may take them from, one or two folders deep."""
    roots = [*settings.model_roots, *(root for profile in settings.profiles.values() for root in profile.model_roots)]
    found = (name for root in roots or BUNDLED_MODELS for name in _below(root))
    return tuple(sorted(dict.fromkeys(islice(found, MOST_MODELS))))


def _below(root: Path) -> Iterator[str]:
    folders = (folder for pattern in ("*", "*/*") for folder in root.expanduser().glob(pattern))
    for folder in islice(folders, _MOST_FOLDERS):
        if (folder / "config.json").is_file():
            yield str(folder.relative_to(root.expanduser()))


@cache
def search_spaces() -> Mapping[str, str]:
    """The search spaces that ship with the product, with what each is."""
    return {name: bundled_space(name).description for name in bundled("search_spaces")}


@cache
def workloads() -> Mapping[str, str]:
    """The workloads that ship with the product, with what each is."""
    return {name: bundled_workload(name).description for name in bundled("workloads")}
