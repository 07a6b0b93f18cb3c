"""Utilization and cost of a load point, and where people see them beside the bottleneck."""

import io
import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from autotune.choice import price_of
from autotune.cli import results
from autotune.engine_config import EngineConfig
from autotune.export import ExportSource, export
from autotune.model_card import ModelCard, read_model
from autotune.report.levels import bottleneck_lines, growth_lines, levels_table
from autotune.report.tables import front_table
from autotune.results import (
    Bottleneck,
    FrontPoint,
    Job,
    JobStatus,
    Latency,
    Load,
    LoadPoint,
    Measured,
    ParetoFront,
    Quantile,
    Trial,
    TrialResult,
    cost_per_million_tokens,
)
from autotune.settings import EngineProfile, Settings
from autotune.spec import Devices, Sla
from autotune.study.grid import Grid
from autotune.study.shown import shown
from autotune.trial.reading import Peaks, model_bandwidth_utilization, model_flops_utilization, read

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CARD = ModelCard(
    path=Path("/m"),
    vocab_size=100,
    token_ids=100,
    special_ids=frozenset(),
    max_positions=4096,
    weight_bytes=0,
    layer_parameters=10**9,
)
SLOTS = Bottleneck(kind="slots", evidence="all 4 places were taken", advice="Raise max_num_seqs.")


def latency(value_ms: float) -> Latency:
    quantile = Quantile(percent=99, value_ms=value_ms, lower_ms=value_ms, upper_ms=value_ms)
    return Latency(count=100, mean_ms=value_ms, quantiles=(quantile,))


def point(**changes: Any) -> LoadPoint:
    """5 requests/s of 100 + 21 tokens on two devices."""
    values = {
        "level": 3,
        "load": Load(kind="request_rate", value=2.5),
        "devices": 2,
        "seed": 0,
        "duration_s": 10,
        "completed": 50,
        "failed": 0,
        "request_throughput": 5.0,
        "output_throughput": 105.0,
        "total_token_throughput": 605.0,
        "request_goodput": 5.0,
        "ttft": latency(150),
        "tpot": latency(10),
        "itl": latency(10),
        "e2el": latency(1000),
        "client_lag_ms": 0,
        "violations": {"p99_ttft_ms": -0.3, "error_rate": -1},
    }
    return LoadPoint.model_validate(values | changes)


def trial(point: LoadPoint) -> Trial:
    return Trial(
        number=7,
        purpose="search",
        origin="gp",
        knobs={},
        config=EngineConfig(),
        result=TrialResult(outcome=Measured(points=(point,), operating_level=point.level)),
        started_at=NOW,
        finished_at=NOW,
    )


# Model FLOPs utilization


def test_mfu_is_the_requests_work_over_what_the_devices_could_do():
    """5 requests/s x 120 tokens x 2 FLOPs x 1e9 weights are 1.2 TFLOP/s, of 2 x 3."""
    assert model_flops_utilization(point(), CARD, 3.0) == pytest.approx(0.2)


def test_cached_prompt_tokens_are_no_work():
    """Half of 100 come from the cache: 70 of 120 tokens are computed."""
    cached = point(engine={"prefix_cache_queries": 1000.0, "prefix_cache_hits": 500.0})
    assert model_flops_utilization(cached, CARD, 3.0) == pytest.approx(0.2 * 70 / 120)


def test_the_engines_own_count_goes_first():
    """It counted 3e10 FLOPs a device for each token, at 105 tokens/s."""
    counted = point(engine={"estimated_flops_per_device": 6e12, "generation_tokens": 200.0})
    assert model_flops_utilization(counted, CARD, 3.0) == pytest.approx(3e10 * 105 / 3e12)


def test_there_is_no_mfu_without_a_model_size_a_peak_or_an_answer():
    assert model_flops_utilization(point(), replace(CARD, layer_parameters=0), 3.0) is None
    assert model_flops_utilization(point(completed=0, request_throughput=0.0), CARD, 3.0) is None
    assert read(point(), CARD, Peaks()).mfu is None


def test_a_point_is_read_with_its_bottleneck_and_its_mfu():
    crowded = {
        "max_num_seqs": 4.0,
        "requests_running_max": 4.0,
        "requests_waiting_mean": 9.0,
        "requests_waiting_max": 12.0,
    }
    found = read(point(engine=crowded), CARD, Peaks(tflops=3.0))
    assert found.bottleneck is not None
    assert found.bottleneck.kind == "slots"
    assert found.mfu == pytest.approx(0.2)


# Model bandwidth utilization


STEPS = {"iterations": 300.0, "generation_tokens": 1050.0}  # 2 steps for every 7 tokens: 6 for the 21 of a request


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return dense(tmp_path_factory.mktemp("tied"), tie_word_embeddings=True)


