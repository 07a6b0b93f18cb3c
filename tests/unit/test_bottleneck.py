"""What held an engine back: which figures tell it, and which reading goes before which."""

from typing import Any

import pytest

from autotune.diagnosis.bottleneck import read_bottleneck
from autotune.results import Latency, Load, LoadPoint, Quantile

# 64 users on one device, four engines' worth of figures that name nothing by themselves.
CALM = {
    "engines": 1.0,
    "max_num_seqs": 256.0,
    "max_num_batched_tokens": 2048.0,
    "preemptions": 0.0,
    "requests_running_mean": 60.0,
    "requests_running_max": 64.0,
    "requests_waiting_mean": 0.0,
    "requests_waiting_max": 3.0,
    "kv_cache_usage_max": 0.4,
    "mean_iteration_tokens": 70.0,
    "mean_queue_time_ms": 1.0,
    "mean_prefill_time_ms": 90.0,
}
WAITING = {"requests_waiting_mean": 20.0, "requests_waiting_max": 40.0}
MET = {"launch": -1.0, "p99_ttft_ms": -0.2, "p99_tpot_ms": -0.3, "error_rate": -1.0}


def latency(mean_ms: float) -> Latency:
    return Latency(
        count=100, mean_ms=mean_ms, quantiles=(Quantile(percent=99, value_ms=mean_ms, lower_ms=None, upper_ms=None),)
    )


def point(figures: dict[str, float], **changes: Any) -> LoadPoint:
    values = {
        "level": 2,
        "load": Load(kind="max_concurrency", value=64),
        "devices": 1,
        "seed": 0,
        "duration_s": 10.0,
        "completed": 500,
        "failed": 0,
        "request_throughput": 50.0,
        "output_throughput": 800.0,
        "total_token_throughput": 3200.0,
        "request_goodput": 50.0,
        "ttft": latency(100.0),
        "tpot": latency(12.0),
        "itl": latency(12.0),
        "e2el": latency(900.0),
        "client_lag_ms": 0.0,
        "violations": MET,
        "engine": figures,
    }
    return LoadPoint.model_validate(values | changes)


def kind(figures: dict[str, float], **changes: Any) -> str | None:
    found = read_bottleneck(point(figures, **changes))
    return found.kind if found else None


def missing(line: str) -> dict[str, Any]:
    return {"violations": {**MET, line: 0.4}}


def without(*names: str) -> dict[str, float]:
    return {name: value for name, value in CALM.items() if name not in names}


# One figure each


def test_preempted_requests_are_kv_bound():
    found = read_bottleneck(point({**CALM, "preemptions": 6.0}))
    assert found is not None
    assert found.kind == "kv_cache"
    assert found.evidence == "6 preemptions for want of KV cache, which was up to 40% full"
    assert "gpu_memory_utilization" in found.advice


def test_one_preemption_in_a_hundred_requests_is_below_what_a_p99_sees():
    assert kind({**CALM, "preemptions": 5.0}) == "client"


def test_requests_that_wait_for_a_full_cache_are_kv_bound():
    assert kind({**CALM, **WAITING, "kv_cache_usage_max": 0.96}) == "kv_cache"


def test_a_full_cache_that_nobody_waits_for_binds_nothing():
    assert kind({**CALM, "kv_cache_usage_max": 0.96}) == "client"


def test_a_cache_that_has_no_room_for_one_more_request_is_full():
    """Three requests hold 81 %: a fourth of that size finds 19 % and needs 27 %."""
    assert kind({**CALM, **WAITING, "requests_running_max": 3.0, "kv_cache_usage_max": 0.81}) == "kv_cache"
    assert kind({**CALM, **WAITING, "requests_running_max": 3.0, "kv_cache_usage_max": 0.7}) != "kv_cache"


def test_an_empty_cache_without_requests_is_not_full():
    """One-token answers are finished whenever somebody looks."""
    idle = {"requests_running_max": 0.0, "requests_running_mean": 0.0, "kv_cache_usage_max": 0.0}
    assert kind({**CALM, **WAITING, **idle}) != "kv_cache"


def test_preemptions_of_a_level_that_was_ended_early_are_compared_with_all_its_requests():
    assert kind({**CALM, "preemptions": 3.0}, completed=0, unfinished=500) != "kv_cache"
    assert kind({**CALM, "preemptions": 6.0}, completed=0, unfinished=500) == "kv_cache"


