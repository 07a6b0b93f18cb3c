"""From a stored job and a selection to the evidence of an export."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from autotune.choice import source_of
from autotune.export import export
from autotune.results import Confirmation, Job, JobResult, JobStatus, LoadPoint, Trial
from autotune.selection import pareto_front, recommend
from autotune.spec import Sla

SLA = Sla.model_validate({"p99_ttft_ms": 200})
SPEC = {
    "version": 1,
    "name": "demo",
    "model": "m",
    "devices": {"resource": "CPU"},
    "search_space": "cpu",
    "workload": "chat",
    "sla": {"p99_ttft_ms": 200},
}


@pytest.fixture
def finished(make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint]) -> tuple[Job, tuple[Trial, ...]]:
    """Trial 1 was confirmed at 8 concurrent (level 1) with 800 tok/s; at 4 concurrent it had 200."""
    base = [make_point(100.0, 400.0, level=1, value=8)]
    points = [make_point(50.0, 200.0, level=0, value=4), make_point(150.0, 810.0, level=1, value=8)]
    trials = (make_trial(0, {"max_num_seqs": 8}, *base), make_trial(1, {"max_num_seqs": 64}, *points))
    again = [
        Confirmation(
            trial=trial.number,
            load=run.load,
            runs=(run,),
            holds=True,
            output_throughput_per_device=run.output_throughput,
            p99_ttft_ms=run.p99_ttft_ms,
        )
        for trial, run in zip(trials, (base[0], make_point(150.0, 800.0, level=1, value=8)), strict=True)
    ]
    result = JobResult(
        stopped_by="trials",
        front=pareto_front(trials),
        recommendation=recommend(trials, again, SLA),
        confirmations=tuple(again),
    )
    job = Job(
        id="demo-1",
        name="demo",
        status=JobStatus.SUCCEEDED,
        spec=SPEC,
        space={},
        workload={},
        model_path="/models/m",
        folder="",
        result=result,
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    return job, trials


def test_the_recommendation_carries_its_re_runs(finished: tuple[Job, tuple[Trial, ...]]) -> None:
    source = source_of(*finished, "recommended")
    assert source is not None
    assert "this configuration has 2.00 times its throughput" in export(source, "vllm")


def test_a_level_that_was_not_measured_again_borrows_nothing_from_one_that_was(
    finished: tuple[Job, tuple[Trial, ...]],
) -> None:
    source = source_of(*finished, "trial=1:0")
    assert source is not None
    text = export(source, "vllm")
    assert "not confirmed by re-runs" in text
    assert "this configuration has 0.50 times its throughput" in text


def test_the_comparison_of_the_re_runs_is_told_at_their_level_only(finished: tuple[Job, tuple[Trial, ...]]) -> None:
    told = [source_of(*finished, select) for select in ("trial=1:1", "trial=1:0")]
    assert [source is not None and source.comparison is not None for source in told] == [True, False]


@pytest.fixture
def reset(
    finished: tuple[Job, tuple[Trial, ...]], make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint]
) -> tuple[Job, tuple[Trial, ...]]:
    """Trial 2 is recommended at level 1; of its three runs there the first is invalid and the second too late."""
    job, trials = finished
    runs = [make_point(ttft, throughput, level=1, value=8) for ttft, throughput in ((1, 1), (900, 2), (100, 3))]
    runs[0] = runs[0].model_copy(update={"invalid": "the client was too slow"})
    trial = make_trial(2, {"max_num_seqs": 64}, *runs).model_copy(update={"purpose": "ablation"})
    assert job.result is not None
    choice = job.result.recommendation.model_copy(update={"trial": 2})
    result = job.result.model_copy(update={"recommendation": choice})
    return job.model_copy(update={"result": result}), (*trials, trial)


def test_of_several_runs_the_first_that_is_valid_and_feasible_is_exported(reset: tuple[Job, tuple[Trial, ...]]) -> None:
    source = source_of(*reset, "recommended")
    assert source is not None
    assert source.point.output_throughput == 3


@pytest.mark.parametrize("select", ["trial=2", "trial=2:1"])
def test_a_recommended_reset_can_be_picked_by_its_number(select: str, reset: tuple[Job, tuple[Trial, ...]]) -> None:
    source = source_of(*reset, select)
    assert source is not None
    assert source.trial.number == 2
