"""A load level played in virtual time: the same plan as over HTTP, the same records, no waiting."""

import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass

from autotune.engines.simulated.core import Core, Done
from autotune.engines.simulated.scheduler import Request, block_hashes
from autotune.level_run import OUT_OF_REACH, Hopeless, LevelRun, LevelWatch, Overdue, RequestRecord
from autotune.workload import LevelPlan, PlannedRequest


def play(core: Core, plan: LevelPlan, watch: LevelWatch) -> LevelRun:
    """Send every request of the plan to the engine and return one record each, in the plan's order.

    What `loadgen.run_level` does over HTTP: open loop at the offsets, also with `max_concurrency`; closed loop as users
    become free; conversations turn after turn; a request that is not answered within the plan's time-out fails. The
    level starts where the engine's time line has come to. When `watch` stops it, only the requests that had finished
    are returned. A broken rule of `watch.hopeless` ends it at the step of the engine in which it is broken.
    """
    level = _Level(core, plan, watch.hopeless)
    aborted = False
    while level.unfinished and not aborted and not watch.stopped():
        level.advance()
        aborted = level.unfinished and level.give_up()
        watch.report(len(level.records), len(plan.requests))
    records = sorted(level.records, key=lambda record: record.index)
    return LevelRun(tuple(records), planned=len(plan.requests), aborted=aborted)


def counters(core: Core) -> dict[str, float]:
    """The engine's counters now, under the names that `engines.readback.counters` gives those of `/metrics`."""
    state, totals = core.state, core.totals
    return {
        "preemptions": state.preemptions,
        "prompt_tokens": totals.prompt_tokens,
        "generation_tokens": totals.generation_tokens,
        "prefix_cache_queries": state.cache_queries,
        "prefix_cache_hits": state.cache_hits,
        "queue_time_s": totals.queue_s,
        "queue_count": totals.queued,
        "prefill_time_s": totals.prefill_s,
        "prefill_count": totals.prefilled,
        "iteration_tokens": totals.step_tokens,
        "iterations": totals.steps,
        "kv_cache_usage": state.pool.used / max(1, state.pool.size),
        "requests_running": len(state.running),
        "requests_waiting": len(state.waiting) + core.expected,
    }


@dataclass(slots=True)
class _Flight:
    """A request from its scheduled time to its end; times on the engine's time line."""

    planned: PlannedRequest
    scheduled_s: float
    free_s: float | None = None  # when a place was free for it; None: it waited for none
    request: Request | None = None  # None while it waits for a place

    @property
    def sent_s(self) -> float:
        return self.scheduled_s if self.free_s is None else self.free_s


