"""A service on a database of its own, with jobs whose trials are known by heart: for tests of its pages.

site = runpy.run_path(str(DATA / "pages_site.py"))
"""

import re
from datetime import UTC, datetime
from typing import Any

from fastapi.testclient import TestClient

from autotune.access import Role, TenantLimits, new_token
from autotune.results import JobResult, JobStatus, Trial
from autotune.selection import pareto_front, recommend
from autotune.spec import JobSpec
from autotune.store import Lease, SharedStore

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

FORM = {
    "name": "demo",
    "model": "tiny-llama",
    "engine": "simulated",
    "resource": "CPU",
    "max_per_trial": "1",
    "search_space": "demo",
    "workload": "demo",
    "p99_ttft_ms": "400",
    "trials": "8",
    "nonce": "1",
}


def csrf_of(client: TestClient, address: str = "/submit") -> str:
    """The token in the forms of a page, as a browser would send it."""
    page = client.get(address)
    assert page.status_code == 200, page.text
    found = re.search(r'name="csrf_token" value="([0-9a-f]{64})"', page.text)
    assert found is not None, f"{address} has no form"
    return found[1]


def send(client: TestClient, **fields: Any) -> Any:
    """The submit form, sent with what a person changed in it."""
    return client.post("/submit", data={**FORM, "csrf_token": csrf_of(client), **fields}, follow_redirects=False)


def submitted(client: TestClient, **fields: Any) -> str:
    """The id of a job that was submitted with the form."""
    response = send(client, **fields)
    assert response.status_code == 303, response.text
    return str(response.headers["location"].removeprefix("/jobs/"))


def begun(store: SharedStore) -> Lease:
    """The next job, taken by a worker."""
    claimed = store.claim_next("a test", now=NOW, limits=lambda _: TenantLimits())
    assert claimed is not None
    return claimed[1]


def played(store: SharedStore, lease: Lease, trials: list[Trial]) -> None:
    """Trials as a worker writes them down."""
    for trial in trials:
        store.start_trial(lease, trial.model_copy(update={"result": None, "finished_at": None}))
        if trial.result is not None:
            store.finish_trial(lease, trial.number, trial.result, NOW)


def ended(store: SharedStore, lease: Lease, trials: list[Trial]) -> None:
    """The job's end with its front and recommendation."""
    sla = JobSpec.model_validate(store.job(lease.job_id).spec).sla
    result = JobResult(stopped_by="trials", front=pareto_front(trials), recommendation=recommend(trials, (), sla))
    store.finish_job(lease, JobStatus.SUCCEEDED, result, finished_at=NOW)


def token_of(store: SharedStore, tenant: str, role: Role, name: str = "") -> str:
    """A token's text."""
    token, text = new_token(tenant, role, name or f"{tenant}-{role}", now=datetime.now(UTC), expires_at=None)
    store.add_token(token)
    return text


def failed(store: SharedStore, lease: Lease, message: str) -> None:
    """The job's end without a result."""
    store.finish_job(lease, JobStatus.FAILED, None, finished_at=NOW, message=message)
