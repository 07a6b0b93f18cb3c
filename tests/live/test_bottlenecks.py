"""The real vLLM with configurations made to be held back in one way each: the reading names it."""

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.platforms import cpu
from autotune.results import LoadPoint, Measured
from autotune.trial import Control, Grant, TrialRequest, run_trial
from autotune.trial.reading import model_bandwidth_utilization, model_flops_utilization
from autotune.tuner.context import JobContext
from autotune.workload import Workload, given_levels, with_data_file

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

PATIENT = {"p99_ttft_ms": 60_000.0, "p99_tpot_ms": 60_000.0}  # the ladder climbs to its end


def workload(
    context: JobContext, users: tuple[int, ...], *, tokens_in: int, tokens_out: int, requests: int
) -> Workload:
    """A closed loop of requests of one size."""
    document = context.workload.model_dump(mode="json") | {
        "dataset": {
            "kind": "synthetic",
            "input_tokens": {"kind": "fixed", "tokens": tokens_in},
            "output_tokens": {"kind": "fixed", "tokens": tokens_out},
        },
        "levels": users,
        "requests_per_level": requests,
        "warmup_requests": 8,
    }
    return Workload.model_validate(document)


def measured(context: JobContext, number: int, arguments: dict[str, Any], load: Workload, **promise: float) -> Measured:
    """A trial of the demo's configuration with these arguments, on every core."""
    config = context.configuration({"max_num_seqs": 64, "max_num_batched_tokens": 512, "block_size": 32})
    more = {"max_model_len": 1024, **arguments}
    asked = TrialRequest(
        job=context.job.id,
        number=number,
        config=config.model_copy(update={"arguments": {**config.arguments, **more}}),
        profile=context.profile.model_copy(update={"peak_tflops": 1.0}),
        resource="CPU",
        model=context.model,
        engine_version=context.engine.version,
        workload=load,
        sla=context.spec.sla.model_copy(update=PATIENT | promise),
        levels=given_levels(load),
        search_seed=1,
        confirm_seeds=(),
        folder=context.folder,
    )
    outcome = run_trial(asked, Grant((), len(cpu.discover())), Control()).outcome
    assert isinstance(outcome, Measured), outcome
    return outcome


def kinds(outcome: Measured) -> list[str | None]:
    return [point.bottleneck.kind if point.bottleneck else None for point in outcome.points]


@pytest.fixture(scope="module")
def few_places(context: JobContext) -> Measured:
    """Two users, then twelve, for four places."""
    load = workload(context, (2, 12), tokens_in=32, tokens_out=48, requests=72)
    return measured(context, 11, {"max_num_seqs": 4}, load)


def test_more_users_than_places_are_slot_bound_and_fewer_leave_the_engine_idle(few_places: Measured):
    assert kinds(few_places) == ["client", "slots"]


def test_the_figures_of_a_level_are_those_of_the_real_engine(few_places: Measured):
    _, crowded = few_places.points
    assert crowded.engine["max_num_seqs"] == 4
    assert crowded.engine["requests_running_max"] in (3, 4)
    assert 4 <= crowded.engine["requests_waiting_max"] <= 9
    assert crowded.engine["engine_cpu_cores"] > 0.2
    assert 0 < crowded.engine["host_thread_share"] <= crowded.engine["busiest_thread_share"] <= 1.0


def test_the_share_of_the_peak_is_that_of_the_models_size(few_places: Measured):
    """786,432 + 2,162,688 weights in the layers, 98,304 of the output layer; 32 tokens in, 48 out."""
    point: LoadPoint = few_places.points[-1]
    flops = 2 * 2_949_120 * 79 + 2 * 98_304 * 48 + 4096 * 79 * 80 / 2
    assert point.mfu == pytest.approx(point.request_throughput * flops / 1e12)


def test_few_blocks_are_kv_bound(context: JobContext):
    load = workload(context, (12,), tokens_in=128, tokens_out=64, requests=48)
    few = {"num_gpu_blocks_override": 22, "max_model_len": 512}
    assert kinds(measured(context, 12, few, load)) == ["kv_cache"]


def test_long_prompts_in_short_steps_are_bound_by_the_prefill_budget(context: JobContext):
    load = workload(context, (12,), tokens_in=480, tokens_out=4, requests=48)
    assert kinds(measured(context, 13, {"max_num_batched_tokens": 64}, load)) == ["prefill_budget"]


def test_a_long_prompt_alone_takes_the_time_to_compute_it(context: JobContext):
    """In one step, before a limit that nothing could meet."""
    load = workload(context, (1,), tokens_in=900, tokens_out=8, requests=24)
    outcome = measured(context, 17, {"max_num_batched_tokens": 1024}, load, p99_ttft_ms=1.0)
    assert kinds(outcome) == ["compute"]
    assert "ms were prefill" in outcome.points[0].bottleneck.evidence


def test_bursts_queue_for_places_that_are_free_most_of_the_time(context: JobContext, tmp_path: Path):
    """Eight requests at once for four places, every ten seconds: on the average next to nobody waits."""
    rows = [
        {"timestamp_s": 10 * burst + number / 1000, "input_tokens": 32, "output_tokens": 24}
        for burst in range(4)
        for number in range(8)
    ]
    (tmp_path / "bursts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = workload(context, (1,), tokens_in=32, tokens_out=24, requests=len(rows)).model_dump(mode="json") | {
        "dataset": {"kind": "trace", "path": "bursts.jsonl", "max_input_tokens": 64, "max_output_tokens": 64},
        "arrival": {"kind": "replay"},
    }
    load = with_data_file(Workload.model_validate(document), tmp_path)
    outcome = measured(context, 14, {"max_num_seqs": 4}, load)
    assert kinds(outcome) == ["queueing"], outcome.points[0].engine


def test_what_is_read_of_the_memory_is_what_the_engine_counts(context: JobContext):
    """It counts activations too, and a batch's KV cache in whole; weights are most of both."""
    load = workload(context, (4,), tokens_in=64, tokens_out=48, requests=48)
    (point,) = measured(context, 16, {"enable_mfu_metrics": True}, load).points
    ours = point.model_copy(update={"engine": {k: v for k, v in point.engine.items() if not k.startswith("estimated")}})
    for share, within in ((model_bandwidth_utilization, 0.15), (model_flops_utilization, 0.05)):
        assert share(ours, context.model, 1.0) == pytest.approx(share(point, context.model, 1.0), rel=within)
        assert share(ours, context.model, 1.0) != share(point, context.model, 1.0)
