"""The application: the gate, the routers, and what they share."""

from collections.abc import Callable
from datetime import UTC, datetime

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from autotune import __version__
from autotune.service import openapi, pages, problems
from autotune.service.api import artifacts, catalog, events, health, jobs, metrics, results, trials
from autotune.service.gate import Gate
from autotune.service.hub import Hub
from autotune.service.meter import Meter, Metered
from autotune.service.pages.web import told
from autotune.service.problems import Tell, as_json
from autotune.service.state import Openness, State
from autotune.service.studies import Studies
from autotune.settings import Settings
from autotune.store import SharedStore

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


ROUTERS = (
    health.router,
    metrics.router,
    catalog.router,
    jobs.router,
    trials.router,
    artifacts.router,
    events.router,
    results.router,
)


def utc_now() -> datetime:
    """The moment."""
    return datetime.now(UTC)


def create_app(
    settings: Settings, store: SharedStore, *, host: str = "127.0.0.1", now: Callable[[], datetime] = utc_now
) -> FastAPI:
    """The service over a database. `host` is the address it listens on: requests may name it, and loopback names."""
    app = api(told)
    for router in pages.ROUTERS:
        app.include_router(router)
    app.mount("/assets", StaticFiles(packages=[("autotune.service", "static")]))
    hosts = LOOPBACK_NAMES | {host} | frozenset(settings.service.allowed_hosts)
    meter = Meter()
    app.state.autotune = State(store, settings, now, hosts, Hub(store), meter, Openness(store, now))
    app.add_middleware(Studies, url=settings.database, artifacts=settings.artifacts, tell=told)
    app.add_middleware(Gate, settings=settings.service, hosts=hosts, tell=told)
    app.add_middleware(Metered, meter=meter)  # outside of the gate: what it refuses is counted too
    return app


def api(tell: Tell = as_json) -> FastAPI:
    """The routers, and how they are described: all that is the same whatever is served."""
    app = FastAPI(
        title="vllm-autotune",
        version=__version__,
        description="Submit tuning jobs with a latency SLA, watch them, select and export configurations.",
        docs_url=None,  # its page would run a script of another host with the session of whoever opens it
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,  # what is read can be submitted
    )
    problems.install(app, tell)
    openapi.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app
