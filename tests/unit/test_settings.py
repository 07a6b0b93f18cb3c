"""Settings: the file, the environment, and the engine that is found without either."""

import pytest

from autotune.errors import EnvironmentProblem, InputError, NotFound
from autotune.settings import detected_platform, load_settings, profile


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """An empty home, an empty current folder and an empty PATH."""
    for name in ("SETTINGS", "HOME", "DATABASE_URL", "RAY_ADDRESS", "GUIDELLM", "PROFILES", "VLLM"):
        monkeypatch.delenv(f"AUTOTUNE_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_settings(machine, text):
    file = machine / ".config/autotune/settings.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def executable(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_without_a_file_everything_has_a_default(machine):
    settings = load_settings()
    assert settings.home == machine / ".local/share/autotune"
    assert settings.database == f"sqlite:///{machine}/.local/share/autotune/autotune.db"
    assert (settings.ray_address, settings.profiles) == (None, {})


def test_the_environment_wins_over_the_file(machine, monkeypatch):
    write_settings(machine, "home: /srv/autotune\nray_address: from-file\n")
    monkeypatch.setenv("AUTOTUNE_RAY_ADDRESS", "ray://head:10001")
    settings = load_settings()
    assert (str(settings.home), settings.ray_address) == ("/srv/autotune", "ray://head:10001")


def test_a_database_password_is_never_printed(monkeypatch):
    monkeypatch.setenv("AUTOTUNE_DATABASE_URL", "postgresql://tuner:hunter2@db/autotune")
    settings = load_settings()
    assert settings.database == "postgresql://tuner:hunter2@db/autotune"
    assert "hunter2" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


def test_all_problems_of_a_profile_are_named_in_plain_words(machine):
    file = write_settings(machine, "profiles:\n  npu: {platform: gpu, exe: x, environment: {A: [hunter2]}}\n")
    with pytest.raises(InputError) as caught:
        load_settings()
    known = (
        "executable, platform, engine, environment, arguments, jemalloc, start_timeout_s, start_stall_timeout_s, "
        "stall_timeout_s, device_rest_s, peak_tflops, peak_memory_gb_per_s, price_per_device_hour, model_roots"
    )
    assert caught.value.problems == (
        f"{file}: profiles.npu.executable: missing key",
        f"{file}: profiles.npu.platform: must be 'ascend', 'cuda', 'cpu' or 'simulated', not 'gpu'",
        f"{file}: profiles.npu.environment.A: must be a valid string",
        f"{file}: profiles.npu.exe: unknown key; known are {known}",
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "hom: /srv\n",
            "unknown key 'hom'; known are home, database_url, ray_address, guidellm, allowed_knobs, profiles",
        ),
        ("- home\n", "not a mapping of keys"),
        ("home: [\n", "cannot be read as YAML"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_named(machine, text, told):
    file = write_settings(machine, text)
    with pytest.raises(InputError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{file}: {told}")


def test_a_settings_file_that_was_named_must_exist(machine, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_SETTINGS", str(machine / "gone.yaml"))
    with pytest.raises(NotFound, match=r"AUTOTUNE_SETTINGS names .*gone\.yaml, which is no file"):
        load_settings()


def test_profiles_from_the_environment_must_be_json(monkeypatch):
    monkeypatch.setenv("AUTOTUNE_PROFILES", "npu")
    with pytest.raises(InputError, match="AUTOTUNE_PROFILES is not JSON"):
        load_settings()


def test_a_configured_profile_is_found_with_its_executable(machine):
    script = executable(machine / "engine/bin/vllm")
    write_settings(machine, f"profiles:\n  npu: {{executable: {script}, platform: ascend, arguments: {{seed: 0}}}}\n")
    found = profile(load_settings(), "npu")
    assert (found.executable, found.platform, found.arguments) == (script, "ascend", {"seed": 0})
    assert found.start_timeout_s == 900


def test_a_configured_executable_that_is_gone_is_the_machines_problem(machine):
    write_settings(machine, "profiles:\n  npu: {executable: /gone/vllm, platform: ascend}\n")
    with pytest.raises(EnvironmentProblem, match="engine profile 'npu' names /gone/vllm, which is no executable"):
        profile(load_settings(), "npu")


def test_the_simulated_engines_profiles_need_no_settings(machine):
    found = profile(load_settings(), "simulated-ascend-910b")
    assert (found.engine, found.platform, found.environment) == (
        "simulated",
        "simulated",
        {"SIMULATED_DEVICE": "ascend-910b"},
    )


def test_the_settings_may_redefine_a_built_in_profile(machine):
    write_settings(machine, "profiles:\n  simulated: {executable: /bin/sh, platform: cpu}\n")
    assert profile(load_settings(), "simulated").engine == "vllm"


def test_an_unknown_profile_says_what_was_meant(machine):
    write_settings(machine, "profiles:\n  ascend: {executable: /gone/vllm, platform: ascend}\n")
    with pytest.raises(NotFound, match=r"no engine profile 'asend'; did you mean 'ascend'\? Known: ascend, simulated,"):
        profile(load_settings(), "asend")


def test_the_engine_named_by_the_environment_comes_first(machine, monkeypatch):
    executable(machine / ".venv-engine/bin/vllm")
    monkeypatch.setenv("AUTOTUNE_VLLM", str(executable(machine / "mine/vllm")))
    assert profile(load_settings(), "vllm").executable == machine / "mine/vllm"


def test_the_engine_beside_the_project_comes_before_the_one_on_the_path(machine):
    executable(machine / "bin/vllm")
    assert profile(load_settings(), "vllm").executable == machine / "bin/vllm"
    executable(machine / ".venv-engine/bin/vllm")
    assert profile(load_settings(), "vllm").executable == machine / ".venv-engine/bin/vllm"


def test_a_configured_profile_named_vllm_is_not_detected(machine):
    script = executable(machine / "engine/bin/vllm")
    executable(machine / "bin/vllm")
    write_settings(machine, f"profiles:\n  vllm: {{executable: {script}, platform: cuda}}\n")
    assert profile(load_settings(), "vllm").executable == script


def test_without_an_engine_the_advice_says_what_to_do():
    with pytest.raises(EnvironmentProblem, match=r"no vLLM was found.*set AUTOTUNE_VLLM"):
        profile(load_settings(), "vllm")


@pytest.mark.parametrize(
    ("nodes", "platform"),
    [
        (["davinci0", "nvidia0"], "ascend"),
        (["davinci_manager", "nvidia0", "nvidiactl"], "cuda"),
        (["nvidiactl", "null"], "cpu"),
    ],
)
def test_the_platform_is_what_the_device_nodes_say(tmp_path, nodes, platform):
    for node in nodes:
        (tmp_path / node).touch()
    assert detected_platform(tmp_path) == platform
