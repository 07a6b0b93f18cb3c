"""The load generator's thread goes before what computes, and only as long as it measures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.loadgen.priority import on_time


def policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


def test_it_tells_whether_the_thread_is_scheduled_in_real_time():
    with on_time() as granted:
        assert policy() == (os.SCHED_RR if granted else os.SCHED_OTHER)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may, or who has CAP_SYS_NICE")
def test_root_is_granted_it_unless_its_container_forbids():
    """A container may drop the capability, bit 23 of CapEff: see capabilities(7)."""
    status = Path("/proc/self/status").read_text()
    capable = int(status.split("CapEff:")[1].split()[0], 16) >> 23 & 1
    with on_time() as granted:
        assert granted is bool(capable)


def test_afterwards_everything_is_as_it_was_also_after_an_error():
    with pytest.raises(KeyError), on_time():
        raise KeyError
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_processes_started_meanwhile_are_ordinary():
    with on_time():
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert int(child.stdout) == os.SCHED_OTHER
