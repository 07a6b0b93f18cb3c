"""How long prompts and answers are."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from autotune.records import Record


class FixedTokens(Record):
    """Every request has the same length."""

    kind: Literal["fixed"]
    tokens: PositiveInt

    @property
    def max(self) -> int:
        """The largest length, in tokens."""
        return self.tokens


class UniformTokens(Record):
    """Every length from `min` to `max`, both included, is equally likely."""

    kind: Literal["uniform"]
    min: PositiveInt
    max: PositiveInt

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "UniformTokens":
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class LognormalTokens(Record):
    """Many short and few long requests: `median` x e^(`sigma` x N(0, 1)), cut off at `min` and `max`."""

    kind: Literal["lognormal"]
    median: PositiveFloat
    sigma: Annotated[float, Field(gt=0, le=4, description="Spread of log(length); chat traffic has about 1.")]
    min: PositiveInt = 1
    max: PositiveInt

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "LognormalTokens":
        if not self.min <= self.median <= self.max:
            raise ValueError(f"median {self.median:g} is not between min {self.min} and max {self.max}")
        return self


Tokens = Annotated[FixedTokens | UniformTokens | LognormalTokens, Field(discriminator="kind")]


def draw_lengths(tokens: Tokens, count: int, rng: np.random.Generator) -> list[int]:
    """`count` lengths in tokens."""
    match tokens:  # not a dict from kind to function: here mypy proves that no kind is missing
        case FixedTokens():
            lengths = np.full(count, tokens.tokens)
        case UniformTokens():
            lengths = rng.integers(tokens.min, tokens.max, size=count, endpoint=True)
        case LognormalTokens():
            raw = tokens.median * np.exp(tokens.sigma * rng.standard_normal(count))
            lengths = np.clip(np.rint(raw), tokens.min, tokens.max).astype(np.int64)
    return [int(length) for length in lengths]
