"""What a window says of the engine, its processes and its devices while a level ran."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from autotune.engines import procfs
from autotune.engines.procfs import CpuTime, ThreadTime
from autotune.errors import EnvironmentProblem
from autotune.platforms import Utilization
from autotune.trial import window
from autotune.trial.host import Cancelled
from autotune.trial.window import EngineWindow, Sample, Sources, cpu_figures, device_figures, gauge_figures


def sample(at_s: float, running: float, waiting: float = 0.0, **more: object) -> Sample:
    gauges = {"requests_running": running, "requests_waiting": waiting, "kv_cache_usage": running / 10}
    return Sample(at_s, gauges, **more)  # type: ignore[arg-type]


# Gauges


def test_means_and_maxima_are_over_the_looks():
    assert gauge_figures([sample(1, 2, 4), sample(2, 4, 0)]) == {
        "samples": 2.0,
        "engines": 1.0,
        "requests_running_mean": 3.0,
        "requests_running_max": 4.0,
        "requests_waiting_mean": 2.0,
        "requests_waiting_max": 4.0,
        "kv_cache_usage_mean": pytest.approx(0.3),
        "kv_cache_usage_max": 0.4,
    }


def test_looks_before_the_first_request_and_after_the_last_do_not_count_and_pauses_between_do():
    looks = [sample(1, 0), sample(2, 4), sample(3, 0), sample(4, 2), sample(5, 0)]
    assert gauge_figures(looks)["requests_running_mean"] == 2.0


def test_an_engine_that_gave_tokens_was_busy_though_no_step_left_a_request():
    """From the third look on; the fifth saw nothing happen any more."""
    given = (0.0, 0.0, 50.0, 90.0, 90.0)
    looks = [Sample(n, {"requests_running": 0.0, "generation_tokens": tokens}) for n, tokens in enumerate(given)]
    assert gauge_figures(looks)["samples"] == 2.0


def test_an_engine_that_did_not_answer_was_not_empty():
    assert gauge_figures([sample(1, 4), Sample(2, {}), sample(3, 4)])["requests_running_mean"] == 4.0


def test_a_look_counts_for_the_time_that_it_stands_for():
    looks = [sample(1, 1, weight_s=3.0), sample(4, 5, weight_s=1.0)]
    assert gauge_figures(looks)["requests_running_mean"] == 2.0


def test_nothing_is_told_of_an_engine_that_was_never_seen_busy():
    assert gauge_figures([sample(1, 0)]) == {}
    assert gauge_figures([]) == {}


def test_data_parallel_engines_are_counted():
    look = Sample(1, {"requests_running": 3.0, "engines": 2.0})
    assert gauge_figures([look])["engines"] == 2.0


# CPU


def family(at_s: float, **seconds: dict[int, float]) -> dict[int, CpuTime]:
    """Processes by name, read at that time: API server 10, scheduler 20, worker 30."""
    names = {"api": (10, "vllm"), "core": (20, "VLLM::EngineCor"), "worker": (30, "VLLM::Worker_TP0")}
    threads = {key: {n: ThreadTime(used, at_s) for n, used in of.items()} for key, of in seconds.items()}
    return {names[key][0]: CpuTime(names[key][1], sum(of.values()), at_s, threads[key]) for key, of in seconds.items()}


def cpu(before: dict[int, CpuTime], after: dict[int, CpuTime]) -> dict[str, float]:
    return cpu_figures([sample(10, 1, cpu=before), sample(14, 1, cpu=after)])


def test_cpu_is_in_cores_between_the_first_and_the_last_look():
    before = family(10, api={10: 5.0}, core={20: 7.0, 21: 1.0}, worker={30: 9.0})
    after = family(14, api={10: 6.0}, core={20: 9.0, 21: 2.0}, worker={30: 13.0})
    assert cpu(before, after) == {"engine_cpu_cores": 2.0, "busiest_thread_share": 1.0, "host_thread_share": 0.5}


def test_a_thread_that_began_in_between_counts_from_its_start():
    before = family(10, api={10: 5.0}, worker={30: 9.0})
    after = family(14, api={10: 5.0, 11: 2.0}, worker={30: 9.0})
    assert cpu(before, after)["host_thread_share"] == 0.5


def test_an_api_server_that_has_no_time_to_answer_is_seen_busy_all_the_same():
    silent = [Sample(n, {}, cpu=family(n, api={10: 0.95 * n})) for n in (1, 2, 3)]
    figures = cpu_figures([sample(0, 0, cpu=family(0, api={10: 0.0})), *silent])
    assert figures["host_thread_share"] == pytest.approx(0.95)
    assert gauge_figures(silent) == {}


def test_without_workers_the_scheduler_computes_the_model_itself():
    before, after = family(10, api={10: 0.0}, core={20: 0.0}), family(14, api={10: 1.0}, core={20: 4.0})
    assert cpu(before, after) == {"engine_cpu_cores": 1.25, "busiest_thread_share": 1.0, "host_thread_share": 0.25}


def test_a_thread_that_was_read_late_is_judged_by_its_own_times():
    """The first look was held up: the worker's thread was read half a second after the process, at 10.5 s."""
    before, after = family(10, worker={30: 9.0}), family(12, worker={30: 10.5})
    (process,) = before.values()
    late = {30: replace(process, threads={30: ThreadTime(9.0, 10.5)})}
    assert cpu(late, after)["busiest_thread_share"] == 1.0
    assert cpu(before, after)["busiest_thread_share"] == 0.75


