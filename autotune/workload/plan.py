"""What is sent at one load level.

A plan is frozen: the same workload, level and seed give the same prompts, lengths and arrival pattern to every
configuration (common random numbers), so that trials differ by their configuration and not by their luck.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotune.results import Load
from autotune.workload.arrival import ClosedLoop, Replay, offsets_s
from autotune.workload.source import Source, draw_prompt, streams
from autotune.workload.tokens import draw_lengths
from autotune.workload.workload import Level, Workload

WARMUP_CONCURRENCY = 8  # requests in flight per device: several sequences in a batch, whatever the ladder offers
CLOSED_LOOP_TURNS = 2  # requests per slot at least, else a level never holds the concurrency it is named after

_LEVEL, _WARMUP = 1, 2  # independent random streams of one seed


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request to send: `offset_s` after the level's start (closed loop: 0, as soon as a slot is free).

    A request that `follows` another, a later turn of a conversation, is scheduled `pause_s` after that one's end.
    """

    index: int
    offset_s: float
    prompt: tuple[int, ...]
    max_tokens: int
    follows: int | None = None  # index of the turn before
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """Everything that is sent at one load level."""

    load: Load  # per device, as the ladder says it
    requests: tuple[PlannedRequest, ...]
    max_concurrency: int | None  # requests in flight at most, over all devices; None: any number
    request_timeout_s: float
    seed: int

    @property
    def is_open_loop(self) -> bool:
        """Whether requests come at their offsets; else `max_concurrency` users send one after the other."""
        return self.load.kind != "max_concurrency"


def plan_level(workload: Workload, level: Level, *, devices: int, seed: int, source: Source) -> LevelPlan:
    """What is sent at a level of the ladder to an engine on `devices` devices.

    The same arguments give the same plan on every machine; prompts and lengths do not depend on `devices`. Prompts of
    other levels and seeds have nothing in common beyond the shared prefix, which is the same for all.
    """
    arrival, total = workload.arrival, level.value * devices
    rngs = streams(seed, _LEVEL, level.trace)
    count = _request_count(workload, total)
    if isinstance(arrival, ClosedLoop | Replay):
        at_s = np.zeros(count)
        in_flight: int | None = int(total)
    else:
        at_s = offsets_s(arrival, count, total, rngs[0])
        in_flight = arrival.max_concurrency and arrival.max_concurrency * devices
    return LevelPlan(
        load=Load(kind=workload.load_kind, value=level.value),
        requests=_requests(source, at_s.tolist(), rngs[1:]),
        max_concurrency=in_flight,
        request_timeout_s=workload.request_timeout_s,
        seed=seed,
    )


def plan_warmup(workload: Workload, *, devices: int, seed: int, source: Source) -> LevelPlan:
    """What is sent before the first level: a closed loop, so that it takes no longer on a slow ladder."""
    at_s = [0.0] * workload.warmup_requests
    return LevelPlan(
        load=Load(kind="max_concurrency", value=WARMUP_CONCURRENCY),
        requests=_requests(source, at_s, streams(seed, _WARMUP, 0)[1:]),
        max_concurrency=WARMUP_CONCURRENCY * devices,
        request_timeout_s=workload.request_timeout_s,
        seed=seed,
    )


def _requests(source: Source, at_s: Sequence[float], rngs: Sequence[np.random.Generator]) -> tuple[PlannedRequest, ...]:
    input_rng, output_rng, token_rng = rngs
    dataset = source.dataset
    inputs = draw_lengths(dataset.input_tokens, len(at_s), input_rng)
    outputs = draw_lengths(dataset.output_tokens, len(at_s), output_rng)
    return tuple(
        PlannedRequest(index, offset_s, source.prefix + draw_prompt(source.token_ids, length, token_rng), max_tokens)
        for index, (offset_s, length, max_tokens) in enumerate(zip(at_s, inputs, outputs, strict=True))
    )


def _request_count(workload: Workload, total: float) -> int:
    """Requests of a level with the load `total` over all devices."""
    closed = isinstance(workload.arrival, ClosedLoop)
    needed = CLOSED_LOOP_TURNS * total if closed else workload.min_level_duration_s * total
    return max(workload.requests_per_level, math.ceil(needed))
