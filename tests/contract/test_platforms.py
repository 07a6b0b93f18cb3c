"""What every platform owes the trial, run over all of them."""

import re

import pytest

from autotune.platforms import PLATFORMS, Platform


@pytest.fixture(params=sorted(PLATFORMS))
def platform(request: pytest.FixtureRequest) -> Platform:
    return PLATFORMS[request.param]


def test_its_resource_is_one_that_jobs_name(platform: Platform) -> None:
    assert platform.RESOURCE in ("NPU", "GPU", "CPU")


def test_visibility_shows_exactly_the_devices_in_numeric_order(platform: Platform) -> None:
    shown = [value for name, value in platform.visibility(["10", "2"]).items() if name.endswith("VISIBLE_DEVICES")]
    assert shown == ([] if platform.RESOURCE == "CPU" else ["2,10"])  # on CPU the binding is in the environment


def test_the_devices_are_named_in_what_the_engine_gets(platform: Platform) -> None:
    given = platform.visibility(["5"]) | platform.environment(["5"])
    assert any("5" in re.findall(r"\d+", value) for value in given.values())


def test_the_environment_holds_only_text(platform: Platform) -> None:
    given = platform.environment(["0", "1"], 2)
    assert all(isinstance(value, str) for value in given.values())


def test_an_idle_check_is_a_command_about_these_devices(platform: Platform) -> None:
    command = platform.idle_command(["3", "1"])
    assert command is None or [word for word in command if word.isdigit()] == ["1", "3"]
