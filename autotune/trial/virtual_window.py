"""What the simulated engine does while a level is played in virtual time: the figures of a real window, without one."""

from autotune.engines.readback import counter_deltas
from autotune.engines.simulated.core import Core
from autotune.engines.simulated.replay import counters, play
from autotune.level_run import LevelRun, LevelWatch
from autotune.trial.window import Sample, gauge_figures
from autotune.workload import LevelPlan


class VirtualInstrument:
    """Plays levels on the engine and looks at it after each of its steps."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._samples: list[Sample] = []

    def send(self, plan: LevelPlan, watch: LevelWatch) -> LevelRun:
        """Play one level."""
        seen_s = self._core.now_s

        def report(done: int, planned: int) -> None:
            nonlocal seen_s
            now_s = self._core.now_s
            self._samples.append(Sample(now_s, self._gauges(), weight_s=now_s - seen_s))
            seen_s = now_s
            watch.report(done, planned)

        return play(self._core, plan, LevelWatch(watch.stopped, report, watch.hopeless))

    def window(self) -> "VirtualWindow":
        """Open a window on the levels to come."""
        self._samples = []
        return VirtualWindow(self._core, self._samples)

    def _gauges(self) -> dict[str, float]:
        state = self._core.state
        return {
            "generation_tokens": self._core.totals.generation_tokens,
            "requests_running": len(state.running),
            "requests_waiting": len(state.waiting),
            "kv_cache_usage": state.pool.used / max(1, state.pool.size),
        }


class VirtualWindow:
    """Opens when it is made; `samples` are the instrument's."""

    def __init__(self, core: Core, samples: list[Sample]) -> None:
        self._core, self._samples = core, samples
        self._before = counters(core)

    def close(self) -> dict[str, float]:
        """The figures by name, as of a real engine; there are no processes and no devices to look at."""
        limits = self._core.launch.limits
        return {
            "max_num_seqs": float(limits.max_num_seqs),
            "max_num_batched_tokens": float(limits.max_num_batched_tokens),
            **counter_deltas(self._before, counters(self._core)),
            **gauge_figures(self._samples),
        }
