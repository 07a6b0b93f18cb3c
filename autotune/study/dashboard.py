"""Optuna dashboard on the job database."""

from collections.abc import Sequence

import optuna_dashboard
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna_dashboard import _app
from optuna_dashboard._pareto_front import get_pareto_front_trials

from autotune.study.persisted import open_storage


def serve(url: str, *, host: str, port: int) -> None:
    """Run Optuna dashboard until interrupted."""
    # Dashboard 0.21 counts trials that violate their constraints among the best ones of a study with two objectives.
    _app.get_pareto_front_trials = feasible_front
    optuna_dashboard.run_server(open_storage(url), host=host, port=port)


def feasible_front(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """The best trials: those that keep every constraint and are not dominated by another one that does."""
    feasible = [trial for trial in trials if all(value <= 0 for value in trial.constraints.values())]
    front: list[FrozenTrial] = get_pareto_front_trials(feasible, directions)
    return front
