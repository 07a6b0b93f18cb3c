"""The traffic a job is measured with: what is sent, how it arrives, and the ladder of load levels.

A plan is frozen: the same workload, level and seed give the same prompts, lengths and arrival pattern to every
configuration (common random numbers), so that trials differ by their configuration and not by their luck.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from autotune.records import Record
from autotune.results import Load

WARMUP_CONCURRENCY = 8  # requests in flight per device: several sequences in a batch, whatever the ladder offers
CLOSED_LOOP_TURNS = 2  # requests per slot at least, else a level never holds the concurrency it is named after

_PREFIX, _LEVEL, _WARMUP = range(3)  # independent random streams of one seed


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


class Synthetic(Record):
    """Random token ids of given lengths."""

    kind: Literal["synthetic"]
    input_tokens: Tokens
    output_tokens: Tokens
    shared_prefix_tokens: Annotated[
        int, Field(ge=0, description="Tokens in front of every prompt, the same for all (a system prompt).")
    ] = 0


class Poisson(Record):
    """Independent users: exponential gaps between requests."""

    kind: Literal["poisson"]


class Gamma(Record):
    """Gamma-distributed gaps, as `vllm bench serve --burstiness`: below 1 in bursts, above 1 more even."""

    kind: Literal["gamma"]
    burstiness: Annotated[float, Field(ge=0.01)]


class Constant(Record):
    """Equal gaps between requests."""

    kind: Literal["constant"]


class ClosedLoop(Record):
    """A fixed number of users, each of whom sends the next request when the last one is answered."""

    kind: Literal["closed_loop"]


Arrival = Annotated[Poisson | Gamma | Constant | ClosedLoop, Field(discriminator="kind")]


class Workload(Record):
    """Traffic, as its file describes it."""

    version: Literal[1]
    name: str
    description: str = ""
    dataset: Synthetic
    arrival: Arrival
    levels: Annotated[
        tuple[PositiveFloat, ...],
        Field(
            min_length=1,
            description="The load ladder, ascending: requests/s (closed loop: concurrent requests) per device.",
        ),
    ]
    requests_per_level: PositiveInt = Field(
        description="Requests of one level; a closed loop sends at least two per concurrent request."
    )
    warmup_requests: Annotated[int, Field(ge=0, description="Sent before the first level, not measured.")] = 0
    min_level_duration_s: Annotated[
        float, Field(ge=0, description="Open loop: requests are added until a level lasts so long.")
    ] = 0.0
    request_timeout_s: PositiveFloat = 300.0

    @model_validator(mode="after")
    def _levels_ascend(self) -> "Workload":
        for below, above in zip(self.levels, self.levels[1:], strict=False):
            if above <= below:
                raise ValueError(f"levels must ascend, but {above:g} follows {below:g}")
        return self

    @model_validator(mode="after")
    def _closed_loop_counts_users(self) -> "Workload":
        if not isinstance(self.arrival, ClosedLoop):
            return self
        fractions = [level for level in self.levels if not level.is_integer()]
        if fractions:
            raise ValueError(
                f"levels of a closed loop are concurrent requests and must be whole numbers, not {fractions[0]:g}"
            )
        if self.min_level_duration_s > 0:
            raise ValueError("min_level_duration_s is for open-loop arrivals; in a closed loop set requests_per_level")
        return self


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The token ids a model knows: 0 to size-1, of which `special_ids` are never sent."""

    size: int
    special_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request to send: `offset_s` after the level's start (closed loop: 0, as soon as a slot is free)."""

    index: int
    offset_s: float
    prompt: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """Everything that is sent at one load level."""

    load: Load  # per device, as the ladder says it
    requests: tuple[PlannedRequest, ...]
    max_concurrency: int | None  # total over all devices; None: open loop
    request_timeout_s: float
    seed: int


def max_total_tokens(workload: Workload) -> int:
    """The most tokens, input and output together, that one request can have."""
    data = workload.dataset
    return data.shared_prefix_tokens + data.input_tokens.max + data.output_tokens.max


def plan_level(workload: Workload, *, level: int, devices: int, seed: int, vocabulary: Vocabulary) -> LevelPlan:
    """What is sent at position `level` of the ladder to an engine on `devices` devices.

    The same arguments give the same plan on every machine; prompts and lengths do not depend on `devices`. Prompts of
    other levels and seeds have nothing in common beyond the shared prefix, which is the same for all.
    Raises IndexError when the ladder has no such level, ValueError when the vocabulary has no plain token.
    """
    value = workload.levels[level]
    closed = isinstance(workload.arrival, ClosedLoop)
    streams = _streams(seed, _LEVEL, level)
    count = _request_count(workload, value * devices)
    offsets_s = np.zeros(count) if closed else _offsets_s(workload.arrival, count, value * devices, streams[0])
    return LevelPlan(
        load=Load(kind="max_concurrency" if closed else "request_rate", value=value),
        requests=_requests(workload.dataset, offsets_s.tolist(), streams[1:], _prompt_source(workload, vocabulary)),
        max_concurrency=int(value) * devices if closed else None,
        request_timeout_s=workload.request_timeout_s,
        seed=seed,
    )


