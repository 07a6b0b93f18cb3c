"""Who gets into the Ray that a fleet starts."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from autotune.fleet.token import LocalToken
from autotune.spec import Devices

JOIN = """
import sys
from autotune.fleet import Fleet
from autotune.spec import Devices
with Fleet(Devices(resource="NPU"), address=sys.argv[1]) as fleet:
    print(fleet.most_devices, "NPUs")
"""
# `ray.init` would try again for 20 s; this is what it does first.
KNOCK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]); print('in')"


def python(code: str, address: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Somebody else's process, which knows of Ray what it is told here."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", code, address],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def address(two_npus: Devices) -> str:
    assert two_npus
    return str(ray.get_runtime_context().gcs_address)


@pytest.mark.ray
@pytest.mark.parametrize(
    "variables",
    [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-guess"}],
    ids=["without", "wrong"],
)
def test_a_client_without_the_clusters_token_is_refused(address: str, variables: dict[str, str]):
    asked = python(KNOCK, address, **variables)
    assert asked.returncode != 0
    assert "Authentication token is missing or incorrect" in asked.stderr


@pytest.mark.ray
def test_a_client_with_the_clusters_token_gets_in(address: str):
    asked = python(KNOCK, address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=os.environ["RAY_AUTH_TOKEN"])
    assert (asked.returncode, asked.stdout) == (0, "in\n")


@pytest.mark.ray
def test_a_fleet_joins_an_operators_cluster_with_the_operators_token(address: str, tmp_path: Path):
    """From a file that only the operator reads, as Ray's own documents advise."""
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(os.environ["RAY_AUTH_TOKEN"])
    asked = python(JOIN, address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    assert (asked.returncode, asked.stdout) == (0, "2 NPUs\n"), asked.stderr


@pytest.mark.ray
@pytest.mark.usefixtures("two_npus")
def test_the_token_is_in_no_argument_list_and_in_no_log():
    token = os.environ["RAY_AUTH_TOKEN"]
    words = [word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or ()]
    assert [word for word in words if token in word] == []
    logs = Path(ray._private.worker._global_node.get_session_dir_path())
    said = [path for path in logs.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert said == []


def test_every_local_ray_has_a_token_of_its_own_and_the_operators_comes_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/the/operators/token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    tokens = set()
    for _ in range(2):
        token = LocalToken()
        assert (os.environ["RAY_AUTH_MODE"], "RAY_AUTH_TOKEN_PATH" in os.environ) == ("token", False)
        tokens.add(os.environ["RAY_AUTH_TOKEN"])
        token.close()
    assert len(tokens) == 2
    assert all(len(token) >= 43 for token in tokens)
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == "/the/operators/token"
    assert "RAY_AUTH_TOKEN" not in os.environ
