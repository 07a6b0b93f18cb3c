"""The application: the gate, the routers, and what they share."""

from collections.abc import Callable
from datetime import UTC, datetime

from fastapi import FastAPI

from autotune import __version__
from autotune.service import problems
from autotune.service.api import health, jobs
from autotune.service.gate import Gate
from autotune.service.state import State
from autotune.settings import Settings
from autotune.store import SharedStore

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def utc_now() -> datetime:
    """The moment."""
    return datetime.now(UTC)


def create_app(
    settings: Settings, store: SharedStore, *, host: str = "127.0.0.1", now: Callable[[], datetime] = utc_now
) -> FastAPI:
    """The service over a database. `host` is the address it listens on: requests may name it, and loopback names."""
    app = FastAPI(
        title="vllm-autotune",
        version=__version__,
        description="Submit tuning jobs with a latency SLA, watch them, select and export configurations.",
        docs_url="/v1/docs",
        redoc_url=None,
        openapi_url="/v1/openapi.json",
    )
    hosts = LOOPBACK_NAMES | {host} | frozenset(settings.service.allowed_hosts)
    app.state.autotune = State(store, settings, now, hosts)
    problems.install(app)
    app.add_middleware(Gate, settings=settings.service, hosts=hosts)
    for router in (health.router, jobs.router):
        app.include_router(router)
    return app
