"""What a level costs the load generator, and how late its event loop notices things."""

import asyncio
import time

from autotune.level_run import ClientUse
from autotune.measurement import BEAT_S, quantile
from autotune.telemetry import get_logger

PAUSE_S = 0.05  # a pause of the client worth a warning: the latencies measured meanwhile contain it

log = get_logger()


class Meter:
    """Looks at the running loop and its thread from its making to `stop`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._cpu_s, self._start_s = time.thread_time(), self._loop.time()
        self._due_s = self._start_s + BEAT_S
        self._late_s: list[float] = []
        self._beat = self._loop.call_at(self._due_s, self._woke)

    def stop(self) -> ClientUse:
        """What was seen; a pause worth it is warned of."""
        self._beat.cancel()
        self._count(now_s := self._loop.time())
        self._late_s.sort()
        worst_s = self._late_s[-1] if self._late_s else 0.0
        if worst_s > PAUSE_S:
            # A closed loop has no schedule to be late for, so `client_lag_ms` cannot show this.
            log.warning("load_client_stalled", worst_stall_ms=round(worst_s * 1e3))
        return ClientUse(
            cpu_share=(time.thread_time() - self._cpu_s) / max(now_s - self._start_s, 1e-9),
            pause_ms=1e3 * (quantile(self._late_s, 99).value_ms or 0.0),
        )

    def _woke(self) -> None:
        self._count(self._loop.time())
        self._beat = self._loop.call_at(self._due_s, self._woke)

    def _count(self, now_s: float) -> None:
        """A long pause counts for every beat that it held up: else one sample would stand for all of it."""
        while self._due_s <= now_s:
            self._late_s.append(now_s - self._due_s)
            self._due_s += BEAT_S
