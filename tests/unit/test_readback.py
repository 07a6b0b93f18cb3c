"""What an engine says of its gauges and limits."""

from pathlib import Path

import pytest

from autotune.engine_config import EngineConfig
from autotune.engines import readback

EXPOSITION = (Path(__file__).parent.parent / "data" / "vllm032_metrics.prom").read_text()
TWO_ENGINES = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m {x}"} 3.0
vllm:num_requests_running{engine="1",model_name="m {x}"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m {x}"} 5.0
vllm:num_requests_waiting{engine="1",model_name="m {x}"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m {x}",reason="capacity"} 5.0
vllm:kv_cache_usage_perc{engine="0",model_name="m {x}"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m {x}"} 0.75
"""


def test_the_gauges_of_a_real_exposition_are_those_among_its_counters():
    known = readback.counters(EXPOSITION)
    expected = {
        name: known[name] for name in ("requests_running", "requests_waiting", "kv_cache_usage", "generation_tokens")
    }
    assert readback.gauges(EXPOSITION) == {**expected, "engines": 1.0}


def test_requests_add_up_over_engines_and_the_fullest_cache_counts():
    assert readback.gauges(TWO_ENGINES) == {
        "requests_running": 4.0,
        "requests_waiting": 5.0,
        "kv_cache_usage": 0.75,
        "engines": 2.0,
    }


def test_an_engine_that_does_not_answer_has_no_gauges():
    assert readback.gauges("") == {}


def test_the_engines_own_flops_are_of_one_device_whatever_the_number_of_engines():
    sample = 'vllm:estimated_flops_per_gpu_total{{engine="{}"}} {}\n'
    text = sample.format(0, "2e12") + sample.format(1, "4e12")
    assert readback.counters(text) == {"estimated_flops_per_device": 3e12}


def test_flops_that_the_engine_does_not_count_are_no_zero():
    assert "vllm:estimated_flops_per_gpu_total" in EXPOSITION
    assert "estimated_flops_per_device" not in readback.counters(EXPOSITION)


def test_limits_are_what_the_engine_runs_with_before_what_it_was_asked():
    config = EngineConfig(arguments={"max_num_seqs": 64, "max_num_batched_tokens": 512})
    found = readback.limits(config, {"max_num_batched_tokens": "2048"})
    assert found == {"max_num_seqs": 64.0, "max_num_batched_tokens": 2048.0}


def test_a_limit_that_nobody_names_is_left_out():
    assert readback.limits(EngineConfig(arguments={"max_num_seqs": None}), {}) == {}
    assert readback.limits(EngineConfig(arguments={"max_num_seqs": "auto"}), {}) == {}


@pytest.mark.parametrize(
    "text",
    ["Not found\n", "metrics are off\n", "<html><script>\nvar x = 1;\n</script>", "vllm:num_preemptions_total NaN\n"],
)
def test_what_is_no_exposition_counts_nothing(text: str) -> None:
    assert readback.counters(text) == {}
    assert readback.gauges(text) == {}
    assert readback.effective_values(text, "") == {}
