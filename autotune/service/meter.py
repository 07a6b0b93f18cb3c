"""Counts and times of requests by the route that served them, as an ASGI middleware around everything else."""

import os
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported
UNROUTED = "unrouted"  # a path of nobody: never a label of its own, or anybody could make labels
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Meter:
    """What is counted of requests, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "autotune_http_requests",
            "Requests by the route that served them.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._duration = Histogram(
            "autotune_http_request_duration_seconds",
            "Seconds until an answer began; a stream's end is not waited for.",
            ("method", "route"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._duration.labels(known, route).observe(seconds)

    def text(self) -> bytes:
        """The counts in Prometheus' format: of all the servers of this socket where there are several."""
        folder = os.environ.get(SHARED_FOLDER)
        if not folder:
            return generate_latest(self.registry)
        whole = CollectorRegistry()
        MultiProcessCollector(whole, folder)  # type: ignore[no-untyped-call]  # its author gave it no types
        return generate_latest(whole)


class Metered:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, meter: Meter, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app, self._meter, self._clock = app, meter, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note when its answer begins."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = self._clock()

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._meter.note(scope["method"], route_of(scope), message["status"], self._clock() - began_s)
            await send(message)

        await self._app(scope, receive, noted)


def route_of(scope: Scope) -> str:
    """The template of the path, such as `/v1/jobs/{job_id}`; for a mounted application the place it is mounted at."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return path if isinstance(path, str) and path else UNROUTED
