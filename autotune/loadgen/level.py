"""One level while it runs: when each request is sent, and what became of it."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import aiohttp

from autotune.level_run import OUT_OF_REACH, ClientUse, LevelWatch, Overdue, RequestRecord
from autotune.loadgen.client_use import Meter
from autotune.loadgen.endpoint import open_connections
from autotune.loadgen.exchange import TimedOut, exchange
from autotune.loadgen.stream import Stream
from autotune.workload import LevelPlan, PlannedRequest


@dataclass(slots=True)
class _Flight:
    """A request from its scheduled time to its end."""

    request: PlannedRequest
    scheduled_s: float
    stream: Stream
    waits: bool = False  # for a place among `max_concurrency`
    free_s: float | None = None
    sent_s: float | None = None


class Level:
    """One level while it runs. Its clock starts when its connections are ready."""

    def __init__(
        self,
        plan: LevelPlan,
        bodies: Mapping[int, bytes],
        session: aiohttp.ClientSession,
        watch: LevelWatch,
        *,
        exact: bool = True,
    ) -> None:
        self.records: list[RequestRecord] = []
        self.client = ClientUse()
        self.aborted = False
        self.has_tokens = False  # whether any request got a token
        self.heard_s = 0.0  # when the engine last gave a sign of life: a token, or the end of an answer
        self.owed = 0  # requests that were sent and that wait for the engine
        self._plan, self._bodies, self._session, self._watch, self._exact = plan, bodies, session, watch, exact
        self._firsts = [request for request in plan.requests if request.follows is None]
        self._next_turns = {request.follows: request for request in plan.requests if request.follows is not None}
        self._flights: dict[int, _Flight] = {}
        self._overdue = Overdue(watch.hopeless)
        self._places = plan.max_concurrency if plan.is_open_loop else None  # that are free now; None: any number
        self._line: deque[asyncio.Future[float]] = deque()  # of requests that wait for a place
        self._start_s = 0.0

    async def run(self) -> None:
        """Send everything and wait for the last answer."""
        users = 0 if self._plan.is_open_loop else min(self._plan.max_concurrency or 0, len(self._firsts))
        await open_connections(self._session, users)
        self._start_s = time.perf_counter()
        meter = Meter()
        try:
            async with asyncio.TaskGroup() as group:
                if self._plan.is_open_loop:
                    await self._send_on_schedule(group)
                waiting = iter(self._firsts)
                for _ in range(users):
                    group.create_task(self._use(waiting))
                    await asyncio.sleep(0)  # its request is written before the next user prepares his
        finally:
            self.client = meter.stop()

    def give_up(self) -> bool:
        """Whether the SLA is out of reach; then what is beyond a limit by now is recorded, and nothing after it."""
        now_s = self._now_s()
        if self._start_s == 0.0 or self.aborted or not self._overdue.out_of_reach(now_s):
            return self.aborted
        self.aborted = True
        for index in self._overdue.beyond:
            if (flight := self._flights.get(index)) is not None:
                self.records.append(_unfinished(flight, now_s))
        return True

    def token(self, index: int, at_s: float, *, first: bool) -> None:
        """A stream tells of tokens."""
        self.heard_s = at_s
        if first:
            self.has_tokens = True
            self._overdue.first_token(index, at_s)

    async def _send_on_schedule(self, group: asyncio.TaskGroup) -> None:
        for request in sorted(self._firsts, key=lambda first: first.offset_s):
            # One by one also when they come at once: aiohttp writes a body one turn of the loop after the call.
            await asyncio.sleep(max(0.0, request.offset_s - self._now_s()))
            group.create_task(self._converse(request, request.offset_s))

    async def _use(self, waiting: Iterator[PlannedRequest]) -> None:
        """A user of the closed loop: one conversation after the other."""
        for request in waiting:
            await self._converse(request, None)

    async def _converse(self, request: PlannedRequest | None, scheduled_s: float | None) -> None:
        """A request and all that follow it; `scheduled_s` None: now."""
        while request is not None:
            end_s = await self._request(request, scheduled_s)
            request = self._next_turns.get(request.index)
            if request is not None:
                scheduled_s = end_s + request.pause_s
                if (wait_s := scheduled_s - self._now_s()) > 0:
                    await asyncio.sleep(wait_s)

    async def _request(self, request: PlannedRequest, scheduled_s: float | None) -> float:
        """Send one request and see it to its end; when that was."""
        now_s = self._now_s()
        flight = _Flight(
            request, now_s if scheduled_s is None else scheduled_s, Stream(request.index, self._now_s, self)
        )
        self._flights[request.index] = flight
        self._overdue.scheduled(request.index, flight.scheduled_s)
        if self._places is not None:
            await self._take_place(flight)
        flight.sent_s = now_s if scheduled_s is None else self._now_s()
        record = self._record(flight, await self._exchange(flight))
        del self._flights[request.index]
        if not self.aborted:  # else it has ended between the verdict and its cancellation
            self.records.append(record)
            self._overdue.ended(record)
            self._watch.report(len(self.records), len(self._plan.requests))
        if self._places is not None:
            self._leave_place()
        return record.end_s

    async def _exchange(self, flight: _Flight) -> str | None:
        """Its answer goes to the flight's stream; what went wrong, or None."""
        body, stream = self._bodies[flight.request.index], flight.stream
        self.owed += 1
        try:
            error = await exchange(self._session, body, stream, self._plan.request_timeout_s)
        except TimedOut as exc:
            return str(exc)
        finally:
            self.owed -= 1
        self.heard_s = self._now_s()
        return error or stream.problem(flight.request.max_tokens, exact=self._exact)

    def _record(self, flight: _Flight, error: str | None) -> RequestRecord:
        stream = flight.stream
        assert flight.sent_s is not None
        return RequestRecord(
            index=flight.request.index,
            scheduled_s=flight.scheduled_s,
            sent_s=flight.sent_s,
            token_times_s=tuple(stream.token_times_s),
            end_s=self._now_s() if stream.done_s is None or error else stream.done_s,
            input_tokens=stream.input_tokens,
            output_tokens=stream.output_tokens,
            requested_tokens=flight.request.max_tokens,
            error=error,
            free_s=flight.free_s,
        )

    async def _take_place(self, flight: _Flight) -> None:
        """Wait for a place among `max_concurrency`, first come, first served."""
        if self._places:
            self._places -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        flight.waits = True
        flight.free_s = await turn
        flight.waits = False

    def _leave_place(self) -> None:
        assert self._places is not None
        while self._line:
            turn = self._line.popleft()
            if not turn.done():  # as it is when the level is being cancelled
                turn.set_result(self._now_s())
                return
        self._places += 1

    def _now_s(self) -> float:
        return time.perf_counter() - self._start_s


def _unfinished(flight: _Flight, now_s: float) -> RequestRecord:
    """What is known of a request when its level ends early. One that was not sent is as if it were sent now."""
    stream = flight.stream
    return RequestRecord(
        index=flight.request.index,
        scheduled_s=flight.scheduled_s,
        sent_s=now_s if flight.sent_s is None else flight.sent_s,
        token_times_s=tuple(stream.token_times_s),
        end_s=now_s,
        input_tokens=stream.input_tokens,
        output_tokens=stream.output_tokens,
        requested_tokens=flight.request.max_tokens,
        error=OUT_OF_REACH,
        free_s=now_s if flight.waits else flight.free_s,
        unfinished=True,
    )