def test_waiting_while_every_place_is_taken_is_slot_bound():
    found = read_bottleneck(point({**CALM, **WAITING, "max_num_seqs": 64.0}))
    assert found is not None
    assert (found.kind, found.advice) == ("slots", "Raise max_num_seqs.")
    assert found.evidence == "up to 64 of 64 places of max_num_seqs were taken, and 20.0 requests waited on the average"


def test_a_look_after_a_step_that_finished_requests_sees_some_places_free():
    assert kind({**CALM, **WAITING, "max_num_seqs": 80.0}) == "slots"
    assert kind({**CALM, **WAITING, "max_num_seqs": 100.0}) != "slots"


def test_with_most_places_taken_only_a_cache_that_is_full_to_the_brim_is_the_reason():
    figures = {**CALM, **WAITING, "max_num_seqs": 4.0, "requests_running_max": 3.0}
    assert kind({**figures, "kv_cache_usage_max": 0.8}) == "slots"
    assert kind({**figures, "kv_cache_usage_max": 0.96}) == "kv_cache"
    assert kind({**figures, "kv_cache_usage_max": 0.96, "requests_running_max": 4.0}) == "slots"


def test_places_count_in_every_engine_of_a_data_parallel_deployment():
    assert kind({**CALM, **WAITING, "max_num_seqs": 32.0, "engines": 2.0}) == "slots"
    assert kind({**CALM, **WAITING, "max_num_seqs": 64.0, "engines": 2.0}) != "slots"


def test_waiting_with_places_and_cache_left_is_bound_by_the_prefill_budget():
    found = read_bottleneck(point({**CALM, **WAITING, "mean_iteration_tokens": 1900.0}))
    assert found is not None
    assert (found.kind, found.advice) == ("prefill_budget", "Raise max_num_batched_tokens.")


def test_steps_that_leave_the_budget_unused_are_not_bound_by_it():
    assert kind({**CALM, **WAITING, "mean_iteration_tokens": 900.0}) != "prefill_budget"


@pytest.mark.parametrize("unknown", ["max_num_seqs", "max_num_batched_tokens", "mean_iteration_tokens"])
def test_a_limit_that_is_not_known_cannot_be_the_reason(unknown: str):
    figures = {**CALM, **WAITING, "mean_iteration_tokens": 1900.0}
    del figures[unknown]
    assert kind(figures) not in ("slots", "prefill_budget")


def test_a_busy_thread_while_the_devices_idle_is_host_bound():
    found = read_bottleneck(point({**CALM, "busiest_thread_share": 0.99, "device_utilization": 0.35}))
    assert found is not None
    assert found.kind == "host"
    assert found.evidence == "one thread was busy for 99% of the time, the devices for 35%"


def test_a_busy_worker_of_busy_devices_only_waits_for_them():
    assert kind({**CALM, "busiest_thread_share": 1.0, "device_utilization": 0.6}) == "client"


def test_without_device_figures_only_the_servers_threads_tell_that_the_host_is_the_limit():
    assert kind({**CALM, "busiest_thread_share": 1.0, "host_thread_share": 0.5}, **missing("p99_ttft_ms")) == "compute"
    assert kind({**CALM, "busiest_thread_share": 1.0, "host_thread_share": 0.95}, **missing("p99_ttft_ms")) == "host"


def test_without_device_figures_a_busy_thread_that_keeps_the_sla_is_no_limit():
    assert kind({**CALM, "host_thread_share": 0.95}) == "client"


def test_a_full_memory_bus_under_idle_cores_is_bandwidth_bound():
    figures = {**CALM, "memory_bandwidth_utilization": 0.93, "device_utilization": 0.22}
    found = read_bottleneck(point(figures))
    assert found is not None
    assert found.kind == "bandwidth"
    assert found.evidence == "93% of the memory bandwidth was in use, and 22% of the compute cores"
    assert kind({**figures, "memory_bandwidth_utilization": 0.85}) == "client"
    assert kind({**figures, "device_utilization": 0.35}) == "client"


def test_busy_devices_are_compute_bound():
    assert kind({**CALM, "device_utilization": 0.85}) == "compute"


