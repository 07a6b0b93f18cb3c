"""A load level played in virtual time: the same plan as over HTTP, the same records, no waiting."""

import math
from collections.abc import Iterator

from autotune.engines.simulated.core import Core
from autotune.engines.simulated.scheduler import Request, block_hashes
from autotune.level_run import LevelRun, LevelWatch, RequestRecord
from autotune.workload import LevelPlan, PlannedRequest


def play(core: Core, plan: LevelPlan, watch: LevelWatch) -> LevelRun:
    """Send every request of the plan to the engine and return one record each, in the plan's order.

    What `loadgen.run_level` does over HTTP: open loop at the offsets, closed loop as slots become free; a request that
    is not answered within the plan's time-out fails. The level starts where the engine's time line has come to. When
    `watch` stops it, only the requests that had finished are returned.
    """
    level = _Level(core, plan)
    while level.unfinished and not watch.stopped():
        level.advance()
        watch.report(len(level.records), len(plan.requests))
    return LevelRun(tuple(sorted(level.records, key=lambda record: record.index)), planned=len(plan.requests))


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


class _Level:
    """One level while it is played."""

    def __init__(self, core: Core, plan: LevelPlan) -> None:
        self.records: list[RequestRecord] = []
        self._core, self._plan = core, plan
        self._start_s = core.now_s
        self._open: dict[int, tuple[PlannedRequest, Request]] = {}  # by number, in order of arrival
        self._planned: Iterator[PlannedRequest] = iter(plan.requests)
        if plan.max_concurrency is None or plan.is_open_loop:
            for request in plan.requests:
                self._send(request, self._start_s + request.offset_s)
        else:
            for _ in range(plan.max_concurrency):
                self._send_next(self._start_s)

    @property
    def unfinished(self) -> bool:
        """Whether answers are outstanding."""
        return bool(self._open)

    def advance(self) -> None:
        """One step of the engine, or several that are alike, and what follows from them."""
        core = self._core
        end_s = core.begin()
        if end_s is None:  # all that is outstanding was refused or timed out
            self._expire(math.inf)
            return
        finished = core.end(end_s).finished
        self._expire(end_s)
        for request in finished:
            if request.number in self._open:  # else its last token came too late
                self._finish(request)
        core.skip(min(self._next_arrival_s(), self._deadline_s()))
        self._expire(core.now_s)

    def _send(self, planned: PlannedRequest, arrival_s: float) -> None:
        launch = self._core.launch
        if len(planned.prompt) + planned.max_tokens > launch.max_model_len:
            longest = launch.max_model_len
            error = f"HTTP 400: This model's maximum context length is {longest} tokens."
            self._record(planned, arrival_s, arrival_s, [], error)
            return
        limits = launch.limits
        request = Request(
            number=self._core.new_number(),
            arrival_s=arrival_s,
            prompt_tokens=len(planned.prompt),
            max_tokens=planned.max_tokens,
            hashes=block_hashes(planned.prompt, limits.block_size) if limits.prefix_caching else (),
        )
        self._open[request.number] = planned, request
        self._core.submit(request)

    def _send_next(self, now_s: float) -> None:
        """A user of the closed loop sends the next request; those that are refused are refused at once."""
        opened = len(self._open)
        for planned in self._planned:
            self._send(planned, now_s)
            if len(self._open) > opened:
                return

    def _finish(self, request: Request) -> None:
        planned, _ = self._open.pop(request.number)
        self._record(planned, request.arrival_s, request.token_times_s[-1], request.token_times_s, None)
        if self._plan.max_concurrency is not None:
            self._send_next(request.token_times_s[-1])

    def _next_arrival_s(self) -> float:
        """When somebody arrives who could be admitted; in the past, if the engine has only not looked yet."""
        core = self._core
        full = len(core.state.running) >= core.launch.limits.max_num_seqs
        return math.inf if full else core.next_arrival_s

    def _deadline_s(self) -> float:
        for _, request in self._open.values():
            return request.arrival_s + self._plan.request_timeout_s
        return math.inf

    def _expire(self, now_s: float) -> None:
        """Fail the requests whose time is over, also if the last token came later in the same step; the engine drops
        them. Users of a closed loop send the next request at the deadline, as they do over HTTP.
        """
        while self._open and (deadline_s := self._deadline_s()) <= now_s:
            number, (planned, request) = next(iter(self._open.items()))
            if request.finished and request.token_times_s[-1] <= deadline_s:
                return  # on the dot
            del self._open[number]
            self._core.drop([request])
            given = [time_s for time_s in request.token_times_s if time_s <= deadline_s]
            error = f"no complete answer within {self._plan.request_timeout_s:g} s"
            self._record(planned, request.arrival_s, deadline_s, given, error)
            if self._plan.max_concurrency is not None:
                self._send_next(deadline_s)

    def _record(
        self, planned: PlannedRequest, sent_s: float, end_s: float, token_times_s: list[float], error: str | None
    ) -> None:
        start_s = self._start_s
        self.records.append(
            RequestRecord(
                index=planned.index,
                scheduled_s=sent_s - start_s,
                sent_s=sent_s - start_s,
                token_times_s=tuple([time_s - start_s for time_s in token_times_s]),
                end_s=end_s - start_s,
                input_tokens=0 if error else len(planned.prompt),
                output_tokens=0 if error else planned.max_tokens,
                requested_tokens=planned.max_tokens,
                error=error,
            )
        )
