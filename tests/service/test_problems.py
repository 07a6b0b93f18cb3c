"""Whatever goes wrong leaves as `application/problem+json`, and what the gate refuses reaches nobody."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from autotune.access import Role
from autotune.errors import EnvironmentProblem, StoreError
from autotune.service import auth
from autotune.service.gate import Rates
from autotune.service.problems import Problem
from autotune.settings import ServiceSettings

from .conftest import DEMO, Service

MEDIA_TYPE = "application/problem+json"


def problem(answer: Any, status: int) -> Problem:
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE)
    told = Problem.model_validate(answer.json())
    assert told.status == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    return told


def test_an_unknown_address_is_a_problem(service: Service):
    assert problem(service.client().get("/v1/nothing"), 404).title == "Not found"


def test_a_method_that_an_address_lacks_is_a_problem_that_names_those_it_has(service: Service):
    answer = service.client().delete("/v1/jobs/job-1/trials")
    assert problem(answer, 405).title == "Method not allowed"
    assert answer.headers["allow"] == "GET"
    assert service.client().delete("/v1/jobs").headers["allow"] == "POST, GET"


def test_a_wrong_parameter_is_named(service: Service):
    told = problem(service.client().get("/v1/jobs?limit=0&status=lost"), 422)
    assert [text.split(":")[0] for text in told.problems] == ["status.0", "limit"]


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (StoreError("postgresql://user@secret-host fails"), 503, "the database cannot be used at the moment"),
        (EnvironmentProblem("no engine"), 503, "no engine"),
        (RuntimeError("a secret"), 500, "the server has a defect"),
    ],
)
def test_errors_of_the_server_are_told_without_its_secrets(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, detail: str
):
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(service.store, "page", fails)
    with capture_logs() as logged:
        told = problem(service.client().get("/v1/jobs"), status)
    assert ("request_crashed" in [entry["event"] for entry in logged]) == (status == 500)
    assert told.detail.startswith(detail)
    assert "secret" not in told.model_dump_json()


# The gate


def test_a_host_that_the_service_does_not_answer_for_is_misdirected(service: Service):
    problem(service.client(Host="evil.example").get("/v1/jobs"), 421)


def test_a_change_from_another_site_is_refused_and_reading_is_not(service: Service):
    client = service.client(Origin="http://evil.example")
    problem(client.post("/v1/jobs", json={"job": DEMO}), 403)
    assert client.get("/v1/jobs").status_code == 200
    ours = service.client(Origin="http://127.0.0.1:8000")
    assert ours.post("/v1/jobs/validate", json={"job": DEMO}).status_code == 200


def test_a_body_that_says_it_is_too_large_is_refused(serve: Callable[..., Service]):
    service = serve(service=ServiceSettings(max_request_bytes=1000))
    problem(service.client().post("/v1/jobs", content=b"x" * 1001), 413)


def test_a_body_that_does_not_say_how_large_it_is_is_refused_where_the_limit_is(serve: Callable[..., Service]):
    service = serve(service=ServiceSettings(max_request_bytes=1000))
    read: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(100):
            read.append(number)
            yield b"x" * 100

    headers = {"Content-Type": "application/json"}
    told = problem(service.client().post("/v1/jobs", content=pieces(), headers=headers), 413)
    assert told.title == "Too large"


def test_a_client_that_asks_too_often_is_told_when_to_come_back(serve: Callable[..., Service]):
    service = serve(service=ServiceSettings(rate_per_s=0.001, rate_burst=2))
    client = service.client()
    assert [client.get("/healthz").status_code for _ in range(2)] == [200, 200]
    answer = client.get("/healthz")
    problem(answer, 429)
    assert int(answer.headers["retry-after"]) > 900


def test_a_bucket_fills_at_its_rate_up_to_the_burst():
    now = [0.0]
    rates = Rates(2.0, 2, lambda: now[0])
    assert [rates.wait_s("a") for _ in range(3)] == [0.0, 0.0, 0.5]
    assert rates.wait_s("b") == 0.0
    now[0] = 0.5
    assert [rates.wait_s("a"), rates.wait_s("a")] == [0.0, 0.5]
    now[0] = 1000.0
    assert [rates.wait_s("a") for _ in range(3)] == [0.0, 0.0, 0.5]


# Who asks


def test_without_tokens_there_is_one_local_user_and_with_the_first_one_nobody_is(service: Service):
    client = service.client()
    assert client.get("/v1/jobs").status_code == 200
    service.token("red")
    service.later(seconds=1)
    answer = client.get("/v1/jobs")
    problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", ["Bearer nonsense", "Bearer ", "Basic eA==", "vat_0123", ""])
def test_what_is_no_token_is_not_authenticated(service: Service, header: str):
    problem(service.client(Authorization=header).get("/v1/jobs"), 401)


def test_an_expired_and_a_revoked_token_are_worth_nothing(service: Service):
    service.later(days=0)
    expiring = service.token("red", expires_at=service.now.replace(year=2027))
    revoked = service.token("red")
    assert service.client(expiring).get("/v1/jobs").status_code == 200
    service.store.revoke_token(revoked.split("_")[1], now=service.now)
    problem(service.client(revoked).get("/v1/jobs"), 401)
    service.later(days=400)
    problem(service.client(expiring).get("/v1/jobs"), 401)


def test_a_browser_session_changes_nothing_without_its_csrf_token(service: Service):
    token = service.token("red")
    state = service.app.state.autotune
    key = auth.open_session(state, token.split("_")[1])
    client = service.client()
    client.cookies.set(auth.COOKIE, key)
    assert client.get("/v1/jobs").status_code == 200
    problem(client.post("/v1/jobs", json={"job": DEMO}), 403)
    sent = {auth.CSRF_HEADER: auth.csrf_token(key)}
    assert client.post("/v1/jobs", json={"job": DEMO}, headers=sent).status_code == 202


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_whether_the_service_lives_is_told_to_anybody(service: Service, path: str):
    service.token("red", Role.ADMIN)
    assert service.client().get(path).status_code == 200


def test_a_service_whose_database_is_away_is_not_ready(service: Service, monkeypatch: pytest.MonkeyPatch):
    def away() -> None:
        raise StoreError("gone")

    monkeypatch.setattr(service.store, "workers", away)
    answer = service.client().get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "database": False, "workers": 0})
