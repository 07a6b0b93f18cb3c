"""The proposer: a pure function from the trials so far to the next configuration."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from autotune.engine_config import Value
from autotune.results import LoadPoint, Trial
from autotune.spec import Sla
from autotune.study import proposer
from autotune.study.grid import Grid, Knob
from autotune.study.proposer import Plan, propose

SLA = Sla.model_validate({"p99_ttft_ms": 200})
GRID = Grid(
    (
        Knob("max_num_seqs", (4, 8, 16, 32, 64, 128), ordered=True),
        Knob("max_num_batched_tokens", (256, 512, 1024, 2048), ordered=True),
        Knob("cudagraph_mode", ("NONE", "FULL"), ordered=False),
    )
)
DEFAULTS = {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "cudagraph_mode": "FULL"}

MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "grid": GRID,
        "sla": SLA,
        "placement": DEFAULTS,
        "recipes": {"low-latency": DEFAULTS | {"max_num_seqs": 16}},
        "start_points": 3,
        "sampler": "tpe",
        "objectives": "throughput",
        "seed": 5,
    }
    return Plan(**(fields | changes))


def anything(_knobs: dict[str, Value]) -> bool:
    return True


@pytest.fixture
def history(make_trial: MakeTrial, make_point: MakePoint) -> list[Trial]:
    """A baseline, a recipe, a Sobol point that ran out of memory and one that violates the SLA."""
    return [
        make_trial(0, DEFAULTS, make_point(150.0, 900.0)),
        make_trial(1, DEFAULTS | {"max_num_seqs": 16}, make_point(90.0, 600.0), origin="recipe:low-latency"),
        make_trial(2, DEFAULTS | {"max_num_seqs": 64, "max_num_batched_tokens": 512}, oom=True),
        make_trial(3, DEFAULTS | {"max_num_seqs": 32, "max_num_batched_tokens": 256}, make_point(260.0, 950.0)),
    ]


def test_recipes_come_right_after_the_baseline(make_trial: MakeTrial, make_point: MakePoint) -> None:
    proposal = propose(plan(), [make_trial(0, DEFAULTS, make_point())], anything)
    assert proposal is not None
    assert (proposal.origin, proposal.knobs["max_num_seqs"]) == ("recipe:low-latency", 16)


def test_sobol_points_fill_the_start_design(make_trial: MakeTrial, history: list[Trial]) -> None:
    proposal = propose(plan(), history[:2], anything)
    assert proposal is not None
    assert proposal.origin == "sobol"


def test_the_sampler_proposes_after_the_start_design(history: list[Trial]) -> None:
    proposal = propose(plan(), history, anything)
    assert proposal is not None
    assert proposal.origin == "tpe"


@pytest.mark.parametrize("sampler", ["gp", "tpe", "nsga2", "random", "qmc"])
@pytest.mark.parametrize("objectives", ["throughput", "pareto"])
def test_every_sampler_proposes_levels_of_the_grid(history: list[Trial], sampler: str, objectives: str) -> None:
    proposal = propose(plan(sampler=sampler, objectives=objectives), history, anything)
    assert proposal is not None
    assert all(proposal.knobs[knob.name] in knob.levels for knob in GRID.knobs)


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_restart_proposes_the_same(history: list[Trial], sampler: str) -> None:
    assert propose(plan(sampler=sampler), history, anything) == propose(plan(sampler=sampler), history, anything)


def test_running_trials_do_not_stop_the_sampler(make_trial: MakeTrial, history: list[Trial]) -> None:
    running = make_trial(4, DEFAULTS | {"max_num_seqs": 8})
    assert propose(plan(sampler="gp"), [*history, running], anything) is not None


def test_a_conditional_knob_that_is_inactive_does_not_break_the_history(
    make_trial: MakeTrial, make_point: MakePoint, history: list[Trial]
) -> None:
    without = make_trial(4, {"max_num_seqs": 8, "cudagraph_mode": "NONE"}, make_point())
    assert propose(plan(sampler="gp"), [*history, without], anything) is not None


def test_what_was_tried_is_replaced_by_the_nearest_free_configuration(history: list[Trial]) -> None:
    free = {"max_num_seqs": 8, "max_num_batched_tokens": 1024, "cudagraph_mode": "NONE"}
    proposal = propose(plan(), history, lambda knobs: knobs == free)
    assert proposal is not None
    assert proposal.knobs == free


def test_an_exhausted_space_gives_no_proposal(history: list[Trial]) -> None:
    assert propose(plan(), history, lambda _knobs: False) is None


def test_a_space_too_large_to_list_is_not_exhausted_while_something_far_away_is_free(history: list[Trial]) -> None:
    """16^5 points: the first that is free is further away than the proposer looks around a proposal."""
    wide = Grid(tuple(Knob(f"k{i}", tuple(range(16)), ordered=True) for i in range(5)))
    zeros = {knob.name: 0 for knob in wide.knobs}
    far = wide.values(wide.sobol(300, 5))
    proposal = propose(
        plan(grid=wide, placement=zeros, recipes={}, start_points=0), history, lambda knobs: knobs == far
    )
    assert proposal is not None
    assert proposal.knobs == far


def test_a_failed_launch_is_told_as_the_median_of_the_successes_with_its_constraint(history: list[Trial]) -> None:
    frozen = proposer._frozen_trials(plan(), history, proposer._distributions(GRID))
    assert frozen[2].values == [900.0]  # the median of 900, 600 and 950
    assert frozen[2].constraints["launch"] == 1.0
    assert frozen[2].constraints["p99_ttft_ms"] == pytest.approx(150 / 200 - 1)


def test_a_failed_launch_without_any_success_is_told_as_the_worst(make_trial: MakeTrial) -> None:
    frozen = proposer._frozen_trials(plan(), [make_trial(0, DEFAULTS, oom=True)], proposer._distributions(GRID))
    assert frozen[0].values == [0.0]
    assert frozen[0].constraints == {"launch": 1.0, "p99_ttft_ms": 1.5, "error_rate": 1.5}


def test_every_told_trial_has_every_constraint_in_one_order(history: list[Trial]) -> None:
    frozen = proposer._frozen_trials(plan(), history, proposer._distributions(GRID))
    assert {tuple(trial.constraints) for trial in frozen} == {("launch", "p99_ttft_ms", "error_rate")}


def test_without_a_p99_the_second_objective_is_far_beyond_what_was_seen(
    make_trial: MakeTrial, make_point: MakePoint
) -> None:
    lost = make_trial(0, DEFAULTS, make_point(None, 300.0, failed=30))
    (frozen,) = proposer._frozen_trials(plan(objectives="pareto"), [lost], proposer._distributions(GRID))
    assert frozen.values == [300.0, pytest.approx(math.log(10_000) + 1.5)]  # the level lasted 10 s


def test_nsga2_learns_from_its_generations(make_trial: MakeTrial, make_point: MakePoint) -> None:
    """The history is rebuilt for every ask: without generations in it, nsga2 would be a random search."""
    knobs = [GRID.values((a, b, c)) for a in (5, 0, 1, 2, 3, 4) for b in range(4) for c in range(2)]
    trials = [
        make_trial(n, k, make_point(100.0, 1000.0 if k["max_num_seqs"] == 128 else 10.0)) for n, k in enumerate(knobs)
    ]
    proposed = [propose(plan(sampler="nsga2", seed=seed), trials, anything) for seed in range(20)]
    assert sum(p is not None and p.knobs["max_num_seqs"] == 128 for p in proposed) >= 10  # at random: 3.3
