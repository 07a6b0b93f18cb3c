"""What can be tuned: typed parameters, where each one goes, and its ordered levels."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, StringConstraints, TypeAdapter, model_validator

from autotune.engine_config import Value
from autotune.records import Record

MAX_LEVELS = 16  # the sampler's acquisition is one batched evaluation up to here, a slow line search above
SPECIAL = ("auto", "default")  # the value is not given at all: the engine decides

_PLAIN_LIST: TypeAdapter[list[Value]] = TypeAdapter(
    list[bool | int | Annotated[float, Field(allow_inf_nan=False)] | str], config=ConfigDict(strict=True)
)
_SHOWN = 60  # characters of a value in a message

T = TypeVar("T")

ParameterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
When = dict[ParameterName, Value | tuple[Value, ...]]


class ArgumentTarget(Record):
    """An argument of `vllm serve`, spelled as in Python (`max_num_seqs`)."""

    kind: Literal["argument"] = "argument"
    name: str | None = Field(default=None, description="Default: the parameter's own name.")


class EnvironmentTarget(Record):
    """An environment variable of the engine."""

    kind: Literal["environment"]
    name: str | None = Field(default=None, description="Default: the parameter's own name.")


class ConfigTarget(Record):
    """A key inside `--additional-config` (vllm-ascend's own), `--compilation-config` or `--speculative-config`.

    Text in brackets becomes a list: `"[1, 2, 4, 8]"`.
    """

    kind: Literal["additional_config", "compilation_config", "speculative_config"]
    name: str | None = Field(default=None, description="A key, dotted to go deeper. Default: the parameter's own name.")


Target = Annotated[ArgumentTarget | EnvironmentTarget | ConfigTarget, Field(discriminator="kind")]


class _Common(Record):
    target: Target = ArgumentTarget()
    when: When = Field(default={}, description="Active only while other parameters have these values.")
    description: str = ""


class IntParameter(_Common):
    """Whole numbers: explicit `values`, or `low` to `high` in steps or on a log grid; `special` values come first."""

    type: Literal["int"]
    values: Annotated[tuple[int, ...], Field(max_length=MAX_LEVELS)] = ()
    low: int | None = None
    high: int | None = None
    step: PositiveInt | None = None
    log: bool = False
    special: Annotated[tuple[Literal["auto", "default"], ...], Field(max_length=1)] = ()

    @model_validator(mode="after")
    def _is_one_of_two_forms(self) -> "IntParameter":
        if self.values:
            if self.low is not None or self.high is not None or self.step or self.log:
                raise ValueError("give either values, or low and high with step or log, not both")
            if list(self.values) != sorted(set(self.values)):
                raise ValueError(f"values: must rise, not {list(self.values)}")
            if len(self.values) + len(self.special) > MAX_LEVELS:
                raise ValueError(f"values: at most {MAX_LEVELS} levels, the special one included")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs values, or low and high")
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.log and (self.step or self.low < 1):
            raise ValueError("a log grid starts at 1 or above and has no step")
        return self


class FloatParameter(_Common):
    """Numbers from `low` to `high`, in steps; without a step 16 even levels."""

    type: Literal["float"]
    low: float
    high: float
    step: PositiveFloat | None = None

    @model_validator(mode="after")
    def _rises(self) -> "FloatParameter":
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self


class CategoricalParameter(_Common):
    """A choice; `ordered` when neighbours in the list behave alike. `auto` or `default` means: not given."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Value, ...], Field(min_length=2, max_length=MAX_LEVELS)]
    ordered: bool = False

    @model_validator(mode="after")
    def _has_lists_that_can_be_read(self) -> "CategoricalParameter":
        _check_lists(self.target, self.choices)
        return self

    @model_validator(mode="after")
    def _is_free_of_repeats(self) -> "CategoricalParameter":
        for index, choice in enumerate(self.choices):
            if any(same(choice, other) for other in self.choices[:index]):
                raise ValueError(f"choices: {choice!r} is listed twice")
        return self


class BoolParameter(_Common):
    """A flag: `--name` or `--no-name`."""

    type: Literal["bool"]


class FixedParameter(_Common):
    """Not tuned: given to every launch, the baseline included."""

    type: Literal["fixed"]
    value: Value

    @model_validator(mode="after")
    def _is_a_list_that_can_be_read(self) -> "FixedParameter":
        _check_lists(self.target, (self.value,))
        return self


Parameter = Annotated[
    IntParameter | FloatParameter | CategoricalParameter | BoolParameter | FixedParameter, Field(discriminator="type")
]


def same(left: object, right: object) -> bool:
    """Equality that does not take True for 1."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def is_special(value: object) -> bool:
    """Whether the value means "not given"."""
    return isinstance(value, str) and value in SPECIAL


def is_ordered(parameter: Parameter) -> bool:
    """Whether neighbouring levels behave alike, so that a sampler may use their order."""
    return isinstance(parameter, IntParameter | FloatParameter) or (
        isinstance(parameter, CategoricalParameter) and parameter.ordered
    )


def levels(parameter: Parameter) -> tuple[Value, ...]:
    """The values the search may take: at most 16, special ones first, numbers rising; a fixed parameter has one.

    A log range between two powers of two consists of powers of two. A finer grid than fits is
    thinned evenly, both ends kept.
    """
    match parameter:
        case FixedParameter():
            return (parameter.value,)
        case BoolParameter():
            return (False, True)
        case CategoricalParameter():
            return parameter.choices
        case FloatParameter():
            return _float_levels(parameter)
        case IntParameter():
            return (*parameter.special, *(parameter.values or _int_levels(parameter)))


def _int_levels(parameter: IntParameter) -> tuple[int, ...]:
    low, high = parameter.low, parameter.high
    assert low is not None
    assert high is not None
    room = MAX_LEVELS - len(parameter.special)
    if not parameter.log:
        return _thinned(range(low, high + 1, parameter.step or 1), room)
    if low.bit_count() == high.bit_count() == 1:
        return _thinned([1 << exponent for exponent in range(low.bit_length() - 1, high.bit_length())], room)
    ratio = high / low
    return tuple(sorted({round(low * ratio ** (index / (room - 1))) for index in range(room)}))


def _float_levels(parameter: FloatParameter) -> tuple[float, ...]:
    step = parameter.step or (parameter.high - parameter.low) / (MAX_LEVELS - 1)
    count = math.floor((parameter.high - parameter.low) / step + 1e-9) + 1  # 0.94 is 0.85 + 9 x 0.01, almost
    return _thinned([round(parameter.low + index * step, 10) for index in range(count)], MAX_LEVELS)


def _thinned(grid: Sequence[T], room: int) -> tuple[T, ...]:
    if len(grid) <= room:
        return tuple(grid)
    return tuple(grid[round(index * (len(grid) - 1) / (room - 1))] for index in range(room))


def problem_of(parameter: Parameter, value: Value) -> str:
    """Why a value is not allowed; empty when it is a level or a number within the range."""
    if any(same(value, level) for level in levels(parameter)):
        return ""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(parameter, FloatParameter) and numeric:
        inside = parameter.low <= float(value) <= parameter.high
        return "" if inside else f"{value} is not within {parameter.low:g} to {parameter.high:g}"
    if isinstance(parameter, IntParameter) and parameter.low is not None and parameter.high is not None:
        inside = isinstance(value, int) and numeric and parameter.low <= value <= parameter.high
        return "" if inside else f"{value} is not a whole number within {parameter.low} to {parameter.high}"
    return f"{value} is not one of the levels {', '.join(map(_written, levels(parameter)))}"


def _written(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_lists(target: Target, values: Sequence[Value]) -> None:
    if isinstance(target, ConfigTarget):
        for value in values:
            config_value(value)


def config_value(value: Value) -> Value | list[Value]:
    """What a key of a config document gets: text in brackets is a JSON list of numbers, flags or texts.

    Raises ValueError when it is none.
    """
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return value
    try:
        return _PLAIN_LIST.validate_json(value)
    except ValueError as exc:
        raise ValueError(
            f"{value[:_SHOWN]}: begins like a list and is no JSON list of numbers, true, false and texts"
        ) from exc


def place(name: str, parameter: Parameter) -> tuple[str, str]:
    """Kind and name of a parameter's target, its own name filled in: `("argument", "max_num_seqs")`."""
    return parameter.target.kind, parameter.target.name or name
