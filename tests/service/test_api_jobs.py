"""Submitting, checking, listing, cancelling and resuming jobs over HTTP."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from autotune.access import Role, TenantLimits
from autotune.results import JobStatus
from autotune.settings import ServiceSettings

from .conftest import DEMO, Service

FILE = """\
version: 1
name: demo
model: tiny-llama
engine: simulated
devices: {resource: CPU, max_per_trial: 1}
search_space: demo
workload: demo
sla: {p99_ttft_ms: 700}
"""
YAML = {"Content-Type": "application/yaml"}
NAIVE = base64.urlsafe_b64encode(b'{"created_at":"2026-01-01T00:00:00","id":"a"}').decode()


def test_a_submitted_job_waits_at_the_address_that_the_answer_names(service: Service):
    client = service.client()
    answer = client.post("/v1/jobs", json={"job": DEMO})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.headers["location"] == answer.json()["href"]
    shown = client.get(answer.headers["location"]).json()
    assert (shown["job"]["name"], shown["submission"]["tenant"]) == ("demo", "local")


def test_the_same_idempotency_key_makes_one_job_and_refuses_another(service: Service):
    client = service.client(**{"Idempotency-Key": "night-1"})
    first, again = (client.post("/v1/jobs", json={"job": DEMO}) for _ in range(2))
    assert first.json() == again.json()
    assert len(client.get("/v1/jobs").json()["jobs"]) == 1
    other = client.post("/v1/jobs", json={"job": {**DEMO, "seed": 7}})
    assert (other.status_code, other.json()["title"]) == (409, "Conflict")


def test_idempotency_keys_of_two_tenants_have_nothing_to_do_with_each_other(service: Service):
    ids = {
        service.client(service.token(tenant), **{"Idempotency-Key": "k"})
        .post("/v1/jobs", json={"job": DEMO})
        .json()["id"]
        for tenant in ("red", "blue")
    }
    assert len(ids) == 2


def test_a_job_file_is_submitted_as_yaml(service: Service):
    answer = service.client().post("/v1/jobs", content=FILE, headers=YAML)
    assert answer.status_code == 202
    job = service.store.submitted(answer.json()["id"], tenant=None, now=service.now).job
    assert job.spec["sla"] == {"error_rate": 0.01, "confidence": None, "p99_ttft_ms": 700.0}


def test_every_problem_of_a_job_file_is_told_with_its_line(service: Service):
    wrong = FILE.replace("seed", "").replace("sla: {p99_ttft_ms: 700}", "sla: {p99_ttft_ms: -7}\nbudgt: {}")
    answer = service.client().post("/v1/jobs", content=wrong, headers=YAML)
    assert answer.status_code == 422
    assert [problem.split(": ")[0] for problem in answer.json()["problems"]] == ["job.yaml:8", "job.yaml:9"]
    assert "did you mean 'budget'?" in answer.json()["problems"][1]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: &a [1]\nb: [" + "*a, " * 40 + "]", id="aliases"),
        pytest.param("[" * 200 + "]" * 200, id="depth"),
        pytest.param("!!python/object/apply:os.system ['true']", id="tag"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
    ],
)
def test_yaml_that_is_no_job_file_is_a_problem_of_the_input(service: Service, text: str | bytes):
    assert service.client().post("/v1/jobs", content=text, headers=YAML).status_code == 422


def test_a_job_file_of_more_than_64_kib_is_too_large(service: Service):
    answer = service.client().post("/v1/jobs", content=FILE + "#" * 65_536, headers=YAML)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


def test_only_json_and_yaml_are_read(service: Service):
    answer = service.client().post("/v1/jobs", data={"job": "x"})
    assert (answer.status_code, answer.json()["title"]) == (415, "Unsupported media type")


@pytest.mark.parametrize("body", ["{", "[]", "null", '{"job": NaN}', "[" * 100_000, '{"job": {}, "more": 1}'])
def test_json_that_is_no_job_is_a_problem_of_the_input(service: Service, body: str):
    answer = service.client().post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["problems"]


def test_a_body_is_not_read_before_its_sender_is_known(service: Service):
    service.token("red")
    answer = service.client().post("/v1/jobs", content="{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 401


def test_the_problems_of_a_job_a_space_and_a_workload_are_told_at_once(service: Service):
    asked = {**DEMO, "search_space": "nowhere", "workload": "nothing"}
    problems = service.client().post("/v1/jobs", json={"job": asked}).json()["problems"]
    assert [problem.split(":")[0] for problem in problems] == ["job.search_space", "workload"]


def test_a_check_tells_what_a_submission_would_and_leaves_nothing_behind(service: Service):
    client = service.client()
    checked = client.post("/v1/jobs/validate", json={"job": DEMO})
    assert checked.status_code == 200
    assert (checked.json()["search_space"], checked.json()["workload"]) == ("demo", "demo")
    wrong = client.post("/v1/jobs/validate", json={"job": {**DEMO, "model": "nowhere"}})
    assert wrong.status_code == 422
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_pages_follow_each_other_without_a_gap_and_without_a_repetition(service: Service):
    for number in range(5):
        service.queue(f"job-{number}")
        service.later(seconds=1)
    client, seen, cursor = service.client(), [], None
    while True:
        page = client.get("/v1/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [job["id"] for job in page["jobs"]]
        service.queue(f"newer-{len(seen)}")  # what comes meanwhile is on no later page
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["job-4", "job-3", "job-2", "job-1", "job-0"]


@pytest.mark.parametrize("cursor", ["nonsense", "e30", "eyJpZCI6MX0", "%00", NAIVE])
def test_a_cursor_of_another_server_is_a_problem_of_the_input(service: Service, cursor: str):
    assert service.client().get(f"/v1/jobs?cursor={cursor}").status_code == 422


def test_the_list_is_filtered_by_status_name_and_text(service: Service, finished: str):
    service.queue("waiting-1")
    client = service.client()

    def ids(**wanted: Any) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", params=wanted).json()["jobs"]]

    assert ids(status="queued") == ["waiting-1"]
    assert set(ids(status=["queued", "succeeded"])) == {"waiting-1", finished}
    assert ids(search="done") == [finished]
    assert ids(search="%") == []
    assert len(ids(name="tiny")) == 2


def test_a_waiting_job_is_cancelled_at_once_and_can_be_resumed(service: Service):
    job, client = service.queue("job-1"), service.client()
    assert client.post(f"/v1/jobs/{job}/cancel").json()["status"] == "cancelled"
    assert client.post(f"/v1/jobs/{job}/cancel").status_code == 409
    assert client.post(f"/v1/jobs/{job}/resume").json()["status"] == "queued"


def test_a_running_job_is_asked_to_stop(service: Service):
    service.begin("job-1")
    answer = service.client().post("/v1/jobs/job-1/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert service.store.cancel_requested("job-1")


def test_a_tenant_with_a_full_queue_is_told_its_limit(serve: Callable[..., Service]):
    service = serve(service=ServiceSettings(limits=TenantLimits(queued_jobs=1)))
    client = service.client()
    assert client.post("/v1/jobs", json={"job": DEMO}).status_code == 202
    answer = client.post("/v1/jobs", json={"job": DEMO})
    assert (answer.status_code, answer.json()["title"]) == (429, "Limit reached")


# Whose things are seen

PATHS = [
    "",
    "/trials",
    "/trials/0",
    "/load-points",
    "/events",
    "/trials/0/artifacts",
    "/trials/0/artifacts/engine.log",
    "/pareto",
    "/recommendation",
    "/export",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_job_of_another_tenant_is_as_if_it_did_not_exist(service: Service, finished: str, path: str):
    red = service.bearer("red", Role.VIEWER)
    theirs, none = red.get(f"/v1/jobs/{finished}{path}"), red.get(f"/v1/jobs/nothing-1{path}")
    assert (theirs.status_code, none.status_code) == (404, 404)
    assert theirs.text.replace(finished, "nothing-1") == none.text


@pytest.mark.parametrize("action", ["cancel", "resume"])
def test_nobody_acts_on_a_job_of_another_tenant(service: Service, action: str):
    service.queue("job-1", tenant="blue")
    assert service.bearer("red").post(f"/v1/jobs/job-1/{action}").status_code == 404
    assert service.store.submitted("job-1", tenant=None, now=service.now).job.status is JobStatus.QUEUED


def test_a_list_holds_the_jobs_of_ones_own_tenant_whatever_is_asked(service: Service):
    service.queue("red-1", tenant="red")
    service.queue("blue-1", tenant="blue")
    assert [j["id"] for j in service.bearer("red").get("/v1/jobs?tenant=blue").json()["jobs"]] == ["red-1"]
    admin = service.bearer("ops", Role.ADMIN)
    assert {j["id"] for j in admin.get("/v1/jobs").json()["jobs"]} == {"red-1", "blue-1"}
    assert [j["id"] for j in admin.get("/v1/jobs?tenant=blue").json()["jobs"]] == ["blue-1"]


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/validate", "/v1/jobs/job-1/cancel", "/v1/jobs/job-1/resume"])
def test_a_viewer_changes_nothing(service: Service, path: str):
    service.queue("job-1", tenant="red")
    answer = service.bearer("red", Role.VIEWER).post(path, json={"job": DEMO})
    assert (answer.status_code, answer.json()["title"]) == (403, "Forbidden")
    assert len(service.store.jobs()) == 1


def test_what_was_submitted_is_what_is_shown_again(service: Service):
    """The same records as the job file: a stored spec can be submitted as it is."""
    client = service.client()
    first = client.get(client.post("/v1/jobs", json={"job": DEMO}).json()["href"]).json()["job"]
    again = {"job": first["spec"], "search_space": first["space"], "workload": first["workload"]}
    second = client.get(client.post("/v1/jobs", json=again).json()["href"]).json()["job"]
    assert json.dumps(second["spec"]) == json.dumps(first["spec"])
