"""One load level while an instrument runs it: how it is watched, when it may end early, and what comes home."""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

OUT_OF_REACH = "the level was ended early: the SLA was out of reach"
"""The error of a request that was under way then, and late already."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request as the client saw it. Times are seconds on the client's monotonic clock, from the level's start."""

    index: int
    scheduled_s: float
    sent_s: float
    token_times_s: tuple[float, ...]  # arrival of each streamed chunk that carried tokens
    end_s: float
    input_tokens: int  # from the server's `usage`
    output_tokens: int  # from the server's `usage`
    requested_tokens: int
    error: str | None = None  # None: the request succeeded
    free_s: float | None = None  # when a place among `max_concurrency` was free; None: it waited for none
    unfinished: bool = False  # its level was ended early while it was under way, and late already

    @property
    def lag_s(self) -> float:
        """How much later it was sent than it could have been: the client's own delay."""
        return self.sent_s - max(self.scheduled_s, self.free_s or 0.0)


@dataclass(frozen=True, slots=True)
class ClientUse:
    """What a level cost the load generator, and how late it noticed things."""

    cpu_share: float = 0.0  # of one core, while the level ran
    pause_ms: float = 0.0  # P99 of the delay with which its event loop woke up


@dataclass(frozen=True, slots=True)
class Hopeless:
    """When a level may end early: as soon as more than `allowed` of its requests are beyond the limit."""

    metric: Literal["ttft", "e2el"]
    limit_s: float
    allowed: int


@dataclass(frozen=True, slots=True)
class LevelRun:
    """What an instrument brings home from one level: a record of every request that ended, in the plan's order."""

    records: tuple[RequestRecord, ...]
    client: ClientUse = ClientUse()
    planned: int = 0  # requests that the level consists of
    aborted: bool = False  # the SLA was out of reach, and the rest was not sent


@dataclass(frozen=True, slots=True)
class LevelWatch:
    """How the trial listens in on a level: it may stop it, hear its progress, and let it end early."""

    stopped: Callable[[], bool] = lambda: False
    report: Callable[[int, int], None] = lambda _done, _planned: None  # finished requests, all requests
    hopeless: tuple[Hopeless, ...] = ()


ROUNDING_S = 1e-9  # a latency is beyond a limit by more than what adding and scaling times may have changed


class Overdue:
    """Counts the requests of a running level that are beyond the limits of its rules, as events tell of them.

    Events come in any order of requests; times are seconds from the level's start. Work per request and rule is
    O(log requests) in all, and nothing is gone through again when somebody looks.
    """

    def __init__(self, rules: tuple[Hopeless, ...]) -> None:
        self._counts = [_Count(rule) for rule in rules]

    def scheduled(self, index: int, at_s: float) -> None:
        """A request is due: from now on its age counts, sent or not."""
        for count in self._counts:
            count.begin(index, at_s)

    def first_token(self, index: int, at_s: float) -> None:
        """The first token of a request is here."""
        for count in self._counts:
            if count.rule.metric == "ttft":
                count.came(index, at_s)

    def ended(self, record: RequestRecord) -> None:
        """A request was answered, or failed: then its latencies are infinite."""
        for count in self._counts:
            if record.error is not None:
                count.failed(record.index)
            else:
                count.came(record.index, record.token_times_s[0] if count.rule.metric == "ttft" else record.end_s)

    def out_of_reach(self, now_s: float) -> bool:
        """Whether more requests are beyond some limit than its rule allows."""
        broken = [count.at(now_s) > count.rule.allowed for count in self._counts]  # every rule looks: see `beyond`
        return any(broken)

    @property
    def beyond(self) -> frozenset[int]:
        """Indices of the requests that were beyond any limit when somebody last looked."""
        return frozenset().union(*(count.beyond for count in self._counts))

    @property
    def next_s(self) -> float:
        """No request gets beyond a limit by its age alone before this time."""
        return min((count.next_s for count in self._counts), default=math.inf)


class _Count:
    """The requests beyond the limit of one rule."""

    __slots__ = ("_ages", "_awaited", "beyond", "rule")

    def __init__(self, rule: Hopeless) -> None:
        self.rule = rule
        self.beyond: set[int] = set()
        self._awaited: dict[int, float] = {}  # index -> when it will be beyond the limit
        self._ages: list[tuple[float, int]] = []  # the same as a heap; whoever is no longer awaited is left in it

    @property
    def next_s(self) -> float:
        return self._ages[0][0] if self._ages else math.inf

    def begin(self, index: int, scheduled_s: float) -> None:
        late_s = scheduled_s + self.rule.limit_s + ROUNDING_S
        self._awaited[index] = late_s
        heapq.heappush(self._ages, (late_s, index))

    def came(self, index: int, at_s: float) -> None:
        if at_s > self._awaited.pop(index, math.inf):
            self.beyond.add(index)

    def failed(self, index: int) -> None:
        self._awaited.pop(index, None)
        self.beyond.add(index)

    def at(self, now_s: float) -> int:
        while self._ages and self._ages[0][0] < now_s:
            index = heapq.heappop(self._ages)[1]
            if index in self._awaited:
                self.beyond.add(index)
        return len(self.beyond)


def ended_early(records: Sequence[RequestRecord], hopeless: tuple[Hopeless, ...]) -> float | None:
    """When the rules would have ended a level that ran to its end (s from its start); None: they would not have.

    From the records of all its requests. A client that looks only now and then ends it at its next look.
    """
    times_s = [time_s for rule in hopeless if (time_s := _broken_s(records, rule)) is not None]
    early_s = min(times_s, default=math.inf)
    return early_s if early_s < max((record.end_s for record in records), default=0.0) else None


def _broken_s(records: Sequence[RequestRecord], rule: Hopeless) -> float | None:
    beyond_s = sorted([time_s for record in records if (time_s := _beyond_s(record, rule)) is not None])
    return beyond_s[rule.allowed] if len(beyond_s) > rule.allowed else None


def _beyond_s(record: RequestRecord, rule: Hopeless) -> float | None:
    """When a request was known to be beyond the limit: by its age, or by its failure."""
    late_s = record.scheduled_s + rule.limit_s + ROUNDING_S
    came_s = record.end_s if record.error is None else math.inf
    if rule.metric == "ttft" and record.token_times_s:
        came_s = record.token_times_s[0]
    if came_s <= late_s:
        return None if record.error is None else record.end_s
    return late_s if record.error is None else min(late_s, record.end_s)
