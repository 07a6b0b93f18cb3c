"""What the engine, its processes and its devices do in the time in which a level runs."""

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from autotune.engines.procfs import CpuTime, ThreadTime
from autotune.engines.readback import counter_deltas
from autotune.errors import EnvironmentProblem
from autotune.platforms import Utilization
from autotune.telemetry import get_logger

log = get_logger()

# An exposition takes the API server 3 to 10 ms, in which it answers nobody: at this pace that is at most a hundredth of
# the time.
SAMPLE_PERIOD_S = 1.0
DEVICE_PERIOD_S = 5.0  # npu-smi takes a second of CPU
CLOSE_S = 1.0

_WORKER = "VLLM::Worker"
_SCHEDULER = "VLLM::EngineCor"  # cut by the kernel

CpuTimes = Mapping[int, CpuTime]  # by process id


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the figures come from. All but `counters` are asked in threads of the window."""

    counters: Callable[[], dict[str, float]]  # see `engines.readback.counters`; may raise Cancelled
    gauges: Callable[[], dict[str, float]]  # see `engines.readback.gauges`; empty when the engine does not answer
    over: Callable[[], bool]  # the trial is: a window that nobody closes ends by itself
    cpu_times: Callable[[], CpuTimes] = dict  # of the engine's processes, where they are ours to see
    utilization: Callable[[], Utilization | None] = lambda: None  # may raise EnvironmentProblem
    limits: Mapping[str, float] = field(default_factory=dict)  # what the engine works within, to be read beside them


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the engine; `weight_s` is the time that it stands for."""

    at_s: float
    gauges: Mapping[str, float]
    cpu: CpuTimes = field(default_factory=dict)
    weight_s: float = 1.0

    @property
    def tokens(self) -> float:
        """Tokens given so far: requests that one step finishes are never seen running."""
        return self.gauges.get("generation_tokens", 0.0)

    @property
    def busy(self) -> bool:
        """Whether a request was left in the engine by its last step."""
        return self.gauges.get("requests_running", 0.0) + self.gauges.get("requests_waiting", 0.0) > 0