def test_no_thread_wants_more_than_a_core():
    before, after = family(10, worker={30: 9.0}), family(12, worker={30: 11.3})
    assert cpu(before, after)["busiest_thread_share"] == 1.0


def test_one_look_says_nothing_about_cpu():
    assert cpu_figures([sample(10, 1, cpu=family(10, api={10: 5.0}))]) == {}


def test_a_thread_wants_at_least_the_time_that_it_gets():
    got_s = time.thread_time()
    used = procfs.cpu_times([os.getpid()])[os.getpid()]
    assert used.threads[threading.get_native_id()].wanted_s >= got_s
    assert used.total_s >= got_s - 0.02  # clock ticks


def test_a_process_that_is_gone_uses_nothing():
    assert procfs.cpu_times([2**22 + 1]) == {}


# Devices


def test_device_figures_are_means_of_what_the_tool_shows():
    assert device_figures([Utilization(0.2, 0.9), Utilization(0.4, None)]) == {
        "device_utilization": pytest.approx(0.3),
        "memory_bandwidth_utilization": 0.9,
    }
    assert device_figures([]) == {}


# The window itself


class Engine:
    """Counters that rise by 10 at each question; gauges, and an event when they were asked for the second time."""

    def __init__(self, utilization: Callable[[], Utilization | None] = lambda: None) -> None:
        self.asked, self.looks = 0, 0
        self.looked_twice = threading.Event()
        self.over = self.cancelled = False
        self.utilization = utilization

    def sources(self) -> Sources:
        return Sources(
            counters=self.counters,
            gauges=self.gauges,
            cpu_times=lambda: family(time.monotonic(), api={10: float(self.looks)}),
            utilization=self.utilization,
            over=lambda: self.over,
            limits={"max_num_seqs": 4.0},
        )

    def counters(self) -> dict[str, float]:
        self.asked += 1
        if self.cancelled:
            raise Cancelled
        return {"prompt_tokens": 10.0 * self.asked, "requests_running": 0.0}

    def gauges(self) -> dict[str, float]:
        self.looks += 1
        if self.looks == 2:
            self.looked_twice.set()
        return {"requests_running": 2.0, "requests_waiting": 1.0, "kv_cache_usage": 0.5, "engines": 1.0}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "SAMPLE_PERIOD_S", 0.001)
    monkeypatch.setattr(window, "DEVICE_PERIOD_S", 0.001)


def windows() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "window"]


def ended() -> bool:
    for thread in windows():
        thread.join(10)
    return not windows()


def test_a_window_tells_limits_counters_and_what_was_seen():
    device_seen = threading.Event()

    def seen() -> Utilization:
        device_seen.set()
        return Utilization(0.25)

    engine = Engine(seen)
    opened = EngineWindow(engine.sources())
    assert engine.looked_twice.wait(10)
    assert device_seen.wait(10)
    figures = opened.close()
    assert figures["max_num_seqs"] == 4.0
    assert figures["prompt_tokens"] == 10.0
    assert figures["requests_waiting_max"] == 1.0
    assert figures["device_utilization"] == 0.25
    assert ended()


def test_the_time_in_which_a_busy_engine_does_not_answer_is_no_time_on_a_core(monkeypatch: pytest.MonkeyPatch):
    """A thread that never leaves its core; the engine takes 1 s to answer the first look and 5 s the second."""
    now_s = [100.0]
    monkeypatch.setattr(window, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    engine = Engine()

    def slow() -> dict[str, float]:
        found = engine.gauges()
        now_s[0] += 1.0 if engine.looks == 1 else 5.0
        engine.over = engine.looks == 2
        return found

    sources = replace(engine.sources(), gauges=slow, cpu_times=lambda: family(now_s[0], api={10: now_s[0]}))
    opened = EngineWindow(sources)
    assert ended()
    assert opened.close()["host_thread_share"] == 1.0


def test_a_window_that_nobody_closes_ends_with_the_trial():
    engine = Engine()
    EngineWindow(engine.sources())
    engine.over = True
    assert ended()


def test_a_device_tool_that_fails_is_asked_once_and_costs_only_its_figures():
    asked: list[int] = []

    def broken() -> Utilization:
        asked.append(1)
        raise EnvironmentProblem("npu-smi failed")

    engine = Engine(broken)
    opened = EngineWindow(engine.sources())
    assert engine.looked_twice.wait(10)
    figures = opened.close()
    assert "device_utilization" not in figures
    assert figures["requests_running_max"] == 2.0
    assert len(asked) <= 1


def test_a_device_tool_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(window, "CLOSE_S", 0.01)
    hanging, released = threading.Event(), threading.Event()

    def slow() -> Utilization:
        hanging.set()
        released.wait(30)
        return Utilization(0.5)

    engine = Engine(slow)
    opened = EngineWindow(engine.sources())
    assert hanging.wait(10)
    figures = opened.close()
    released.set()
    assert "device_utilization" not in figures
    assert ended()


def test_a_cancel_at_the_end_stops_the_looking():
    engine = Engine()
    opened = EngineWindow(engine.sources())
    engine.cancelled = True
    with pytest.raises(Cancelled):
        opened.close()
    assert ended()
