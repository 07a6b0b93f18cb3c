"""What is sent at one load level.

A plan is frozen: the same workload, level and seed give the same prompts, lengths and arrival pattern to every
configuration (common random numbers), so that trials differ by their configuration and not by their luck.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from autotune.results import Load
from autotune.workload.arrival import ClosedLoop, Replay, offsets_s
from autotune.workload.draw import LEVEL, WARMUP, Drawn, Need, Streams, streams
from autotune.workload.multi_turn import MultiTurnSource, draw_multi_turn
from autotune.workload.sharegpt import ShareGptSource, draw_sharegpt
from autotune.workload.source import Source
from autotune.workload.synthetic import SyntheticSource, draw_synthetic, draw_warmup
from autotune.workload.trace import TraceSource, draw_trace, recorded_s, rows_lasting, stretch
from autotune.workload.workload import Level, Workload

WARMUP_CONCURRENCY = 8  # requests in flight per device: several sequences in a batch, whatever the ladder offers
CLOSED_LOOP_TURNS = 2  # conversations per user at least, else a level never holds the concurrency it is named after


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request to send: `offset_s` after the level's start (closed loop: 0, as soon as a slot is free).

    A request that `follows` another, a later turn of a conversation, is scheduled `pause_s` after that one's end; its
    offset is that of the conversation's first turn.
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
    other levels and seeds begin with other tokens, but for shared prefixes, which are the same for all.
    """
    total = level.value * devices
    rngs = streams(seed, LEVEL, level.trace)
    source = _of_seed(source, seed)
    drawn = _drawn(source, _need(workload, total, source), rngs)
    return LevelPlan(
        load=Load(kind=workload.load_kind, value=level.value),
        requests=_scheduled(drawn, _starts_s(workload, total, source, drawn, rngs.arrivals)),
        max_concurrency=_in_flight(workload, total, devices),
        request_timeout_s=workload.request_timeout_s,
        seed=seed,
    )


def plan_warmup(workload: Workload, *, devices: int, seed: int, source: Source) -> LevelPlan:
    """What is sent before the first level: a closed loop, so that it takes no longer on a slow ladder."""
    need, rngs = Need(workload.warmup_requests), streams(seed, WARMUP)
    source = _of_seed(source, seed)
    drawn = draw_warmup(source, need, rngs) if isinstance(source, SyntheticSource) else _drawn(source, need, rngs)
    return LevelPlan(
        load=Load(kind="max_concurrency", value=WARMUP_CONCURRENCY),
        requests=_scheduled([turn.without_pause for turn in drawn], itertools.repeat(0.0)),
        max_concurrency=WARMUP_CONCURRENCY * devices,
        request_timeout_s=workload.request_timeout_s,
        seed=seed,
    )


def _of_seed(source: Source, seed: int) -> Source:
    """The source as one seed sees it: of a trace, a stretch."""
    return stretch(source, seed) if isinstance(source, TraceSource) else source


def _drawn(source: Source, need: Need, rngs: Streams) -> list[Drawn]:
    match source:
        case SyntheticSource():
            return draw_synthetic(source, need, rngs)
        case ShareGptSource():
            return draw_sharegpt(source, need, rngs)
        case TraceSource():
            return draw_trace(source, need, rngs)
        case MultiTurnSource():
            return draw_multi_turn(source, need, rngs)


def _need(workload: Workload, total: float, source: Source) -> Need:
    """What a level with the load `total` over all devices consists of."""
    asked, least_s = workload.requests_per_level, workload.min_level_duration_s
    if isinstance(workload.arrival, ClosedLoop):
        return Need(asked, conversations=math.ceil(CLOSED_LOOP_TURNS * total))
    if isinstance(workload.arrival, Replay):
        assert isinstance(source, TraceSource)
        return Need(max(asked, rows_lasting(source, least_s * total)))
    return Need(max(asked, math.ceil(least_s * total)))


def _starts_s(
    workload: Workload, total: float, source: Source, drawn: Sequence[Drawn], rng: np.random.Generator
) -> Iterable[float]:
    """When each conversation begins; a request that follows none begins one."""
    conversations = sum(turn.follows is None for turn in drawn)
    match workload.arrival:
        case ClosedLoop():
            return itertools.repeat(0.0)
        case Replay():
            assert isinstance(source, TraceSource)
            return (at_s / total for at_s in recorded_s(source))
        case arrival:
            starts_s: list[float] = offsets_s(arrival, conversations, len(drawn) / total, rng).tolist()
            return starts_s


def _scheduled(drawn: Sequence[Drawn], starts_s: Iterable[float]) -> tuple[PlannedRequest, ...]:
    starts = iter(starts_s)
    requests: list[PlannedRequest] = []
    for index, turn in enumerate(drawn):
        at_s = next(starts) if turn.follows is None else requests[turn.follows].offset_s
        requests.append(PlannedRequest(index, at_s, turn.prompt, turn.max_tokens, turn.follows, turn.pause_s))
    return tuple(requests)


def _in_flight(workload: Workload, total: float, devices: int) -> int | None:
    if isinstance(workload.arrival, ClosedLoop):
        return int(total)
    at_most = workload.arrival.max_concurrency
    return None if at_most is None else at_most * devices