class EngineWindow:
    """Opens when it is made. Two threads look at the engine and at its devices until it is closed."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._before = sources.counters()
        self._closed = threading.Event()
        self._samples: list[Sample] = []
        self._utilizations: list[Utilization] = []
        self._threads = [
            threading.Thread(target=self._repeat, args=(look, period_s), name="window", daemon=True)
            for look, period_s in ((self._look, SAMPLE_PERIOD_S), (self._look_at_devices, DEVICE_PERIOD_S))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> dict[str, float]:
        """The figures by name; docs/bottlenecks.md lists them. Raises Cancelled when `counters` does."""
        self._closed.set()
        deadline = time.monotonic() + CLOSE_S
        for thread in self._threads:  # one that waits for a tool that hangs ends later, unheard
            thread.join(max(0.0, deadline - time.monotonic()))
        samples, utilizations = tuple(self._samples), tuple(self._utilizations)
        deltas = counter_deltas(self._before, self._sources.counters())
        looked = gauge_figures(samples) | cpu_figures(samples) | device_figures(utilizations)
        return {**self._sources.limits, **deltas, **looked}

    def _repeat(self, look: Callable[[], bool], period_s: float) -> None:
        """Look, first after a second, until the window is closed, the trial is over, or there is nothing to see."""
        pause_s = SAMPLE_PERIOD_S
        while not self._closed.wait(pause_s) and not self._sources.over() and look():
            pause_s = period_s

    def _look(self) -> bool:
        cpu, at_s = self._sources.cpu_times(), time.monotonic()  # before the gauges: a busy engine is slow to answer
        self._samples.append(Sample(at_s, self._sources.gauges(), cpu))
        return True

    def _look_at_devices(self) -> bool:
        try:
            found = self._sources.utilization()
        except EnvironmentProblem as problem:
            log.warning("utilization_not_read", reason=str(problem))
            return False
        if found is not None:
            self._utilizations.append(found)
        return found is not None


def idle(gauges: Mapping[str, float]) -> bool | None:
    """Whether no request runs or waits in the engine; None: its gauges do not tell."""
    if "requests_running" not in gauges or "requests_waiting" not in gauges:
        return None
    return gauges["requests_running"] + gauges["requests_waiting"] == 0


def gauge_figures(samples: Sequence[Sample]) -> dict[str, float]:
    """Means and maxima of the requests in the engine and of the KV cache's use (0-1), over the looks at a busy engine.

    The others came before the first request or after the last one: the window is a little longer than its level.
    """
    busy = [sample for sample in _busy(samples) if sample.gauges]
    weight_s = sum(sample.weight_s for sample in busy)
    if not weight_s:
        return {}
    figures = {"samples": float(len(busy)), "engines": max(sample.gauges.get("engines", 1.0) for sample in busy)}
    for name in ("requests_running", "requests_waiting", "kv_cache_usage"):
        values = [sample.gauges.get(name, 0.0) for sample in busy]
        total = sum(value * sample.weight_s for value, sample in zip(values, busy, strict=True))
        figures |= {f"{name}_mean": total / weight_s, f"{name}_max": max(values)}
    return figures


def cpu_figures(samples: Sequence[Sample]) -> dict[str, float]:
    """CPU of the engine's processes between the first and the last look at a busy engine.

    `engine_cpu_cores` is what all of them took. `busiest_thread_share` is the part of the time in which the busiest
    thread ran or waited for a core: with less the thread would have been done as soon, whatever else the machine does.
    `host_thread_share` is the same among threads that compute no model: the API server's and the scheduler's. Each
    process and each thread is judged by the times when it was read itself.
    """
    busy = [sample for sample in _busy(samples) if sample.cpu]
    if len(busy) < 2:
        return {}
    first, last = busy[0].cpu, busy[-1].cpu
    both = [pid for pid, used in last.items() if pid in first and used.at_s > first[pid].at_s]
    if not both:
        return {}
    shares = {pid: _busiest_share(first[pid], last[pid]) for pid in both}
    host = [share for pid, share in shares.items() if _is_host(last[pid].command, last)]
    return {
        "engine_cpu_cores": sum(_cores(first[pid], last[pid]) for pid in both),
        "busiest_thread_share": max(shares.values()),
        "host_thread_share": max(host, default=0.0),
    }


def device_figures(utilizations: Sequence[Utilization]) -> dict[str, float]:
    """`device_utilization` and `memory_bandwidth_utilization` (0-1), each where the tool showed it."""
    compute = [one.compute for one in utilizations if one.compute is not None]
    bandwidth = [one.memory_bandwidth for one in utilizations if one.memory_bandwidth is not None]
    figures = {"device_utilization": compute, "memory_bandwidth_utilization": bandwidth}
    return {name: statistics.fmean(values) for name, values in figures.items() if values}


def _busy(samples: Sequence[Sample]) -> list[Sample]:
    """From the first look at a busy engine to the last; pauses between them belong to the load.

    An API server that has no time to answer is busy too.
    """
    numbers = []
    tokens = next((sample.tokens for sample in samples if sample.gauges), 0.0)
    for number, sample in enumerate(samples):
        if not sample.gauges or sample.busy or sample.tokens > tokens:
            numbers.append(number)
        tokens = max(tokens, sample.tokens)
    return list(samples[numbers[0] : numbers[-1] + 1]) if numbers else []


def _cores(before: CpuTime, after: CpuTime) -> float:
    return (after.total_s - before.total_s) / (after.at_s - before.at_s)


def _busiest_share(before: CpuTime, after: CpuTime) -> float:
    """Of one core; a thread that began in between counts from the first look on."""
    unseen = ThreadTime(0.0, before.at_s)
    return max(
        (_share(before.threads.get(thread, unseen), used) for thread, used in after.threads.items()), default=0.0
    )


def _share(before: ThreadTime, after: ThreadTime) -> float:
    """At most 1: a thread cannot want more, but its time is read a moment after the clock."""
    return min(1.0, (after.wanted_s - before.wanted_s) / (after.at_s - before.at_s))


def _is_host(command: str, family: CpuTimes) -> bool:
    """Workers compute the model; where there are none, the scheduler's process does it."""
    workers = any(used.command.startswith(_WORKER) for used in family.values())
    return not command.startswith(_WORKER if workers else _SCHEDULER)
