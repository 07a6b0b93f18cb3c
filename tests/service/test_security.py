"""The threat model of docs/security.md, line by line: what a stranger, another tenant and a job cannot do."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from autotune.access import Role, split_token
from autotune.errors import EnvironmentProblem, StoreError
from autotune.service import problems
from autotune.service.auth import COOKIE, CSRF_HEADER, csrf_token, open_session
from autotune.service.gate import Rates
from autotune.service.server import is_loopback, serve
from autotune.settings import ServiceSettings, Settings
from autotune.store import SharedStore

DEMO: dict[str, Any] = {
    "version": 1,
    "name": "demo",
    "model": "tiny-llama",
    "engine": "simulated",
    "devices": {"resource": "CPU", "max_per_trial": 1},
    "search_space": "demo",
    "workload": "demo",
    "sla": {"p99_ttft_ms": 700},
}
SPACE = {"version": 1, "name": "mine", "parameters": {"max_num_seqs": {"type": "int", "values": [8, 16]}}}
SPACE_START = {"starting_points": {"baseline": {"max_num_seqs": 16}}}
WORKLOAD = {
    "version": 1,
    "name": "mine",
    "dataset": {"kind": "trace", "path": "/etc/passwd", "max_input_tokens": 64, "max_output_tokens": 16},
    "arrival": {"kind": "closed_loop"},
    "levels": [2],
    "requests_per_level": 32,
}


def submit(client: Any, *, job: dict[str, Any] | None = None, **parts: Any) -> Any:
    return client.post("/v1/jobs", json={"job": DEMO | (job or {}), **parts})


def told(answer: Any) -> str:
    assert answer.headers["content-type"].startswith(problems.MEDIA_TYPE), answer.text
    return " ".join([answer.json()["detail"], *answer.json()["problems"]])


# From the network


@pytest.mark.parametrize(
    ("host", "answer"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.1.2.3", False), ("host", False)],
)
def test_only_loopback_addresses_count_as_such(host: str, answer: bool):
    assert is_loopback(host) is answer


def test_another_address_than_loopback_is_refused_while_there_are_no_tokens(tmp_path: Path):
    with pytest.raises(EnvironmentProblem, match=r"will not listen on 0\.0\.0\.0 without tokens"):
        serve(Settings(home=tmp_path), print, host="0.0.0.0", port=0, worker=False)


def test_without_a_token_nobody_gets_in_once_there_is_one(service: Any):
    assert service.client().get("/v1/jobs").status_code == 200
    service.token("red")
    service.later(seconds=1)
    answer = service.client().get("/v1/jobs")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_a_guessed_an_expired_and_a_revoked_token_are_refused_alike(service: Any):
    good = service.token("red", expires_at=service.now + timedelta(hours=1))
    parts = split_token(good)
    assert parts is not None
    guessed = good[:-4] + ("aaaa" if good[-4:] != "aaaa" else "bbbb")
    client = service.client(good)
    assert client.get("/v1/jobs").status_code == 200
    answers = [service.client(text).get("/v1/jobs") for text in (guessed, "vat_nonsense", "")]
    service.later(hours=2)
    answers.append(client.get("/v1/jobs"))
    service.now -= timedelta(hours=2)
    service.store.revoke_token(parts[0], now=service.now)
    answers.append(client.get("/v1/jobs"))
    assert [answer.status_code for answer in answers] == [401] * 5
    assert len({answer.text for answer in answers}) == 1


def test_the_database_holds_no_token_and_no_cookie(service: Any, tmp_path: Path):
    token = service.token("red")
    key = open_session(service.app.state.autotune, "")
    service.store.close()
    content = b"".join(path.read_bytes() for path in tmp_path.glob("autotune.db*"))
    assert content
    parts = split_token(token)
    assert parts is not None
    assert parts[0].encode() in content
    assert parts[1].encode() not in content
    assert key.encode() not in content


def test_another_sites_page_cannot_send_a_request(service: Any):
    client = service.client(origin="https://evil.example")
    assert submit(client).status_code == 403
    assert submit(service.client(origin="http://127.0.0.1:8000")).status_code == 202


def test_a_form_post_is_no_job(service: Any):
    """A page of another site can send forms without asking; the API reads JSON and YAML only."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"):
        answer = service.client().post("/v1/jobs", content=json.dumps({"job": DEMO}), headers={"content-type": kind})
        assert answer.status_code in (415, 422)
    assert service.store.page(_everything())[0] == ()


def _everything() -> Any:
    from autotune.submission import JobFilter

    return JobFilter()


def test_a_request_with_a_cookie_needs_the_sessions_csrf_token(service: Any):
    key = open_session(service.app.state.autotune, "")
    client = service.client()
    client.cookies.set(COOKIE, key)
    assert submit(client).status_code == 403
    client.headers[CSRF_HEADER] = csrf_token("another session's key")
    assert submit(client).status_code == 403
    client.headers[CSRF_HEADER] = csrf_token(key)
    assert submit(client).status_code == 202