class _Level:
    """One level while it is played. What users do is worked off in the order of time, between the engine's steps."""

    def __init__(self, core: Core, plan: LevelPlan, rules: tuple[Hopeless, ...]) -> None:
        self.records: list[RequestRecord] = []
        self._core, self._plan = core, plan
        self._start_s = core.now_s
        self._coming: list[tuple[float, int, PlannedRequest]] = []  # a heap by time, then in order of its making
        self._order = itertools.count()
        self._open: dict[int, _Flight] = {}  # by the engine's number, in order of sending
        self._line: deque[_Flight] = deque()  # of requests that wait for a place
        self._overdue = Overdue(rules) if rules else None
        self._next_turns = {request.follows: request for request in plan.requests if request.follows is not None}
        firsts = [request for request in plan.requests if request.follows is None]
        self._free_users = iter(()) if plan.is_open_loop else iter(firsts)  # what they have not begun yet
        if plan.is_open_loop:
            for request in firsts:
                self._plan_for(self._start_s + request.offset_s, request)
        else:
            for request in itertools.islice(self._free_users, plan.max_concurrency):
                self._plan_for(self._start_s, request)

    @property
    def unfinished(self) -> bool:
        """Whether answers are outstanding, or questions."""
        return bool(self._open or self._coming)

    def advance(self) -> None:
        """One step of the engine, or several that are alike, and what follows from them."""
        core = self._core
        while self._coming and self._coming[0][0] <= self._reached_s():
            self._arrive()
        end_s = core.begin()
        if end_s is None:
            self._wait()
            return
        done = core.end(end_s)
        self._tell_first_tokens(done)
        self._expire(end_s)
        self._arrive_until(end_s)
        for request in done.finished:
            if request.number in self._open:  # else its last token came too late
                self._finish(request)
        self._arrive_until(end_s)
        core.skip(min(self._next_arrival_s(), self._deadline_s(), self._next_overdue_s()))
        self._expire(core.now_s)

    def give_up(self) -> bool:
        """Whether the SLA is out of reach; then what is beyond a limit is recorded, and the engine drops the rest."""
        now_s = self._core.now_s
        if self._overdue is None or not self._overdue.out_of_reach(now_s - self._start_s):
            return False
        for flight in (*self._open.values(), *self._line):
            if flight.planned.index in self._overdue.beyond:
                if flight.request is None:
                    flight.free_s = now_s  # as if it were sent now
                given = flight.request.token_times_s if flight.request else []
                self._record(flight, now_s, given, OUT_OF_REACH, unfinished=True)
        self._core.drop([flight.request for flight in self._open.values() if flight.request])
        return True

    def _plan_for(self, at_s: float, planned: PlannedRequest) -> None:
        heapq.heappush(self._coming, (at_s, next(self._order), planned))

    def _reached_s(self) -> float:
        """Until when the engine cannot do anything before somebody arrives."""
        core = self._core
        return core.now_s if core.state.busy else max(core.now_s, core.next_arrival_s)

    def _arrive_until(self, now_s: float) -> None:
        while self._coming and self._coming[0][0] <= now_s:
            self._arrive()

    def _arrive(self) -> None:
        """The next request is due: it is sent, or waits for a place."""
        scheduled_s, _, planned = heapq.heappop(self._coming)
        flight = _Flight(planned, scheduled_s)
        if self._overdue is not None:
            self._overdue.scheduled(planned.index, scheduled_s - self._start_s)
        if self._full:
            self._line.append(flight)
        else:
            self._send(flight)

    @property
    def _full(self) -> bool:
        """Whether a request of the open loop must wait for a place."""
        places = self._plan.max_concurrency if self._plan.is_open_loop else None
        return places is not None and len(self._open) >= places

    def _send(self, flight: _Flight) -> None:
        launch, planned = self._core.launch, flight.planned
        if len(planned.prompt) + planned.max_tokens > launch.max_model_len:
            error = f"HTTP 400: This model's maximum context length is {launch.max_model_len} tokens."
            self._end(flight, flight.sent_s, [], error)  # it took no place
            return
        limits = launch.limits
        flight.request = Request(
            number=self._core.new_number(),
            arrival_s=flight.sent_s,
            prompt_tokens=len(planned.prompt),
            max_tokens=planned.max_tokens,
            hashes=block_hashes(planned.prompt, limits.block_size) if limits.prefix_caching else (),
        )
        self._open[flight.request.number] = flight
        self._core.submit(flight.request)

    def _finish(self, request: Request) -> None:
        flight = self._open.pop(request.number)
        self._end(flight, request.token_times_s[-1], request.token_times_s, None)
        self._free_place(request.token_times_s[-1])

    def _end(self, flight: _Flight, end_s: float, token_times_s: list[float], error: str | None) -> None:
        """A request is over, and whoever follows it has a time."""
        record = self._record(flight, end_s, token_times_s, error)
        if self._overdue is not None:
            self._overdue.ended(record)
        if (turn := self._next_turns.get(flight.planned.index)) is not None:
            self._plan_for(end_s + turn.pause_s, turn)
        elif (first := next(self._free_users, None)) is not None:
            self._plan_for(end_s, first)

    def _free_place(self, at_s: float) -> None:
        while self._line and not self._full:
            flight = self._line.popleft()
            flight.free_s = at_s
            self._send(flight)

    def _wait(self) -> None:
        """Nothing can be computed: until somebody comes or gives up."""
        until_s = min(self._deadline_s(), self._coming[0][0] if self._coming else math.inf)
        if until_s < math.inf:
            self._core.now_s = max(self._core.now_s, until_s)
            self._expire(until_s)

    def _next_arrival_s(self) -> float:
        """When somebody arrives who could be admitted; in the past, if the engine has only not looked yet."""
        core = self._core
        if len(core.state.running) >= core.launch.limits.max_num_seqs:
            return math.inf
        return min(core.next_arrival_s, self._coming[0][0] if self._coming else math.inf)

    def _next_overdue_s(self) -> float:
        return math.inf if self._overdue is None else self._start_s + self._overdue.next_s

    def _tell_first_tokens(self, done: Done) -> None:
        if self._overdue is None:
            return
        for request in done.answered:
            if len(request.token_times_s) == 1 and request.number in self._open:
                self._overdue.first_token(self._open[request.number].planned.index, done.end_s - self._start_s)

    def _deadline_s(self) -> float:
        for flight in self._open.values():
            return flight.sent_s + self._plan.request_timeout_s
        return math.inf

    def _expire(self, now_s: float) -> None:
        """Fail the requests whose time is over, also if the last token came later in the same step; the engine drops
        them. What follows from that happens at the deadline, as it does over HTTP.
        """
        while self._open and (deadline_s := self._deadline_s()) <= now_s:
            number, flight = next(iter(self._open.items()))
            request = flight.request
            assert request is not None
            if request.finished and request.token_times_s[-1] <= deadline_s:
                return  # on the dot
            self._arrive_until(deadline_s)
            del self._open[number]
            self._core.drop([request])
            given = [time_s for time_s in request.token_times_s if time_s <= deadline_s]
            self._end(flight, deadline_s, given, f"no complete answer within {self._plan.request_timeout_s:g} s")
            self._free_place(deadline_s)

    def _record(
        self,
        flight: _Flight,
        end_s: float,
        token_times_s: list[float],
        error: str | None,
        *,
        unfinished: bool = False,
    ) -> RequestRecord:
        start_s, planned = self._start_s, flight.planned
        record = RequestRecord(
            index=planned.index,
            scheduled_s=flight.scheduled_s - start_s,
            sent_s=flight.sent_s - start_s,
            token_times_s=tuple([time_s - start_s for time_s in token_times_s]),
            end_s=end_s - start_s,
            input_tokens=0 if error else len(planned.prompt),
            output_tokens=0 if error else planned.max_tokens,
            requested_tokens=planned.max_tokens,
            error=error,
            free_s=None if flight.free_s is None else flight.free_s - start_s,
            unfinished=unfinished,
        )
        self.records.append(record)
        return record
