"""What the engine says of the time in which a level ran."""

from collections.abc import Callable

from autotune.engines.readback import counter_deltas


class CounterWindow:
    """Differences of the engine's counters; `counters` asks for them as they are now."""

    def __init__(self, counters: Callable[[], dict[str, float]]) -> None:
        self._counters = counters
        self._before = counters()

    def close(self) -> dict[str, float]:
        """See `engines.readback.counter_deltas`."""
        return counter_deltas(self._before, self._counters())
