"""What every platform owes the trial, run over all of them."""

import re

import pytest

from autotune.platforms import ANY_RESOURCE, PLATFORMS, Platform


@pytest.fixture(params=sorted(PLATFORMS))
def platform(request: pytest.FixtureRequest) -> Platform:
    return PLATFORMS[request.param]


def test_its_resource_is_one_that_jobs_name(platform: Platform) -> None:
    assert platform.RESOURCE in ("NPU", "GPU", "CPU", ANY_RESOURCE)


def test_visibility_shows_exactly_the_devices_in_numeric_order(platform: Platform) -> None:
    shown = [value for name, value in platform.visibility(["10", "2"]).items() if name.endswith("VISIBLE_DEVICES")]
    # On CPU the binding is in the environment, and what is simulated needs none.
    assert shown == ([] if platform.RESOURCE in ("CPU", ANY_RESOURCE) else ["2,10"])


def test_the_devices_are_named_in_what_the_engine_gets(platform: Platform) -> None:
    given = platform.visibility(["5"]) | platform.environment(["5"])
    named = any("5" in re.findall(r"\d+", value) for value in given.values())
    assert named or platform.RESOURCE == ANY_RESOURCE


def test_the_environment_holds_only_text(platform: Platform) -> None:
    given = platform.environment(["0", "1"], 2)
    assert all(isinstance(value, str) for value in given.values())


def test_an_idle_check_is_a_command_about_these_devices(platform: Platform) -> None:
    command = platform.idle_command(["3", "1"])
    assert command is None or [word for word in command if word.isdigit()] == ["1", "3"]


def test_only_npus_are_left_alone_after_a_kill(platform: Platform) -> None:
    """HCCP may say for ten seconds that the last process still runs (EJ0001)."""
    assert (10.0 if platform.RESOURCE == "NPU" else 0.0) == platform.REST_S


def test_simulated_devices_are_known_by_every_id_that_ray_may_assign() -> None:
    devices = PLATFORMS["simulated"].discover()
    assert [device.id for device in devices] == [str(number) for number in range(64)]
    assert all(device.usable and device.idle and device.memory_total_mib is None for device in devices)
