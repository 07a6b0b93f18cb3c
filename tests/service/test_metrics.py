"""`/metrics`, and the dashboard that shows it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from autotune.access import Role
from autotune.results import JobStatus, Trial
from autotune.submission import WorkerSign

from .conftest import Service

DASHBOARD = Path(__file__).parents[2] / "docker" / "grafana-dashboard.json"
_NAME = re.compile(r"\bautotune_[a-z_]+")


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def figure(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


@pytest.fixture
def busy(service: Service, trials: tuple[Trial, ...]) -> Service:
    """Red has a running job with three trials and one that waits for an hour; blue has a failed job."""
    lease = service.begin("blue-1", tenant="blue")
    service.store.finish_job(lease, JobStatus.FAILED, None, finished_at=service.now)
    lease = service.begin("red-1", tenant="red")
    for trial in trials[:2]:
        service.play(lease, trial)
    service.play(lease, trials[2].model_copy(update={"result": None, "finished_at": None}))
    service.queue("red-2", tenant="red")
    service.later(hours=1)
    sign = WorkerSign(owner="w", started_at=service.now, seen_at=service.now, version="1")
    service.store.sign(sign)
    service.store.sign(sign.model_copy(update={"owner": "lost", "seen_at": service.now.replace(hour=11)}))
    return service


def test_an_admin_sees_the_figures_of_every_tenant_and_of_the_service(busy: Service):
    admin = busy.bearer("ops", Role.ADMIN)
    admin.get("/v1/jobs/red-1")
    text = admin.get("/metrics").text
    assert figure(text, "autotune_jobs", tenant="red", status="running") == 1
    assert figure(text, "autotune_jobs", tenant="blue", status="failed") == 1
    assert figure(text, "autotune_jobs", tenant="blue", status="queued") == 0
    assert figure(text, "autotune_trials", tenant="red", outcome="measured") == 2
    assert figure(text, "autotune_trials", tenant="red", outcome="running") == 1
    assert figure(text, "autotune_queue_oldest_age_seconds", tenant="red") == 3600
    assert figure(text, "autotune_workers") == 1
    assert figure(text, "autotune_event_watchers") == 0
    route = {"method": "GET", "route": "/v1/jobs/{job_id}"}
    assert figure(text, "autotune_http_requests_total", **route, status="200") == 1
    assert figure(text, "autotune_http_request_duration_seconds_count", **route) == 1


def test_a_tenant_sees_its_own_figures_only(busy: Service):
    text = busy.bearer("blue", Role.VIEWER).get("/metrics").text
    assert {dict(labels)["tenant"] for name, labels in samples(text) if name == "autotune_jobs"} == {"blue"}
    assert figure(text, "autotune_trials", tenant="blue", outcome="measured") == 0
    assert 'tenant="red"' not in text
    assert "autotune_http" not in text


def test_metrics_need_a_token_like_anything_else(busy: Service):
    busy.token("red")
    assert busy.client().get("/metrics").status_code == 401


def test_addresses_of_nobody_and_invented_methods_make_no_labels_of_their_own(busy: Service):
    client = busy.bearer("ops", Role.ADMIN)
    for number in range(3):
        client.get(f"/nothing/{number}")
        client.request(f"X{number}", "/v1/jobs")
    counted = samples(client.get("/metrics").text)
    labels = [dict(found) for name, found in counted if name == "autotune_http_requests_total"]
    assert {found["method"] for found in labels} == {"GET", "other"}
    assert {found["route"] for found in labels} <= {"unrouted", "/v1/jobs"}


def test_what_the_gate_refuses_is_counted(busy: Service):
    busy.client(Host="evil.example").get("/v1/jobs")
    text = busy.bearer("ops", Role.ADMIN).get("/metrics").text
    assert figure(text, "autotune_http_requests_total", method="GET", route="unrouted", status="421") == 1


# The dashboard


def panels() -> list[dict[str, Any]]:
    document = json.loads(DASHBOARD.read_text())
    found: list[dict[str, Any]] = document["panels"]
    return found


def test_every_metric_that_the_dashboard_queries_exists_and_every_metric_is_shown(busy: Service):
    admin = busy.bearer("ops", Role.ADMIN)
    admin.get("/healthz")
    served = {name for name, _ in samples(admin.get("/metrics").text) if not name.endswith("_created")}
    queried = {name for panel in panels() for target in panel["targets"] for name in _NAME.findall(target["expr"])}
    assert queried <= served
    bases = {re.sub("_(bucket|sum|count)$", "", name) for name in queried}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in served} == bases


def test_panels_of_the_dashboard_do_not_overlap():
    cells = [
        (x, y)
        for panel in panels()
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())
