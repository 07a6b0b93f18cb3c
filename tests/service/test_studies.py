"""Optuna dashboard behind the service's door: read-only, and only the caller's studies."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from autotune.access import Role
from autotune.results import Trial
from autotune.search_space import SearchSpace
from autotune.spec import Sla
from autotune.store import url_for_optuna
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy, open_storage

TINY = runpy.run_path(str(Path(__file__).parents[1] / "data" / "tiny_job.py"))


def show(service: Any, identity: str, tenant: str, trials: tuple[Trial, ...]) -> None:
    """A job of a tenant with its study, as a worker leaves them."""
    lease = service.begin(identity, tenant=tenant)
    for trial in trials:
        service.play(lease, trial)
    service.finish(lease, trials)
    storage = open_storage(url_for_optuna(service.settings.database))
    space = SearchSpace.model_validate(TINY["SPACE"])
    PersistedStudy(storage, identity, Sla.model_validate({"p99_ttft_ms": 200}), Grid.of(space)).sync(trials)


@pytest.fixture
def shared(service: Any, trials: tuple[Trial, ...]) -> Any:
    """A service with a study of the tenant red and one of the tenant blue."""
    show(service, "red-1", "red", trials)
    show(service, "blue-1", "blue", trials)
    return service


def names(client: Any) -> list[str]:
    return [study["study_name"] for study in client.get("/api/studies").json()["study_summaries"]]


def test_a_tenant_sees_the_studies_of_its_own_jobs_and_an_admin_all(shared: Any):
    assert names(shared.bearer("red")) == ["red-1"]
    assert sorted(names(shared.bearer("ops", Role.ADMIN))) == ["blue-1", "red-1"]


def test_another_tenants_study_is_as_if_it_did_not_exist(shared: Any):
    red, blue = shared.bearer("red"), shared.bearer("blue")
    assert red.get("/api/studies/1").status_code == 200
    assert blue.get("/api/studies/1").status_code == 404
    assert blue.get("/csv/1").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/api/studies/1"), ("POST", "/api/trials/1/tell"), ("PUT", "/api/studies/1/note")],
)
def test_nobody_writes_not_even_an_admin(shared: Any, method: str, path: str):
    client = shared.bearer("ops", Role.ADMIN)
    assert client.request(method, path).status_code == 405
    assert sorted(names(client)) == ["blue-1", "red-1"]


def test_a_job_leads_to_its_study(shared: Any):
    answer = shared.bearer("blue").get("/dashboard/jobs/blue-1", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/studies/2")


def test_a_job_without_a_study_leads_to_the_list(service: Any):
    service.queue("waits")
    answer = service.client().get("/dashboard/jobs/waits", follow_redirects=False)
    assert answer.headers["location"] == "/dashboard"


def test_another_tenants_job_leads_nowhere(shared: Any):
    assert shared.bearer("red").get("/dashboard/jobs/blue-1", follow_redirects=False).status_code == 404


def test_a_person_without_a_token_is_led_to_the_login_and_a_program_is_told(shared: Any):
    shared.token("red")
    person = shared.client(accept="text/html").get("/dashboard/studies/1", follow_redirects=False)
    assert (person.status_code, person.headers["location"]) == (303, "/login?next=/dashboard/studies/1")
    assert shared.client().get("/api/studies").status_code == 401


def test_the_page_and_its_script_are_the_dashboards_own(service: Any):
    client = service.client()
    assert "Optuna Dashboard" in client.get("/dashboard").text
    assert len(client.get("/static/bundle.js").content) > 100_000