def test_a_request_for_another_host_is_refused(serve: Callable[..., Any]):
    """DNS rebinding: a page's own name that leads to 127.0.0.1."""
    service = serve(service=ServiceSettings(allowed_hosts=("tuning.example",)))
    assert service.client(host="evil.example:8000").get("/v1/jobs").status_code == 421
    assert service.client(host="tuning.example").get("/v1/jobs").status_code == 200
    assert service.client(host="[::1]:8000").get("/v1/jobs").status_code == 200


def test_answers_are_neither_framed_nor_sniffed(service: Any):
    headers = service.client().get("/v1/jobs").headers
    assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")


def test_a_large_body_is_refused_also_when_its_size_is_not_told(serve: Callable[..., Any]):
    service = serve(service=ServiceSettings(max_request_bytes=1000))
    body = json.dumps({"job": DEMO | {"name": "x" * 2000}}).encode()
    told_size = service.client().post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    untold = service.client().post("/v1/jobs", content=iter([body]), headers={"content-type": "application/json"})
    assert (told_size.status_code, untold.status_code) == (413, 413)


def test_a_flood_is_told_to_wait(serve: Callable[..., Any]):
    service = serve(service=ServiceSettings(rate_per_s=1, rate_burst=3))
    client = service.client()
    answers = [client.get("/healthz") for _ in range(6)]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_made_up_tokens_are_counted_together_and_never_as_a_real_one(serve: Callable[..., Any]):
    service = serve(service=ServiceSettings(rate_per_s=0.001, rate_burst=3))
    good = service.token("red")
    assert service.client(good).get("/v1/jobs").status_code == 200  # known from here on
    parts = split_token(good)
    assert parts is not None
    made_up = [f"vat_{number:012x}_{parts[1]}" for number in range(3)] + [good[:-4] + "aaaa"]
    answers = [service.client(text).get("/v1/jobs").status_code for text in made_up]
    assert answers == [401, 401, 429, 429]
    assert [service.client(good).get("/v1/jobs").status_code for _ in range(3)] == [200] * 3


def test_a_revoked_token_is_counted_by_its_address_again(serve: Callable[..., Any]):
    service = serve(service=ServiceSettings(rate_per_s=0.001, rate_burst=3))
    client = service.client(good := service.token("red"))
    assert client.get("/v1/jobs").status_code == 200
    parts = split_token(good)
    assert parts is not None
    service.store.revoke_token(parts[0], now=service.now)
    answers = [client.get("/v1/jobs").status_code for _ in range(4)]
    assert answers == [401, 401, 401, 429]


@pytest.mark.parametrize("headers", [{"Host": "["}, {"Host": "[::1"}, {"Origin": "http://["}])
def test_a_host_or_an_origin_that_is_none_is_refused(service: Any, headers: dict[str, str]):
    assert service.client().post("/v1/jobs", headers=headers).status_code in (403, 421)


def test_one_clients_flood_is_not_anothers():
    time_s = [0.0]
    rates = Rates(per_s=2, burst=1, clock=lambda: time_s[0])
    assert [rates.wait_s("a"), rates.wait_s("a"), rates.wait_s("b")] == [0.0, 0.5, 0.0]
    time_s[0] = 0.5
    assert rates.wait_s("a") == 0.0


# From a job to the host


@pytest.mark.parametrize(
    "name",
    [
        "trust_remote_code",
        "worker_cls",
        "worker_extension_cls",
        "worker_extension_c",  # argparse completes it
        "middleware",
        "logits_processors",
        "tool_parser_plugin",
        "kv_transfer_config",
        "hf_overrides",
        "host",
        "api_key",
    ],
)
def test_an_argument_that_loads_code_or_moves_the_endpoint_is_refused_by_name(service: Any, name: str):
    parameters = SPACE["parameters"] | {name: {"type": "categorical", "choices": ["a", "b"]}}  # type: ignore[operator]
    space = SPACE | {"parameters": parameters, "starting_points": {"baseline": {"max_num_seqs": 16, name: "a"}}}
    answer = submit(service.client(), search_space=space)
    assert answer.status_code == 422
    assert f"'{name}'" in told(answer)


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "PATH", "VLLM_PLUGINS", "HF_TOKEN", "RAY_ADDRESS"])
def test_an_environment_variable_that_is_the_operators_is_refused_by_name(service: Any, name: str):
    target = {"kind": "environment", "name": name}
    parameters = {"knob": {"type": "categorical", "choices": ["a", "b"], "target": target}}
    space = SPACE | {"parameters": parameters, "starting_points": {"baseline": {"knob": "a"}}}
    answer = submit(service.client(), search_space=space)
    assert answer.status_code == 422
    assert f"'{name}'" in told(answer)


def test_a_knob_outside_of_the_catalogue_needs_the_operators_word(serve: Callable[..., Any]):
    target = {"kind": "environment", "name": "NCCL_ALGO"}
    parameters = {"knob": {"type": "categorical", "choices": ["Ring", "Tree"], "target": target}}
    space = SPACE | {"parameters": parameters, "starting_points": {"baseline": {"knob": "Ring"}}}
    refused = submit(serve().client(), search_space=space)
    assert refused.status_code == 422
    assert "allowed_knobs" in told(refused)
    assert submit(serve(allowed_knobs=("NCCL_ALGO",)).client(), search_space=space).status_code == 202


