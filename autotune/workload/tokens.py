"""Distributions that workload files name: lengths of prompts and answers, turns of a conversation, time to think."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from autotune.records import Record


class FixedTokens(Record):
    """Every request has the same length."""

    kind: Literal["fixed"]
    tokens: PositiveInt

    @property
    def max(self) -> int:
        """The largest length, in tokens."""
        return self.tokens


class FixedTurns(Record):
    """Every conversation has the same number of turns."""

    kind: Literal["fixed"]
    turns: PositiveInt

    @property
    def max(self) -> int:
        """The largest number of turns."""
        return self.turns


class Uniform(Record):
    """Every whole number from `min` to `max`, both included, is equally likely."""

    kind: Literal["uniform"]
    min: PositiveInt
    max: PositiveInt

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "Uniform":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class Lognormal(Record):
    """Many small and few large numbers: `median` x e^(`sigma` x N(0, 1)), cut off at `min` and `max`."""

    kind: Literal["lognormal"]
    median: PositiveFloat
    sigma: Annotated[float, Field(gt=0, le=4, description="Spread of log(number); lengths of chat have about 1.")]
    min: PositiveInt = 1
    max: PositiveInt

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "Lognormal":
        if not self.min <= self.median <= self.max:
            raise ValueError(f"median {self.median:g} is not between min {self.min} and max {self.max}")
        return self


Tokens = Annotated[FixedTokens | Uniform | Lognormal, Field(discriminator="kind")]
Turns = Annotated[FixedTurns | Uniform | Lognormal, Field(discriminator="kind")]


def draw_numbers(numbers: Tokens | Turns, count: int, rng: np.random.Generator) -> list[int]:
    """`count` lengths in tokens, or numbers of turns; more of them begin with the same ones."""
    match numbers:  # not a dict from kind to function: here mypy proves that no kind is missing
        case FixedTokens() | FixedTurns():
            drawn = np.full(count, numbers.max)
        case Uniform():
            drawn = rng.integers(numbers.min, numbers.max, size=count, endpoint=True)
        case Lognormal():
            raw = numbers.median * np.exp(numbers.sigma * rng.standard_normal(count))
            drawn = np.clip(np.rint(raw), numbers.min, numbers.max).astype(np.int64)
    return [int(number) for number in drawn]


class ConstantTime(Record):
    """Always the same time."""

    kind: Literal["constant"]
    value: NonNegativeFloat


class ExponentialTime(Record):
    """Mostly short and sometimes long, without an upper bound."""

    kind: Literal["exponential"]
    mean: PositiveFloat


Seconds = Annotated[ConstantTime | ExponentialTime, Field(discriminator="kind")]


def draw_seconds(seconds: Seconds, count: int, rng: np.random.Generator) -> list[float]:
    """`count` times, in seconds; more of them begin with the same ones."""
    match seconds:
        case ConstantTime():
            return [seconds.value] * count
        case ExponentialTime():
            drawn: list[float] = (seconds.mean * rng.standard_exponential(count)).tolist()
            return drawn
