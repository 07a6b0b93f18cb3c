"""Optuna dashboard on the job database."""

import optuna_dashboard

from autotune.study.persisted import open_storage


def serve(url: str, *, host: str, port: int) -> None:
    """Run Optuna dashboard until interrupted."""
    optuna_dashboard.run_server(open_storage(url), host=host, port=port)