def plan_warmup(workload: Workload, *, devices: int, seed: int, vocabulary: Vocabulary) -> LevelPlan:
    """What is sent before the first level: a closed loop, so that it takes no longer on a slow ladder.

    Raises ValueError when the vocabulary has no plain token.
    """
    offsets_s = [0.0] * workload.warmup_requests
    streams = _streams(seed, _WARMUP, 0)
    return LevelPlan(
        load=Load(kind="max_concurrency", value=WARMUP_CONCURRENCY),
        requests=_requests(workload.dataset, offsets_s, streams[1:], _prompt_source(workload, vocabulary)),
        max_concurrency=WARMUP_CONCURRENCY * devices,
        request_timeout_s=workload.request_timeout_s,
        seed=seed,
    )


@dataclass(frozen=True, slots=True)
class _PromptSource:
    token_ids: tuple[int, ...]  # shared int objects: a prompt costs eight bytes per token
    prefix: tuple[int, ...]


def _prompt_source(workload: Workload, vocabulary: Vocabulary) -> _PromptSource:
    token_ids = tuple(token for token in range(vocabulary.size) if token not in vocabulary.special_ids)
    if not token_ids:
        raise ValueError(f"a vocabulary of {vocabulary.size} tokens has no token that is not special")
    rng = _streams(0, _PREFIX, 0)[0]  # one prefix for every seed, as one service has one system prompt: always warm
    return _PromptSource(token_ids, _draw_prompt(token_ids, workload.dataset.shared_prefix_tokens, rng))


def _requests(
    dataset: Synthetic, offsets_s: Sequence[float], streams: Sequence[np.random.Generator], source: _PromptSource
) -> tuple[PlannedRequest, ...]:
    input_rng, output_rng, token_rng = streams
    inputs = _draw_lengths(dataset.input_tokens, len(offsets_s), input_rng)
    outputs = _draw_lengths(dataset.output_tokens, len(offsets_s), output_rng)
    return tuple(
        PlannedRequest(index, offset_s, source.prefix + _draw_prompt(source.token_ids, length, token_rng), max_tokens)
        for index, (offset_s, length, max_tokens) in enumerate(zip(offsets_s, inputs, outputs, strict=True))
    )


def _draw_prompt(token_ids: tuple[int, ...], length: int, rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(map(token_ids.__getitem__, rng.integers(len(token_ids), size=length).tolist()))


def _draw_lengths(tokens: Tokens, count: int, rng: np.random.Generator) -> list[int]:
    match tokens:  # not a dict from kind to function: here mypy proves that no kind is missing
        case FixedTokens():
            lengths = np.full(count, tokens.tokens)
        case UniformTokens():
            lengths = rng.integers(tokens.min, tokens.max, size=count, endpoint=True)
        case LognormalTokens():
            raw = tokens.median * np.exp(tokens.sigma * rng.standard_normal(count))
            lengths = np.clip(np.rint(raw), tokens.min, tokens.max).astype(np.int64)
    return [int(length) for length in lengths]


def _request_count(workload: Workload, total: float) -> int:
    """Requests of a level with the load `total` over all devices."""
    closed = isinstance(workload.arrival, ClosedLoop)
    needed = CLOSED_LOOP_TURNS * total if closed else workload.min_level_duration_s * total
    return max(workload.requests_per_level, math.ceil(needed))


def _offsets_s(arrival: Arrival, count: int, rate: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Arrival times, scaled so that the last request comes at count / rate whatever the draw was.

    As `vllm.benchmarks.serve.get_request` does it: else the true rate differs by some percent between seeds.
    """
    offsets: NDArray[np.float64] = np.cumsum(_unit_gaps(arrival, count, rng))
    scale_s = count / rate / float(offsets[-1])
    return offsets * scale_s


def _unit_gaps(arrival: Arrival, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    match arrival:
        case Poisson():
            return rng.standard_exponential(count)
        case Gamma():
            return rng.standard_gamma(arrival.burstiness, count)
        case Constant() | ClosedLoop():
            return np.ones(count)


def _streams(seed: int, stage: int, level: int) -> list[np.random.Generator]:
    """Independent generators for arrivals, input lengths, output lengths and tokens.

    One stream each, so that a level with more requests begins with the same ones. PCG64 by name: NumPy may change
    what `default_rng` is.
    """
    root = np.random.SeedSequence(seed, spawn_key=(stage, level))
    return [np.random.Generator(np.random.PCG64(child)) for child in root.spawn(4)]
