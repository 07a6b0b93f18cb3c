"""What the client makes of addresses, tokens and answers; the other end is scripted."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from autotune.access import Role, new_token
from autotune.cli.place import connected
from autotune.client import Address, Server, find_token
from autotune.client.stream import Message, NoStream, Stream, messages
from autotune.errors import (
    AutotuneError,
    Conflict,
    InputError,
    LimitReached,
    NotAllowed,
    NotFound,
    ServerUnavailable,
)
from autotune.submission import JobFilter
from autotune.tuner.owner import utc_now

TOKEN = new_token("lab", Role.SUBMITTER, "laptop", now=utc_now(), expires_at=None)[1]
URL = "http://127.0.0.1:8000"

Answer = Callable[[httpx.Request], httpx.Response]


def server(answer: Answer, pauses: list[float] | None = None, token: str | None = TOKEN) -> Server:
    """A server that answers by a script."""
    pause = (lambda _: None) if pauses is None else pauses.append
    secret = None if token is None else SecretStr(token)
    return Server(Address.parse(URL), secret, pause=pause, transport=httpx.MockTransport(answer))


def problem(status: int, detail: str, *problems: str, **headers: str) -> httpx.Response:
    body = {"type": "about:blank", "title": "No", "status": status, "detail": detail, "problems": problems}
    kind = {"content-type": "application/problem+json"}
    return httpx.Response(status, content=json.dumps(body), headers=kind | headers)


def in_turn(*answers: httpx.Response | Exception) -> Answer:
    left = iter(answers)

    def answer(_: httpx.Request) -> httpx.Response:
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    return answer


EMPTY = httpx.Response(200, json={"jobs": [], "next_cursor": None})


# Addresses


def test_an_address_keeps_its_path_and_loses_its_last_slash():
    assert Address.parse("https://lab.example/tuner/").url == "https://lab.example/tuner"


@pytest.mark.parametrize("text", ["127.0.0.1:8000", "ftp://lab", "http://", "https://lab?x=1", "http://lab:port"])
def test_what_is_no_address_is_refused_with_an_example(text: str):
    with pytest.raises(InputError, match="write it as"):
        Address.parse(text)


def test_an_address_with_a_password_is_refused_and_the_password_is_not_told():
    with pytest.raises(InputError) as refused:
        Address.parse("https://me:hunter2@lab.example")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "exposed"),
    [
        ("http://lab.example", True),
        ("http://10.0.0.7:8000", True),
        ("https://lab.example", False),
        ("http://127.0.0.1:8000", False),
        ("http://[::1]:8000", False),
        ("http://localhost:8000", False),
    ],
)
def test_plain_http_to_another_machine_is_exposed(text: str, exposed: bool):
    assert Address.parse(text).is_exposed is exposed


# Tokens


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


def test_the_variable_wins_over_the_file(token_file: Path):
    other = new_token("lab", Role.VIEWER, "other", now=utc_now(), expires_at=None)[1]
    found = find_token({"AUTOTUNE_TOKEN": other, "AUTOTUNE_TOKEN_FILE": str(token_file)})
    assert found is not None
    assert found.get_secret_value() == other


def test_a_private_file_is_read(token_file: Path):
    found = find_token({"AUTOTUNE_TOKEN_FILE": str(token_file)})
    assert found is not None
    assert found.get_secret_value() == TOKEN


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_file_that_others_can_reach_is_refused_with_the_command_that_mends_it(token_file: Path, mode: int):
    token_file.chmod(mode)
    with pytest.raises(InputError, match=f"chmod 600 {token_file}") as refused:
        find_token({"AUTOTUNE_TOKEN_FILE": str(token_file)})
    assert TOKEN not in str(refused.value)


def test_a_file_of_another_user_is_refused(token_file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.geteuid", lambda: token_file.stat().st_uid + 1)
    with pytest.raises(InputError, match="belongs to another user"):
        find_token({"AUTOTUNE_TOKEN_FILE": str(token_file)})


def test_a_named_file_has_to_exist_and_the_default_one_need_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_token({}) is None
    with pytest.raises(NotFound):
        find_token({"AUTOTUNE_TOKEN_FILE": str(tmp_path / "none")})


def test_what_is_no_token_is_refused_without_telling_it():
    with pytest.raises(InputError, match="holds no token") as refused:
        find_token({"AUTOTUNE_TOKEN": "hunter2"})
    assert "hunter2" not in str(refused.value)


# Answers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, NotAllowed),
        (403, NotAllowed),
        (404, NotFound),
        (409, Conflict),
        (413, InputError),
        (422, InputError),
        (429, LimitReached),
        (421, ServerUnavailable),
        (500, ServerUnavailable),
    ],
)
def test_every_refusal_is_the_error_it_stands_for(status: int, kind: type[AutotuneError]):
    with server(lambda _: problem(status, "so it is")) as there, pytest.raises(kind, match="so it is") as refused:
        there.jobs(JobFilter(), most=1)
    assert type(refused.value) is kind


def test_every_problem_of_an_input_is_told():
    with (
        server(lambda _: problem(422, "two", "job.sla: bad", "job.model: bad")) as there,
        pytest.raises(InputError) as refused,
    ):
        there.submit({}, "key")
    assert refused.value.problems == ("job.sla: bad", "job.model: bad")


def test_a_refused_token_is_told_with_where_to_put_one_and_never_with_itself():
    with server(lambda _: problem(401, "the token is unknown")) as there, pytest.raises(NotAllowed) as refused:
        there.jobs(JobFilter(), most=1)
    assert "AUTOTUNE_TOKEN" in str(refused.value)
    assert TOKEN not in str(refused.value)


def test_a_redirect_is_not_followed_so_that_the_token_goes_nowhere_else():
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(307, headers={"location": "https://evil.example/v1/jobs"})

    with server(answer) as there, pytest.raises(ServerUnavailable, match=r"evil\.example"):
        there.jobs(JobFilter(), most=1)
    assert asked == ["127.0.0.1"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>", headers={"content-type": "text/html"}),
        httpx.Response(502, text="Bad gateway"),
        httpx.Response(404, text="nothing here"),
    ],
)
def test_an_answer_of_another_program_is_told_as_such(answer: httpx.Response):
    with server(lambda _: answer) as there, pytest.raises(ServerUnavailable, match="is that its address"):
        there.jobs(JobFilter(), most=1)


def test_an_answer_of_another_version_is_told_as_such():
    with (
        server(lambda _: httpx.Response(200, json={"jobs": [{"id": "a"}]})) as there,
        pytest.raises(ServerUnavailable, match="this version does not know"),
    ):
        there.jobs(JobFilter(), most=1)


def test_a_route_that_the_server_does_not_have_is_no_missing_job():
    with server(lambda _: problem(404, "Not Found")) as there, pytest.raises(ServerUnavailable, match="knows no /v1"):
        there.trials("demo-1")


# Tries


def test_a_limit_of_requests_is_waited_for_as_long_as_the_server_says():
    pauses: list[float] = []
    refusal = problem(429, "slow down", **{"Retry-After": "3"})
    with server(in_turn(refusal, refusal, EMPTY), pauses) as there:
        assert there.jobs(JobFilter(), most=1) == ()
    assert pauses == [3.0, 3.0]


def test_a_limit_is_waited_for_four_times_at_most():
    pauses: list[float] = []
    with (
        server(lambda _: problem(429, "slow down", **{"Retry-After": "3"}), pauses) as there,
        pytest.raises(LimitReached),
    ):
        there.jobs(JobFilter(), most=1)
    assert pauses == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "3600"}])
def test_a_limit_without_an_end_in_sight_is_told_at_once(headers: dict[str, str]):
    pauses: list[float] = []
    with (
        server(lambda _: problem(429, "the queue is full", **headers), pauses) as there,
        pytest.raises(LimitReached, match="the queue is full"),
    ):
        there.submit({}, "key")
    assert pauses == []


def test_a_busy_server_and_a_lost_answer_are_asked_again():
    pauses: list[float] = []
    with server(in_turn(problem(503, "away"), httpx.ReadError("cut"), EMPTY), pauses) as there:
        assert there.jobs(JobFilter(), most=1) == ()
    assert len(pauses) == 2


def test_a_cancel_whose_answer_was_lost_is_not_sent_again():
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        raise httpx.ReadError("cut")

    with server(answer) as there, pytest.raises(ServerUnavailable):
        there.cancel("demo-1")
    assert asked == ["POST"]


def test_a_server_that_is_not_there_is_told_at_once():
    pauses: list[float] = []
    with (
        server(in_turn(httpx.ConnectError("refused")), pauses) as there,
        pytest.raises(ServerUnavailable, match="cannot be reached: refused; does `autotune serve` run there"),
    ):
        there.jobs(JobFilter(), most=1)
    assert pauses == []


def test_a_submission_is_sent_with_its_key_so_that_it_may_be_sent_again():
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx.ReadError("cut")
        return httpx.Response(202, json={"id": "demo-1", "status": "queued", "href": "/v1/jobs/demo-1"})

    with server(answer) as there:
        assert there.submit({"job": {}}, "k-1") == "demo-1"
    assert keys == ["k-1", "k-1"]


@pytest.mark.parametrize("key", ["../tokens", "a b", "", "a/../b", ".."])
def test_a_key_that_can_be_no_job_is_never_sent(key: str):
    def answer(_: httpx.Request) -> httpx.Response:
        raise AssertionError("it was sent")

    with server(answer) as there, pytest.raises(NotFound):
        there.find(key)


# Event streams


def test_messages_end_at_empty_lines_and_comments_are_signs_of_life():
    lines = ["id: 1", "event: job_queued", 'data: {"a":', "data: 1}", "", ": nothing new", "", "retry: 2000", ""]
    assert list(messages(lines)) == [Message("job_queued", '{"a":\n1}'), Message("", "")]


def event(number: int, kind: str = "trial_started") -> str:
    data: dict[str, Any] = {"id": number, "job": "demo-1", "at": "2026-03-01T12:00:00Z", "kind": kind, "trial": 1}
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"


def stream(answer: Answer, after: int = 0) -> Stream:
    http = httpx.Client(base_url=URL, transport=httpx.MockTransport(answer))
    return Stream(http, Address.parse(URL), "/v1/jobs/demo-1", after)


def sent(text: str) -> httpx.Response:
    return httpx.Response(200, text=text, headers={"content-type": "text/event-stream; charset=utf-8"})


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.client.stream.PAUSES_S", (0.0,))


def test_a_stream_that_broke_off_is_taken_up_after_its_last_event_and_tells_none_twice():
    asked: list[str | None] = []
    answers: Iterator[httpx.Response] = iter(
        [sent(event(4) + event(5)), problem(503, "away"), sent(event(5) + event(6)), httpx.Response(204)]
    )

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("Last-Event-ID"))
        return next(answers)

    assert [found.id for found in stream(answer)] == [4, 5, 6]
    assert asked == [None, "5", "5", "6"]


def test_progress_is_no_event():
    text = 'event: progress\ndata: {"phase": "x"}\n\n' + event(1)
    assert [found.id for found in stream(in_turn(sent(text), httpx.Response(204)))] == [1]


@pytest.mark.parametrize(
    "answer", [httpx.Response(200, text="hello"), problem(404, "Not Found"), httpx.Response(404, text="proxy")]
)
def test_where_there_is_no_stream_somebody_else_has_to_look(answer: httpx.Response):
    with pytest.raises(NoStream):
        list(stream(lambda _: answer))


def test_streams_that_stay_silent_are_given_up():
    with pytest.raises(NoStream):
        list(stream(in_turn(httpx.ReadTimeout("silence"), httpx.ReadTimeout("silence"))))


def test_a_revoked_token_ends_the_stream():
    with pytest.raises(NotAllowed):
        list(stream(in_turn(sent(event(1)), problem(401, "the token is revoked"))))


# At the command line


@pytest.mark.parametrize(
    ("address", "token", "warned"),
    [("http://lab.example", TOKEN, True), ("https://lab.example", TOKEN, False), ("http://lab.example", "", False)],
    ids=["plain", "encrypted", "nothing to tell"],
)
def test_a_token_that_others_on_the_way_could_read_is_warned_of(
    address: str, token: str, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("AUTOTUNE_TOKEN", token)
    monkeypatch.setenv("HOME", "/nonexistent")
    with connected(address):
        told = capsys.readouterr().err
    assert ("unencrypted" in told) is warned
    assert TOKEN not in told