def test_a_ttft_that_is_mostly_queueing_is_no_prefill_problem():
    figures = {**without("max_num_seqs"), **WAITING, "mean_queue_time_ms": 400.0}
    found = read_bottleneck(point(figures, ttft=latency(500.0), **missing("p99_ttft_ms")))
    assert found is not None
    assert found.kind == "queueing"
    assert found.evidence == "of a mean TTFT of 500 ms, 400 ms were queueing and 90 ms prefill"


def test_queueing_below_twice_the_prefill_does_not_explain_a_ttft():
    figures = {**without("max_num_seqs"), **WAITING, "mean_queue_time_ms": 170.0, "mean_prefill_time_ms": 90.0}
    assert kind(figures, ttft=latency(300.0), **missing("p99_ttft_ms")) == "compute"


def test_a_missed_ttft_that_is_mostly_prefill_is_compute_bound():
    assert kind(CALM, **missing("p99_ttft_ms")) == "compute"


def test_missed_tokens_with_nothing_waiting_are_compute_bound():
    found = read_bottleneck(point(CALM, **missing("p99_tpot_ms")))
    assert found is not None
    assert found.kind == "compute"
    assert found.evidence == "a token took 12.0 ms with 60 requests in a batch, and nothing waited"


@pytest.mark.parametrize(
    ("e2el_ms", "evidence"),
    [(900.0, "a token took 12.0 ms"), (190.0, "of a mean TTFT of 100 ms, 90 ms were prefill")],
)
def test_a_missed_answer_time_is_read_by_its_larger_part(e2el_ms: float, evidence: str):
    """100 ms of it are before the first token."""
    found = read_bottleneck(point(CALM, e2el=latency(e2el_ms), **missing("p99_e2el_ms")))
    assert found is not None
    assert found.kind == "compute"
    assert found.evidence.startswith(evidence)


def test_an_sla_that_is_met_with_nothing_waiting_was_limited_by_the_load():
    found = read_bottleneck(point(CALM))
    assert found is not None
    assert found.kind == "client"
    assert found.evidence == (
        "nothing waited: at most 64 of 256 requests were running, the KV cache was up to 40% full"
    )


def test_a_missed_ttft_that_the_scheduler_knows_nothing_of_is_client_bound():
    found = read_bottleneck(point(CALM, ttft=latency(400.0), **missing("p99_ttft_ms")))
    assert found is not None
    assert found.kind == "client"
    assert found.evidence == "of a mean TTFT of 400 ms, the engine's scheduler had the request for 91 ms"


@pytest.mark.parametrize("verdict", [{}, missing("p99_ttft_ms"), missing("error_rate")])
def test_without_figures_nothing_is_told(verdict: dict[str, Any]):
    assert kind({}, **verdict) is None


# Which goes first


EVERYTHING = {
    **CALM,
    **WAITING,
    "preemptions": 100.0,
    "max_num_seqs": 64.0,
    "mean_iteration_tokens": 2000.0,
    "busiest_thread_share": 1.0,
    "device_utilization": 0.2,
    "memory_bandwidth_utilization": 0.95,
    "mean_queue_time_ms": 900.0,
    "mean_prefill_time_ms": 50.0,
}


def test_a_load_that_was_not_offered_says_nothing_about_the_engine():
    found = read_bottleneck(point(EVERYTHING, invalid="the client was 80 ms late"))
    assert found is not None
    assert (found.kind, found.evidence) == ("client", "the client was 80 ms late")


def test_causes_go_before_effects():
    """Take the first reading away, and the next one in the order appears."""
    slow = {"ttft": latency(1000.0), **missing("p99_ttft_ms")}
    figures = dict(EVERYTHING)
    assert kind(figures, **slow) == "kv_cache"
    figures["preemptions"] = 0.0
    assert kind(figures, **slow) == "slots"
    figures["max_num_seqs"] = 256.0
    assert kind(figures, **slow) == "prefill_budget"
    figures["mean_iteration_tokens"] = 70.0
    assert kind(figures, **slow) == "host"
    figures["busiest_thread_share"] = 0.5
    assert kind(figures, **slow) == "bandwidth"
    figures["memory_bandwidth_utilization"] = 0.5
    assert kind(figures, **slow) == "queueing"


def test_a_full_budget_on_busy_devices_is_compute_bound():
    figures = {**CALM, **WAITING, "mean_iteration_tokens": 2000.0, "device_utilization": 0.9}
    assert kind(figures) == "compute"
