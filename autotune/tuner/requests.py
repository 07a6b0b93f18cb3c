"""What a trial's actor is asked to do, from the job and the row."""

import dataclasses

from autotune.results import LoadPoint, Trial
from autotune.trial import TrialRequest
from autotune.tuner.context import JobContext
from autotune.workload import Level, given_levels, level_at


def search_request(context: JobContext, trial: Trial) -> TrialRequest:
    """Launch a configuration and climb every level with the one trace that all search trials get."""
    return _request(context, trial, levels=given_levels(context.workload), seeds=())


def ablation_request(context: JobContext, trial: Trial, seed: int) -> TrialRequest:
    """Launch a configuration and climb every level as a search trial does, with another trace."""
    return dataclasses.replace(search_request(context, trial), search_seed=seed)


def confirmation_request(context: JobContext, trial: Trial, point: LoadPoint) -> TrialRequest:
    """Launch a configuration and measure the level of a point with fresh seeds, the same for every candidate."""
    spec = context.spec
    seeds = tuple(spec.seed + run + 1 for run in range(spec.budget.confirm_runs))
    level = level_at(context.workload, point.level, point.load.value)
    return _request(context, trial, levels=(level,), seeds=seeds)


def _request(context: JobContext, trial: Trial, *, levels: tuple[Level, ...], seeds: tuple[int, ...]) -> TrialRequest:
    return TrialRequest(
        job=context.job.id,
        number=trial.number,
        config=trial.config,
        profile=context.profile,
        resource=context.spec.devices.resource,
        model=context.model,
        engine_version=context.engine.version,
        workload=context.workload,
        sla=context.spec.sla,
        levels=levels,
        search_seed=context.spec.seed,
        confirm_seeds=seeds,
        folder=context.folder,
        attempt=trial.attempts,
        failures=trial.failures,
        instrument=context.spec.instrument,
        guidellm=context.guidellm,
    )
