"""Optuna dashboard on the job database, for reading."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna_dashboard
import uvicorn
from a2wsgi import WSGIMiddleware
from optuna.artifacts import FileSystemArtifactStore
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna_dashboard import _app
from optuna_dashboard._pareto_front import get_pareto_front_trials

from autotune.study.persisted import open_storage
from autotune.study.reader import VISIBLE, Reader
from autotune.study.seen import SeenStorage


def dashboard(url: str, artifacts: Path) -> Reader:
    """The dashboard as a WSGI application at its usual paths; `Reader` says what its caller must tell it.

    `artifacts` is the folder of the trials' artifacts. Raises StoreError when the database cannot be opened.
    """
    # Dashboard 0.21 counts trials that violate their constraints among the best ones of a study with two objectives.
    _app.get_pareto_front_trials = feasible_front
    storage = open_storage(url, SeenStorage)
    return Reader(optuna_dashboard.wsgi(storage, FileSystemArtifactStore(artifacts)), storage, artifacts)


class Dashboard:
    """`dashboard` as an ASGI application; what it is told under `VISIBLE` is read from the request's scope."""

    def __init__(self, url: str, artifacts: Path) -> None:
        self._reader = dashboard(url, artifacts)
        wsgi: Any = self._reader  # the types of a2wsgi are not those of the standard library
        self.asgi: Any = WSGIMiddleware(wsgi)

    def study_id(self, name: str) -> int | None:
        """The dashboard's number of a study; None while there is none of that name. Raises StoreError."""
        return self._reader.study_id(name)


def serve(url: str, artifacts: Path, *, host: str, port: int) -> None:
    """Show every study until interrupted."""
    shown = Dashboard(url, artifacts).asgi

    async def everything(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await shown({**scope, VISIBLE: None}, receive, send)

    uvicorn.run(everything, host=host, port=port, log_level="warning")


def feasible_front(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> list[FrozenTrial]:
    """The best trials: those that keep every constraint and are not dominated by another one that does."""
    feasible = [trial for trial in trials if all(value <= 0 for value in trial.constraints.values())]
    front: list[FrozenTrial] = get_pareto_front_trials(feasible, directions)
    return front
