"""`autotune dashboard`: Optuna dashboard on the job database."""

import socket

from autotune.errors import EnvironmentProblem
from autotune.settings import load_settings
from autotune.store import Store, url_for_optuna


def serve_dashboard(host: str, port: int) -> None:
    """Optuna dashboard on the job database, until interrupted."""
    from autotune.study.dashboard import serve

    settings = load_settings()
    Store.open(settings.database).close()  # a database that is none is told before anything listens
    _check_address(host, port)
    print(f"Optuna dashboard: http://{host}:{port}/  (Ctrl-C ends it)", flush=True)
    serve(url_for_optuna(settings.database), settings.artifacts, host=host, port=port)


def _check_address(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as exc:
        raise EnvironmentProblem(
            f"cannot listen on {host}:{port} ({exc.strerror or exc}); choose another with --host and --port"
        ) from exc
