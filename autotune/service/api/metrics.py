"""`/metrics` for Prometheus: jobs, trials, queue and workers from the database, requests from the servers."""

from collections.abc import Iterator
from datetime import datetime

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from autotune.access import Principal
from autotune.results import JobStatus
from autotune.service.api.common import Service
from autotune.service.api.health import workers_alive
from autotune.service.auth import Viewer
from autotune.service.state import State

router = APIRouter(tags=["metrics"])

OUTCOMES = ("running", "measured", "infeasible", "interrupted")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def show_metrics(state: Service, principal: Viewer) -> Response:
    """Metrics in Prometheus' text format: an admin's of every tenant and of the service, others' of their tenant."""
    registry = CollectorRegistry()
    registry.register(Jobs(state, principal, state.now()))
    text = generate_latest(registry)
    if principal.scope is None:
        text += state.meter.text()
    return Response(text, media_type=CONTENT_TYPE_LATEST)


class Jobs(Collector):
    """What the database says, of the tenants that the caller may see."""

    def __init__(self, state: State, principal: Principal, now: datetime) -> None:
        self._state, self._principal, self._now = state, principal, now

    def describe(self) -> list[Metric]:
        """Nothing beforehand: the database is read once, when the figures are asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The figures of now."""
        yield from (self._jobs(), self._trials(), self._waiting())
        workers = GaugeMetricFamily("autotune_workers", "Workers that were seen within a minute.")
        workers.add_metric((), workers_alive(self._state))
        yield workers
        watchers = GaugeMetricFamily("autotune_event_watchers", "Open streams of events of this process.")
        watchers.add_metric((), self._state.hub.watchers)
        yield watchers

    def _jobs(self) -> Metric:
        family = GaugeMetricFamily("autotune_jobs", "Jobs by tenant and status.", labels=("tenant", "status"))
        counts = self._state.store.counts(tenant=self._principal.scope)
        for tenant in self._seen({tenant for tenant, _ in counts}):
            for status in JobStatus:
                family.add_metric((tenant, status.value), counts.get((tenant, status), 0))
        return family

    def _trials(self) -> Metric:
        family = GaugeMetricFamily("autotune_trials", "Trials by tenant and outcome.", labels=("tenant", "outcome"))
        counts = self._state.store.trial_counts(tenant=self._principal.scope)
        for tenant in self._seen({tenant for tenant, _ in counts}):
            for outcome in OUTCOMES:
                family.add_metric((tenant, outcome), counts.get((tenant, outcome), 0))
        return family

    def _waiting(self) -> Metric:
        family = GaugeMetricFamily(
            "autotune_queue_oldest_age_seconds", "How long a tenant's oldest job has been waiting.", labels=("tenant",)
        )
        since = self._state.store.waiting_since()
        for tenant in self._seen(set(since)):
            waits = self._now - since[tenant] if tenant in since else None
            family.add_metric((tenant,), max(0.0, waits.total_seconds()) if waits else 0.0)
        return family

    def _seen(self, tenants: set[str]) -> list[str]:
        """Every tenant for an admin; else the caller's own, also while there is nothing of it."""
        scope = self._principal.scope
        return sorted(tenants) if scope is None else [scope]
