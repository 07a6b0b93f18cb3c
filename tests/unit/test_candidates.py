"""What may be launched next: nothing that was judged or runs already, under whatever name."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.results import Evidence, FailureClass, Interrupted, LoadPoint, Measured, Trial, TrialResult
from autotune.tuner.candidates import Candidates
from autotune.tuner.context import JobContext

TINY = runpy.run_path(str(Path(__file__).parents[1] / "data" / "tiny_job.py"))
SIZE = 18  # points of the tiny space: 3 x 3 x 2

MakeContext = Callable[..., JobContext]
MakePoint = Callable[..., LoadPoint]
Ended = Callable[..., Trial]


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    return TINY["job_context"](tmp_path, {"trials": 40, "start_points": 3})


@pytest.fixture
def candidates(context: JobContext) -> Candidates:
    return Candidates(context)


@pytest.fixture
def measured(make_point: MakePoint) -> Ended:
    """The trial, measured; an engine that says nothing about its configuration unless told."""

    def end(trial: Trial, **effective: str) -> Trial:
        outcome = Measured(points=(make_point(),), operating_level=0, effective_config=effective)
        return trial.model_copy(update={"result": TrialResult(outcome=outcome)})

    return end


def interrupted(trial: Trial, failure: FailureClass) -> Trial:
    evidence = Evidence(failure=failure, signature=None, cause="It ended.", advice="")
    return trial.model_copy(update={"result": TrialResult(outcome=Interrupted(evidence=evidence))})


def every_next(
    candidates: Candidates, trials: list[Trial], end: Callable[[Trial], Trial], most: int = 2
) -> list[Trial]:
    """Ask until nothing is left, each proposal ended before the next one is asked for."""
    rows = list(trials)
    while (trial := candidates.proposed(rows, len(rows), most)) is not None:
        rows.append(end(trial))
        assert len(rows) < 100
    return rows[len(trials) :]


def test_the_baseline_gives_the_engine_no_searched_argument(candidates: Candidates):
    row = candidates.baseline(0)
    assert (row.number, row.purpose, row.origin) == (0, "baseline", "baseline")
    assert row.config.arguments == {"max_model_len": 64}
    assert row.knobs == {"max_num_seqs": 16, "block_size": 128, "tensor_parallel_size": 1}


def test_a_job_without_trials_lacks_its_baseline(candidates: Candidates):
    assert candidates.lack_baseline([])


def test_a_baseline_that_runs_or_was_judged_is_not_lacking(candidates: Candidates, measured: Ended):
    row = candidates.baseline(0)
    assert not candidates.lack_baseline([row])
    assert not candidates.lack_baseline([measured(row)])


@pytest.mark.parametrize("failure", [FailureClass.CANCELLED, FailureClass.ENVIRONMENT, FailureClass.NODE])
def test_a_baseline_that_was_interrupted_is_launched_again_under_a_new_number(
    failure: FailureClass, candidates: Candidates, measured: Ended
):
    lost = interrupted(candidates.baseline(0), failure)
    assert candidates.lack_baseline([lost])
    again = candidates.baseline(1)
    assert (again.number, again.config) == (1, lost.config)
    assert not candidates.lack_baseline([lost, measured(again)])


def test_every_point_but_the_baselines_is_proposed_exactly_once(candidates: Candidates, measured: Ended):
    rows = every_next(candidates, [measured(candidates.baseline(0))], measured)
    assert len({row.config.hash for row in rows}) == len(rows) == SIZE - 1
    assert {"max_num_seqs": 16, "block_size": 128, "tensor_parallel_size": 1} not in [row.knobs for row in rows]


def test_running_trials_are_not_proposed_again(candidates: Candidates, measured: Ended):
    """A parallel batch: nothing has ended yet when the next is asked for."""
    rows = every_next(candidates, [measured(candidates.baseline(0))], lambda trial: trial)
    assert len({row.config.hash for row in rows}) == len(rows) == SIZE - 1


def test_failed_launches_are_not_proposed_again(candidates: Candidates, measured: Ended, make_trial: Any):
    def fail(trial: Trial) -> Trial:
        return trial.model_copy(update={"result": make_trial(1, {}, oom=True).result})

    rows = every_next(candidates, [measured(candidates.baseline(0))], fail)
    assert len({row.config.hash for row in rows}) == len(rows) == SIZE - 1


def test_what_runs_as_another_configuration_is_that_one(candidates: Candidates, measured: Ended):
    """The engine makes 128 of a block size of 16: 6 of the 18 points are others by another name."""

    def end(trial: Trial) -> Trial:
        block = trial.config.arguments.get("block_size", 128)
        return measured(trial, block_size=str(128 if block == 16 else block))

    rows = every_next(candidates, [end(candidates.baseline(0))], end)
    truly = [
        (row.knobs["max_num_seqs"], row.knobs["tensor_parallel_size"]) for row in rows if row.knobs["block_size"] != 64
    ]
    assert sum(row.knobs["block_size"] == 64 for row in rows) == 6
    # The first with 16 had to be launched to find out; where that was known before, one of the two is enough.
    assert len(truly) - len(set(truly)) <= 1


def test_a_trial_that_was_cancelled_comes_again_and_nothing_else_changes(candidates: Candidates, measured: Ended):
    """As if the job had never been stopped: same knobs, same origin, a new number."""
    rows = [measured(candidates.baseline(0))]
    first = candidates.proposed(rows, 1, 2)
    assert first is not None
    again = candidates.proposed([*rows, interrupted(first, FailureClass.CANCELLED)], 2, 2)
    assert again is not None
    assert (again.number, again.knobs, again.origin) == (2, first.knobs, first.origin)


def test_a_trial_that_was_lost_otherwise_does_not_come_again(candidates: Candidates, measured: Ended):
    rows = every_next(
        candidates, [measured(candidates.baseline(0))], lambda trial: interrupted(trial, FailureClass.NODE)
    )
    assert len({row.config.hash for row in rows}) == len(rows) == SIZE - 1


def test_nothing_wider_than_the_devices_is_proposed(candidates: Candidates, measured: Ended):
    rows = every_next(candidates, [measured(candidates.baseline(0))], measured, most=1)
    assert {row.config.devices for row in rows} == {1}
    assert len(rows) == SIZE / 2 - 1


def test_a_configuration_that_breaks_a_rule_is_not_proposed(tmp_path: Path, measured: Ended):
    rule = {"kind": "at_most", "left": "max_num_seqs", "right": 8, "reason": "more does not fit"}
    space = {**TINY["SPACE"], "starting_points": {"baseline": {**TINY["DEFAULTS"], "max_num_seqs": 8}}, "rules": [rule]}
    candidates = Candidates(TINY["job_context"](tmp_path, {"trials": 40}, space=space))
    rows = every_next(candidates, [measured(candidates.baseline(0))], measured)
    assert {row.knobs["max_num_seqs"] for row in rows} == {4, 8}


def test_a_restart_proposes_the_same(context: JobContext, measured: Ended):
    one = every_next(Candidates(context), [measured(Candidates(context).baseline(0))], measured)
    other = every_next(Candidates(context), [measured(Candidates(context).baseline(0))], measured)
    assert [row.knobs for row in one] == [row.knobs for row in other]
