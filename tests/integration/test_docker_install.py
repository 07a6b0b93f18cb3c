"""The service's image without a Docker engine: what it copies, runs, starts and asks is done in a folder instead."""

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.process, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def of(instruction: str) -> list[str]:
    return [line.partition(" ")[2].strip() for line in LINES if line.startswith(f"{instruction} ")]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in place of /opt/autotune, made by the Dockerfile's own COPY and RUN lines; no user is added."""
    folder = tmp_path_factory.mktemp("image")
    for argument in of("COPY"):
        *sources, target = argument.split()
        place = Path(target.replace("/opt/autotune", str(folder)))
        place.mkdir(parents=True, exist_ok=True)
        for source in map(ROOT.joinpath, sources):
            if source.is_dir():
                shutil.copytree(source, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, place)
    (argument,) = of("RUN")
    install = argument.partition("&&")[0].replace("/opt/autotune", str(folder))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        shlex.split(install), env=environment, cwd=folder, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def environment(image: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": f"{image}/venv/bin:/usr/bin:/bin",
        "AUTOTUNE_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
    }


def autotune(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("autotune", path=environment["PATH"]) or "autotune", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def service(environment: dict[str, str]) -> Iterator[int]:
    """What CMD starts, on a loopback address."""
    port = free_port()
    words: list[str] = yaml.safe_load(of("CMD")[0])
    words = [{"0.0.0.0": "127.0.0.1", "8000": str(port)}.get(word, word) for word in words]
    command = [shutil.which("autotune", path=environment["PATH"]) or "autotune", *words]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        try:
            assert running.stdout is not None
            first = running.stdout.readline()  # it is announced once it listens
            assert str(port) in first.decode(), first
            yield port
        finally:
            running.terminate()
            running.communicate(timeout=60)


def test_the_installed_command_answers_without_development_packages(environment: dict[str, str], image: Path):
    done = autotune(environment, "--version")
    assert done.stdout.startswith("vllm-autotune ")
    assert not (image / "venv" / "bin" / "pytest").exists()


def test_the_image_knows_its_bundled_spaces_and_workloads(environment: dict[str, str], image: Path):
    done = autotune(environment, "validate", str(image / "autotune" / "demo" / "job.yaml"))
    assert done.returncode == 0, done.stderr


def test_the_doctor_works_in_the_image(environment: dict[str, str]):
    done = autotune(environment, "doctor", "--engine", "simulated", "--json")
    assert '"topic": "database"' in done.stdout
    assert done.returncode == 0, done.stdout


def test_the_health_check_of_the_image_finds_the_service(service: int, environment: dict[str, str]):
    (check,) = of("HEALTHCHECK")
    match = re.search(r"CMD (\[.*\])", check)
    assert match
    command: list[str] = yaml.safe_load(match[1])
    asked = [word.replace(":8000", f":{service}") for word in command]
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
