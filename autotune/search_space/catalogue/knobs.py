"""The records of the catalogue, read from `knobs.yaml` beside this file."""

from functools import cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, Field, model_validator

from autotune.engine_config import Value
from autotune.records import Record
from autotune.releases import parsed

Package = Literal["vllm", "vllm-ascend"]
Platform = Literal["ascend", "cuda", "cpu"]
Kind = Literal["argument", "additional_config", "compilation_config", "speculative_config", "environment"]


def _is_version(text: str) -> str:
    if parsed(text) is None:
        raise ValueError(f"{text!r} is no version")
    return text


Bounds = dict[Package, Annotated[str, AfterValidator(_is_version)]]


class Span(Record):
    """Numbers from `least` to `most`, both included."""

    least: float | None = None
    most: float | None = None


Conditions = dict[str, Span | tuple[Value, ...]]
"""Knob, by its flat name, or `devices` -> the values that meet the condition."""


class Where(Record):
    """On which engines and models something is so. What is left out holds everywhere."""

    platforms: tuple[Platform, ...] = ()
    since: Bounds = {}
    before: Bounds = {}
    models: tuple[str, ...] = ()  # a `model_type` of a config.json, or dense, moe, hybrid
    not_models: tuple[str, ...] = ()
    not_builds: tuple[str, ...] = ()  # of vllm-ascend: A2, A3, 310P …


class _Case(Where):
    when: Conditions = {}  # all of these are met
    unless: tuple[Conditions, ...] = ()  # none of these alternatives may be met
    why: str


class Override(_Case):
    """The engine does not run what was asked: another value, or (`runs_as` none) whatever it would run anyway."""

    runs_as: Value | None = None


class Conflict(_Case):
    """The engine does not start, or goes wrong, with these values (none listed: with any)."""

    values: tuple[Value, ...] = ()


class Default(Where):
    """What runs where nothing is asked."""

    value: Value


class Knob(Record):
    """One thing that can be tuned, or once could.

    `since` and `gone` are the first release with it and the first without it, as far as releases were examined. For
    arguments of `vllm serve` they only choose the words: the engine itself says which it knows.
    """

    target: Kind
    name: str
    type: Literal["int", "float", "bool", "text"]
    choices: tuple[Value, ...] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    default: Value | None = None
    defaults: tuple[Default, ...] = ()  # the first that holds wins over `default`
    platforms: tuple[Platform, ...] = ()  # elsewhere it does nothing; empty: all
    since: Bounds = {}
    gone: Bounds = {}
    successor: str = Field(default="", description="What to use instead of one that is gone.")
    search: str = Field(default="", description="What is worth searching; empty: better left alone.")
    effect: str
    risk: str = ""
    overrides: tuple[Override, ...] = ()
    conflicts: tuple[Conflict, ...] = ()

    @model_validator(mode="after")
    def _says_what_to_do_instead(self) -> "Knob":
        if bool(self.gone) != bool(self.successor):
            raise ValueError(f"{self.flat}: a knob that is gone, and no other, names its successor")
        return self

    @property
    def flat(self) -> str:
        """Its name among all targets, see `flat_name`."""
        return flat_name(self.target, self.name)


def flat_name(kind: str, name: str) -> str:
    """One name for a target: `max_num_seqs`, `TASK_QUEUE_ENABLE`, `compilation_config.cudagraph_mode`."""
    return name if kind in ("argument", "environment") else f"{kind}.{name}"


@cache
def knobs() -> dict[str, Knob]:
    """The whole catalogue by flat name, in the order of the file."""
    text = resources.files("autotune.search_space.catalogue").joinpath("knobs.yaml").read_text(encoding="utf-8")
    found = [Knob.model_validate(entry) for entry in yaml.safe_load(text)]
    return {knob.flat: knob for knob in found}


def find(kind: str, name: str) -> Knob | None:
    """The catalogue's entry of a target; None when it has none of that kind."""
    knob = knobs().get(flat_name(kind, name))
    return knob if knob is not None and knob.target == kind else None
