"""The engine core: the scheduler and the step times together, on a time line that its caller drives.

The server drives it by the wall clock, a replay in virtual time; what it computes is the same.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from autotune.engines.simulated.blocks import BlockPool
from autotune.engines.simulated.cost import Work
from autotune.engines.simulated.launch import Launch
from autotune.engines.simulated.scheduler import (
    Request,
    State,
    Step,
    complete,
    remove,
    run_steady,
    schedule,
    steady_steps,
)


@dataclass(slots=True)
class Totals:
    """What the engine has done since its start; times in s."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    steps: int = 0
    step_tokens: int = 0
    queue_s: float = 0.0
    queued: int = 0
    prefill_s: float = 0.0
    prefilled: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What a step brought: the requests that got a token at `end_s`, and those of them that have finished."""

    end_s: float
    tokens: int  # computed in the step
    answered: tuple[Request, ...]
    finished: tuple[Request, ...]


@dataclass(slots=True)
class Core:
    """One engine while it runs. `now_s` is where its time line has come to."""

    launch: Launch
    state: State = field(init=False)
    totals: Totals = field(default_factory=Totals)
    now_s: float = 0.0
    _arrivals: deque[Request] = field(default_factory=deque)  # by `ready_s`, not yet seen by the scheduler
    _server_free_s: float = 0.0  # when the API server has handed over everybody who came
    _step: Step | None = None
    _numbers: int = 0

    def __post_init__(self) -> None:
        # vLLM keeps one block of the pool for itself, the null block, which pads block tables.
        self.state = State(pool=BlockPool(self.launch.limits.num_blocks - 1))

    @property
    def idle(self) -> bool:
        """Whether nothing is to do and nobody is expected."""
        return not self.state.busy and not self._arrivals

    @property
    def expected(self) -> int:
        """Requests that were submitted and that the scheduler has not seen."""
        return len(self._arrivals)

    @property
    def next_arrival_s(self) -> float:
        """When the scheduler sees the first of them; infinity when nobody is expected."""
        return self._arrivals[0].ready_s if self._arrivals else math.inf

    def new_number(self) -> int:
        """A number for a request that no other has had."""
        self._numbers += 1
        return self._numbers

    def submit(self, request: Request) -> None:
        """A request comes to the server at its `arrival_s`, not before those that were submitted earlier.

        The API server reads, tokenizes and hands over one request after the other. Raises ValueError for a request
        beyond the model's length, which both modes refuse before: it could wait for blocks for ever.
        """
        if request.prompt_tokens + request.max_tokens > self.launch.max_model_len:
            raise ValueError(f"{request.prompt_tokens} + {request.max_tokens} tokens, of {self.launch.max_model_len}")
        self._server_free_s = max(self._server_free_s, request.arrival_s) + self.launch.device.request_s
        request.ready_s = self._server_free_s
        self._arrivals.append(request)

    def drop(self, requests: Sequence[Request]) -> None:
        """Nobody waits for these any more. Between two steps only."""
        gone = set(map(id, requests))
        self._arrivals = deque(request for request in self._arrivals if id(request) not in gone)
        remove(self.state, requests)

    def begin(self) -> float | None:
        """Schedule the next step; when it ends. None when there is nothing to compute before someone arrives."""
        if not self.state.busy and self._arrivals:
            self.now_s = max(self.now_s, self._arrivals[0].ready_s)
        while self._arrivals and self._arrivals[0].ready_s <= self.now_s:
            self.state.waiting.append(self._arrivals.popleft())
        step = schedule(self.state, self.launch.limits)
        if not step.chunks:
            return None
        for request, _ in step.chunks[len(step.chunks) - step.new_requests :]:
            if request.scheduled_s is None:
                request.scheduled_s = self.now_s
        self._step = step
        return self.now_s + self.launch.cost.step_s(_work(step))

    def end(self, end_s: float) -> Done:
        """The step that was begun is over."""
        step = self._step
        assert step is not None
        self.now_s = end_s
        answered = [request for request, count in step.chunks if request.computed + count == request.known]
        finished = complete(self.state, self.launch.limits, step)
        for request in answered:
            if not request.token_times_s:
                self._first_token(request)
            request.token_times_s.append(end_s)
        tokens = sum(count for _, count in step.chunks)
        self._count(steps=1, tokens=tokens, answers=len(answered))
        return Done(end_s, tokens, tuple(answered), tuple(finished))

    def skip(self, until_s: float) -> None:
        """Right after a step: run ahead through steps in which nothing can change, up to the one that passes `until_s`.

        For virtual time only. Whoever could be admitted must not arrive before `until_s`.
        """
        step = self._step
        assert step is not None
        times_s = self._steady_times(steady_steps(self.state, self.launch.limits, step), until_s)
        if not times_s:
            return
        running = self.state.running
        run_steady(self.state, self.launch.limits, len(times_s))
        for request in running:
            request.token_times_s += times_s
        self.now_s = times_s[-1]
        tokens = len(running) * len(times_s)
        self._count(steps=len(times_s), tokens=tokens, answers=tokens)

    def _steady_times(self, most: int, until_s: float) -> list[float]:
        running = self.state.running
        count, reached = len(running), sum(request.computed for request in running)
        times_s: list[float] = []
        now_s, step_s = self.now_s, self.launch.cost.step_s
        while len(times_s) < most and now_s < until_s:
            reached += count
            now_s += step_s(Work(count, count, reached, reached, decode_only=True))
            times_s.append(now_s)
        return times_s

    def _first_token(self, request: Request) -> None:
        totals = self.totals
        assert request.scheduled_s is not None
        totals.prompt_tokens += request.prompt_tokens
        totals.queue_s += request.scheduled_s - request.ready_s
        totals.queued += 1
        totals.prefill_s += self.now_s - request.scheduled_s
        totals.prefilled += 1

    def _count(self, *, steps: int, tokens: int, answers: int) -> None:
        self.totals.steps += steps
        self.totals.step_tokens += tokens
        self.totals.generation_tokens += answers


def _work(step: Step) -> Work:
    tokens = read = 0
    pairs = 0.0
    for request, count in step.chunks:
        reached = request.computed + count
        tokens += count
        read += reached
        pairs += count * request.computed + count * (count + 1) / 2
    return Work(tokens, len(step.chunks), pairs, read, step.decode_only)
