"""The engine core run by the wall clock, for clients that wait for their tokens."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator

from autotune.engines.simulated.core import Core
from autotune.engines.simulated.metrics import Metrics
from autotune.engines.simulated.scheduler import Request, block_hashes

_REMEMBERED = 10_000  # finished requests


class PacedEngine:
    """The engine core run by the wall clock: a step's tokens appear when its time is over.

    The time line is the core's own: a step begins when the last one ended, however late the machine was to notice, so
    delays of the machine do not add up. A request counts as arrived when the server has read it.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.metrics = Metrics(core)
        self._started_s = time.monotonic()
        self._arrived = asyncio.Event()
        self.finished: deque[Request] = deque(maxlen=_REMEMBERED)  # the last ones, with their stamps
        self._dropped: list[Request] = []
        self._answers: dict[int, asyncio.Queue[float]] = {}

    async def run(self) -> None:
        """Compute steps for ever."""
        while True:
            self._forget_dropped()
            end_s = self.core.begin()
            if end_s is None:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await asyncio.sleep(max(0.0, end_s - self._now_s()))
            done = self.core.end(end_s)
            self.metrics.observe(done)
            self.finished += done.finished
            for request in done.answered:
                queue = self._answers.get(request.number)
                if queue is not None:
                    queue.put_nowait(end_s)

    async def answer(self, prompt: tuple[int, ...], max_tokens: int) -> AsyncGenerator[float]:
        """Submit a request; one item per token, when it is there."""
        limits = self.core.launch.limits
        request = Request(
            number=self.core.new_number(),
            arrival_s=self._now_s(),
            prompt_tokens=len(prompt),
            max_tokens=max_tokens,
            hashes=block_hashes(prompt, limits.block_size) if limits.prefix_caching else (),
        )
        queue: asyncio.Queue[float] = asyncio.Queue()
        self._answers[request.number] = queue
        self.core.submit(request)
        self._arrived.set()
        try:
            for _ in range(max_tokens):
                yield await queue.get()
        finally:
            del self._answers[request.number]
            if not request.finished:
                self._dropped.append(request)
                self._arrived.set()

    def _forget_dropped(self) -> None:
        dropped = [request for request in self._dropped if not request.finished]  # not by the step that just ended
        self._dropped = []
        if dropped:
            self.core.drop(dropped)
            for _ in dropped:
                self.metrics.aborted()

    def _now_s(self) -> float:
        return time.monotonic() - self._started_s