def dense(folder: Path, **more: Any) -> ModelCard:
    """Two layers of 8 x 8 values: by hand 2 (4 · 64 + 3 · 8 · 16 + 2 · 8) + 8 = 1,320 weights and a table of 80."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 10,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config | more))
    return read_model(folder)


def test_mbu_is_the_weights_of_every_step_and_the_cache_of_every_token(tied: ModelCard):
    """A request takes 6 steps of 2 · 1,400 bytes, and 20 of its tokens read 100 to 120 positions of 64 bytes."""
    positions = 20 * 100 + 20 * 21 / 2
    expected = 5 * (6 * 2 * 1400 + 64 * positions) / 2 / 1e6  # 5 requests/s on two devices of 0.001 GB/s
    assert tied.kv_bytes_per_token == 64
    assert model_bandwidth_utilization(point(engine=STEPS), tied, 0.001) == pytest.approx(expected)


def test_of_an_embedding_table_of_its_own_only_rows_are_read(tied: ModelCard, tmp_path: Path):
    """The output layer is as large as the table, so as much is read as with one table for both."""
    apart = dense(tmp_path, tie_word_embeddings=False)
    assert apart.weight_bytes == tied.weight_bytes + 160
    shares = [model_bandwidth_utilization(point(engine=STEPS), card, 0.001) for card in (apart, tied)]
    assert shares[0] == pytest.approx(shares[1])


def test_the_engines_own_count_of_bytes_goes_first(tied: ModelCard):
    """It counted 4e6 bytes a device for each token, at 105 tokens/s."""
    counted = point(engine={**STEPS, "estimated_read_bytes_per_device": 4.2e9})
    assert model_bandwidth_utilization(counted, tied, 1.0) == pytest.approx(4e6 * 105 / 1e9)


def test_there_is_no_mbu_without_steps_a_size_or_a_peak_nor_of_experts(tied: ModelCard):
    assert model_bandwidth_utilization(point(), tied, 1.0) is None
    assert model_bandwidth_utilization(point(engine=STEPS), CARD, 1.0) is None
    assert model_bandwidth_utilization(point(engine=STEPS), replace(tied, expert_bytes=1), 1.0) is None
    assert read(point(engine=STEPS), tied, Peaks()).mbu is None


def test_a_point_whose_reading_takes_the_bandwidth_is_bound_by_it(tied: ModelCard):
    peak = (model_bandwidth_utilization(point(engine=STEPS), tied, 1.0) or 0.0) / 0.7
    found = read(point(engine=STEPS), tied, Peaks(memory_gb_per_s=peak, tflops=1e-9)).bottleneck
    assert found is not None
    assert found.kind == "bandwidth"
    assert "took 70% of the memory bandwidth" in found.evidence
    less = read(point(engine=STEPS), tied, Peaks(memory_gb_per_s=peak * 1.2)).bottleneck
    assert less is None or less.kind != "bandwidth"


def test_what_the_device_says_of_its_bandwidth_goes_before_what_is_computed(tied: ModelCard):
    idle = point(engine={**STEPS, "memory_bandwidth_utilization": 0.2, "device_utilization": 0.2})
    found = read(idle, tied, Peaks(memory_gb_per_s=1e-6))
    assert (found.mbu or 0) > 1
    assert found.bottleneck is None or found.bottleneck.kind != "bandwidth"


# Cost


def test_a_million_tokens_cost_the_time_that_they_take():
    """At 500 tokens/s they take 2,000 s, which is 5/9 of an hour."""
    assert cost_per_million_tokens(3.6, 500.0) == pytest.approx(2.0)
    assert cost_per_million_tokens(3.6, 0.0) is None


def settings(**profiles: EngineProfile) -> Settings:
    return Settings(home=Path("/nowhere"), profiles=profiles)


def test_the_price_is_that_of_the_profile_that_the_job_names():
    spec = {
        "version": 1,
        "name": "chat",
        "model": "m",
        "engine": "npu",
        "devices": {"resource": "NPU"},
        "search_space": "s",
        "workload": "w",
        "sla": {"p99_ttft_ms": 200},
    }
    job = Job(
        id="a",
        name="chat",
        status=JobStatus.SUCCEEDED,
        spec=spec,
        space={},
        workload={},
        model_path="/m",
        folder="/f",
        created_at=NOW,
    )
    priced = EngineProfile(executable=Path("/gone/vllm"), platform="ascend", price_per_device_hour=2.5)
    assert price_of(job, settings(npu=priced)) == 2.5
    assert price_of(job, settings(other=priced)) is None


# The export


def source(measured: LoadPoint, price: float | None = None) -> ExportSource:
    return ExportSource(
        job_id="a1b2",
        job_name="chat",
        model="/m",
        workload="chat-short",
        workload_digest="",
        engine="vllm",
        devices=Devices(resource="CPU"),
        instrument="autotune",
        confirm_runs=3,
        sla=Sla(p99_ttft_ms=200),
        engine_version="0.32.0",
        trial=trial(measured),
        point=measured,
        exported_at=NOW,
        price_per_device_hour=price,
    )


def test_an_export_names_the_bottleneck_and_the_utilization():
    text = export(source(point(bottleneck=SLOTS, mfu=0.381, mbu=0.72)), "vllm")
    assert "# model bandwidth utilization (MBU) 72.0%\n" in text
    assert "# bottleneck at this load: slots (all 4 places were taken)\n" in text
    assert "# model FLOPs utilization (MFU) 38.1%\n" in text


def test_an_export_names_the_cost_of_output_tokens_and_of_all():
    """2 x 3.6 an hour; 105 and 605 tokens/s."""
    text = export(source(point(), 3.6), "vllm")
    assert (
        "# cost at this load and 3.6 per device-hour: 19.05 per million output tokens, 3.306 per million total" in text
    )
    document = json.loads(export(source(point(), 3.6), "json"))
    assert document["cost_per_million_output_tokens"] == pytest.approx(19.0476, abs=1e-3)
    assert document["cost_per_million_total_tokens"] == pytest.approx(3.3058, abs=1e-3)


def test_an_export_says_nothing_of_what_is_not_known():
    text = export(source(point()), "vllm") + export(source(point()), "json")
    assert "cost" not in text
    assert "MFU" not in text
    assert "bottleneck at" not in text


# The terminal and the dashboard


def text_of(table: Any) -> str:
    output = io.StringIO()
    Console(file=output, width=200).print(table)
    return output.getvalue()


def test_the_levels_of_a_trial_show_verdict_bottleneck_and_utilization():
    missed = point(level=4, violations={"p99_ttft_ms": 0.4}, bottleneck=SLOTS, mfu=0.381, mbu=0.72)
    late = point(level=5, invalid="the client was late")
    lines = text_of(levels_table([point(bottleneck=SLOTS), missed, late])).splitlines()
    row = {line.split("│")[1].strip(): line for line in lines if "│" in line}
    assert [row[level].count("met") for level in ("3", "4", "5")] == [1, 0, 0]
    assert "missed" in row["4"]
    assert "38.1%" in row["4"]
    assert "72.0%" in row["4"]
    assert "slots" in row["4"]
    assert "not valid" in row["5"]


def test_a_level_that_was_not_steady_is_marked_and_explained():
    moved = point(level=4, steady=False, drift=3.2, drift_of="tpot")
    lines = text_of(levels_table([point(), moved])).splitlines()
    assert [line.count("met, not steady") for line in lines if "met" in line] == [0, 1]
    assert growth_lines([point(), moved]) == [
        "level 4: not steady: the TPOT of the second half is 3.20x the first; a longer level would show worse figures"
    ]


def test_the_levels_of_one_trial_on_the_command_line_are_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    moved = trial(point(steady=False, drift=3.2, drift_of="tpot", bottleneck=SLOTS))
    there = SimpleNamespace(find=lambda _key: SimpleNamespace(job=SimpleNamespace(id="j")), trials=lambda _id: (moved,))
    monkeypatch.setattr(results, "place", lambda _server: nullcontext(there))
    results.show_trials(None, "latest", moved.number, as_json=False)
    said = capsys.readouterr().out
    assert "level 3: not steady: the TPOT of the second half is 3.20x the first" in said
    assert "level 3: slots: all 4 places were taken" in said


def test_without_a_peak_there_is_no_column_for_the_utilization():
    assert "MFU" not in text_of(levels_table([point()]))


def test_every_reading_is_explained_in_a_sentence():
    assert bottleneck_lines([point(), point(level=4, bottleneck=SLOTS)]) == [
        "level 4: slots: all 4 places were taken. Raise max_num_seqs."
    ]


FRONT = ParetoFront(
    points=(
        FrontPoint(
            trial=7,
            level=3,
            load=Load(kind="request_rate", value=2.5),
            output_throughput_per_device=52.5,
            p99_ttft_ms=150.0,
            request_throughput=5.0,
        ),
    )
)


def test_the_front_shows_costs_only_with_a_price():
    priced = text_of(front_table(FRONT, (trial(point()),), 3.6))
    assert "19.05" in priced
    assert "3.306" in priced
    assert "cost" not in text_of(front_table(FRONT, (trial(point()),)))


def test_a_level_that_was_ended_before_anybody_was_served_or_failed_is_shown_too():
    """Only requests that were late when it ended: none failed, and the study says that there is no P99."""
    late = latency(0.0).model_copy(
        update={"quantiles": (Quantile(percent=99, value_ms=None, lower_ms=None, upper_ms=None),)}
    )
    nobody = point(
        completed=0,
        failed=0,
        unfinished=300,
        aborted=True,
        ttft=late,
        violations={"p99_ttft_ms": 1.5, "error_rate": -1.0},
    )
    assert nobody.error_rate == 0.0
    assert shown(trial(nobody), Grid(()), Sla(p99_ttft_ms=200)).values is None


def test_the_dashboard_shows_the_reading_beside_the_values():
    found = shown(trial(point(bottleneck=SLOTS, mfu=0.38123, mbu=0.72)), Grid(()), Sla(p99_ttft_ms=200)).attributes
    assert found["bottleneck"] == "slots: all 4 places were taken. Raise max_num_seqs."
    assert (found["MFU"], found["MBU"]) == (0.3812, 0.72)
