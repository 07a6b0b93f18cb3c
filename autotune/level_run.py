"""One load level while an instrument runs it: how it is watched, and the records that come home."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


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