@pytest.mark.parametrize("field", ["executable", "output", "command", "environment", "sampler_path"])
def test_a_job_has_no_field_for_programs_or_places(service: Any, field: str):
    answer = submit(service.client(), job={field: "/bin/sh"})
    assert answer.status_code == 422
    assert field in told(answer)


def test_a_sampler_is_one_of_a_list_and_no_import_path(service: Any):
    assert submit(service.client(), job={"sampler": "os.system"}).status_code == 422


@pytest.mark.parametrize("model", ["/etc", "../../../../etc", "~", "/"])
def test_a_model_lies_below_the_allowed_folders(service: Any, model: str):
    answer = submit(service.client(), job={"model": model})
    assert answer.status_code == 422
    assert "model" in told(answer)


def test_a_link_among_the_models_leads_nowhere_else(serve: Callable[..., Any], tmp_path: Path):
    roots, outside = tmp_path / "models", tmp_path / "secret"
    for folder in (roots, outside):
        folder.mkdir()
    (outside / "config.json").write_text('{"vocab_size": 100}')
    (roots / "link").symlink_to(outside)
    answer = submit(serve(model_roots=(roots,)).client(), job={"model": "link"})
    assert answer.status_code == 422
    assert "outside" in told(answer)


@pytest.mark.parametrize("path", ["/etc/passwd", "../../../../etc/passwd", "passwd"])
def test_a_workloads_data_lies_below_the_allowed_folders(serve: Callable[..., Any], tmp_path: Path, path: str):
    service = serve(data_roots=(tmp_path,))
    workload = WORKLOAD | {"dataset": WORKLOAD["dataset"] | {"path": path}}  # type: ignore[operator]
    answer = submit(service.client(), workload=workload)
    assert answer.status_code == 422
    assert "is not the absolute path of a file below what this server allows" in told(answer)


def test_a_link_among_the_data_leads_nowhere_else(serve: Callable[..., Any], tmp_path: Path):
    roots = tmp_path / "data"
    roots.mkdir()
    (roots / "link.jsonl").symlink_to("/etc/passwd")
    workload = WORKLOAD | {"dataset": WORKLOAD["dataset"] | {"path": str(roots / "link.jsonl")}}  # type: ignore[operator]
    answer = submit(serve(data_roots=(roots,)).client(), workload=workload)
    assert answer.status_code == 422


# Secrets


def test_what_is_wrong_with_the_database_is_told_without_its_address():
    told_problem = problems.of_error(StoreError("the database postgresql://ann:hunter2@db/x fails"))
    assert "hunter2" not in told_problem.model_dump_json()
    assert "postgresql" not in told_problem.model_dump_json()


def test_a_crash_is_told_without_a_word_of_the_program(service: Any, monkeypatch: pytest.MonkeyPatch):
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(SharedStore, "page", crash)
    with contextlib.suppress(RuntimeError):  # the test client raises it once more
        answer = service.client().get("/v1/jobs")
        assert answer.status_code == 500
        assert "secret detail" not in answer.text


def test_a_traceback_in_the_log_has_no_local_variables():
    script = (
        "from autotune import telemetry\n"
        "telemetry.configure()\n"
        "def crash():\n"
        "    token = 'hunter' + str(2)\n"
        "    raise RuntimeError('broken')\n"
        "try:\n"
        "    crash()\n"
        "except RuntimeError:\n"
        "    telemetry.get_logger().exception('job_crashed')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert "RuntimeError: broken" in ended.stderr
    assert "hunter2" not in ended.stderr


def test_a_token_is_printed_once_and_never_listed(tmp_path: Path):
    environment = {"AUTOTUNE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def autotune(*arguments: str) -> str:
        command = [sys.executable, "-m", "autotune", "token", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    token = autotune("create", "--tenant", "red", "--role", "viewer").strip()
    parts = split_token(token)
    assert parts is not None
    listed = json.loads(autotune("list", "--json"))
    assert [(kept["id"], kept["tenant"], kept["role"]) for kept in listed] == [(parts[0], "red", "viewer")]
    assert parts[1] not in json.dumps(listed)
    assert "secret" not in json.dumps(listed)


def test_a_role_includes_those_below_it():
    assert Role.ADMIN.includes(Role.SUBMITTER)
    assert not Role.VIEWER.includes(Role.SUBMITTER)


def test_the_documents_table_names_every_argument_that_is_refused_by_name():
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    for name in ("--trust-remote-code", "--worker-cls", "--hf-overrides", "LD_PRELOAD"):
        assert name in text


def test_yaml_bombs_are_refused(service: Any):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]" for n in range(8)
    )
    answer = service.client().post("/v1/jobs", content=bomb, headers={"content-type": "application/yaml"})
    assert answer.status_code == 422
    assert "aliases" in told(answer)
