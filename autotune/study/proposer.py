"""The proposer: a pure function from the trials so far to the next configuration.

Before each ask an in-memory Optuna study is rebuilt with every knob as an index into its levels, so a restart is a
replay, no zombie trial poisons the acquisition, and nobody sees an index or an imputed value.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.engine_config import Value
from autotune.measurement import sla_crossing_throughput
from autotune.results import Infeasible, LoadPoint, Measured, Trial
from autotune.spec import Sla
from autotune.study import constraints
from autotune.study.grid import MAX_LISTED, Grid, Point
from autotune.study.samplers import GENERATION, POPULATION, available, sampler

FAR_POINTS = 512  # of the Sobol sequence that are looked at when nothing near a proposal is free
NOTHING_YET = (0.0, math.log(1e6))  # throughput, and log(P99 TTFT in ms): what a failed launch counts as at first


@dataclass(frozen=True, slots=True)
class Plan:
    """What the proposer needs to know of a job."""

    grid: Grid
    sla: Sla
    placement: Mapping[str, Value]  # where the engine's defaults lie
    recipes: Mapping[str, Mapping[str, Value]]  # named starting points, tried first
    start_points: int  # recipes and Sobol points before the model proposes
    sampler: str
    objectives: str  # "throughput" or "pareto"
    seed: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next configuration and where it comes from: `recipe:NAME`, `sobol`, or the sampler's name."""

    knobs: dict[str, Value]
    origin: str


def propose(plan: Plan, trials: Sequence[Trial], accept: Callable[[dict[str, Value]], bool]) -> Proposal | None:
    """The next configuration to launch; None when no acceptable point is left.

    `trials` are the baseline and search trials, running ones included. `accept` says whether a configuration keeps
    the rules and was not tried yet; a proposal that is refused is replaced by the nearest acceptable one.
    """
    recipe = _next_recipe(plan, trials, accept)
    if recipe is not None:
        return recipe
    point, origin = _next_point(plan, trials)
    free = plan.grid.nearest_free(point, accept)
    if free is not None:
        return Proposal(plan.grid.values(free), origin)
    return _elsewhere(plan, accept)


def _elsewhere(plan: Plan, accept: Callable[[dict[str, Value]], bool]) -> Proposal | None:
    """In a grid too large to be listed, a free point that is far from what was proposed; bounded tries."""
    if plan.grid.size <= MAX_LISTED:
        return None
    for index in range(FAR_POINTS):
        values = plan.grid.values(plan.grid.sobol(index, plan.seed))
        if accept(values):
            return Proposal(values, "sobol")
    return None


def _next_recipe(plan: Plan, trials: Sequence[Trial], accept: Callable[[dict[str, Value]], bool]) -> Proposal | None:
    tried = {trial.origin for trial in trials}
    if _searched(trials) >= plan.start_points:
        return None
    for name, knobs in plan.recipes.items():
        values = plan.grid.values(plan.grid.point(knobs, plan.placement))
        if f"recipe:{name}" not in tried and accept(values):
            return Proposal(values, f"recipe:{name}")
    return None


def _next_point(plan: Plan, trials: Sequence[Trial]) -> tuple[Point, str]:
    used = available(plan.sampler) if plan.sampler != "qmc" else "qmc"
    if used == "qmc" or _searched(trials) < plan.start_points:
        index = sum(trial.origin == "sobol" for trial in trials)
        return plan.grid.sobol(index, plan.seed), "sobol"
    return _ask(plan, trials, used), used


def _searched(trials: Sequence[Trial]) -> int:
    return sum(trial.purpose == "search" for trial in trials)


def _ask(plan: Plan, trials: Sequence[Trial], name: str) -> Point:
    seed = int(np.random.SeedSequence([plan.seed, len(trials)]).generate_state(1)[0])
    both = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    directions = both if plan.objectives == "pareto" else both[:1]
    study = optuna.create_study(directions=directions, sampler=sampler(name, seed))
    distributions = _distributions(plan.grid)
    study.add_trials(_frozen_trials(plan, trials, distributions))
    asked = study.ask(distributions)
    return tuple(asked.params[knob.name] for knob in plan.grid.knobs)


def _distributions(grid: Grid) -> dict[str, BaseDistribution]:
    return {
        knob.name: IntDistribution(0, len(knob.levels) - 1)
        if knob.ordered
        else CategoricalDistribution(range(len(knob.levels)))
        for knob in grid.knobs
    }


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What one measured trial teaches."""

    values: tuple[float, ...]
    constraints: dict[str, float]


def _lesson(plan: Plan, outcome: Measured) -> _Lesson:
    point = constraints.proposer_point(outcome)
    throughput = sla_crossing_throughput(outcome.points)
    limits = constraints.measured(point, plan.sla)
    if plan.objectives != "pareto":
        return _Lesson((throughput,), limits)
    return _Lesson((throughput, _log_p99_ttft(point)), limits)


def _log_p99_ttft(point: LoadPoint) -> float:
    """log(P99 TTFT in ms); without a P99 (too many failed requests) e^1.5 times the latest percentile there is."""
    if point.p99_ttft_ms is not None:
        return math.log(max(point.p99_ttft_ms, 1e-3))
    latest = max((q.value_ms for q in point.ttft.quantiles if q.value_ms is not None), default=point.duration_s * 1e3)
    return math.log(max(latest, 1e-3)) + constraints.WORST


def _frozen_trials(
    plan: Plan, trials: Sequence[Trial], distributions: dict[str, BaseDistribution]
) -> list[FrozenTrial]:
    outcomes = [trial.result.outcome if trial.result else None for trial in trials]
    lessons = {i: _lesson(plan, o) for i, o in enumerate(outcomes) if isinstance(o, Measured)}
    failed = _failed_launch(plan, list(lessons.values()))
    frozen = []
    for i, (trial, outcome) in enumerate(zip(trials, outcomes, strict=True)):
        point = plan.grid.point(trial.knobs, plan.placement)
        params = dict(zip(distributions, point, strict=True))
        if outcome is None:
            frozen.append(create_trial(state=TrialState.RUNNING, params=params, distributions=distributions))
        elif i in lessons or isinstance(outcome, Infeasible):
            lesson = lessons.get(i, failed)
            frozen.append(
                create_trial(
                    values=lesson.values,
                    params=params,
                    distributions=distributions,
                    constraints=lesson.constraints,
                    system_attrs={GENERATION: len(frozen) // POPULATION},
                )
            )
    return frozen


def _failed_launch(plan: Plan, successes: list[_Lesson]) -> _Lesson:
    """The median of the successes; told as FAIL a launch failure would teach a sampler nothing."""
    count = 2 if plan.objectives == "pareto" else 1
    values = tuple(median(s.values[i] for s in successes) if successes else NOTHING_YET[i] for i in range(count))
    return _Lesson(values, constraints.imputed([s.constraints for s in successes], plan.sla))
