"""The devices that a trial was given, as the platform sees them."""

from autotune.platforms import Device
from autotune.trial.devices import Health, granted
from autotune.trial.request import Grant

SHOWN = [Device("0", "910B3", "OK"), Device("2", "910B3", "OK")]


def test_those_that_were_granted_are_taken_in_their_order():
    assert [device.id for device in granted(Grant(("2", "0"), 2), SHOWN)] == ["2", "0"]


def test_where_the_cluster_only_counts_all_are():
    assert granted(Grant((), 2), SHOWN) == SHOWN


def test_one_that_is_not_shown_any_more_is_not_well_and_leaves_the_pool():
    """It must not end the job: the others go on."""
    health = Health()
    devices = granted(Grant(("0", "1"), 2), SHOWN)
    assert [device.id for device in health.look_at(devices)] == ["1"]
    assert health.unwell == ("1",)
    assert "its tool shows 0, 2" in health.told["1"]
    assert "start Ray with this numbering" in health.told["1"]
