"""Who runs a job: a name that tells whether that process is gone, and errs on the side of "still there"."""

import os
import re
import subprocess
import sys

import pytest

from autotune.engines import procfs
from autotune.tuner.owner import gone, owner


def renamed(name: str, pattern: str, replacement: str) -> str:
    changed, count = re.subn(pattern, replacement, name)
    assert count == 1
    return changed


def test_the_running_process_is_not_gone():
    assert not gone(owner())


def test_the_name_says_which_process_it_is():
    assert owner().startswith(f"process {os.getpid()} on ")


def test_a_process_that_has_ended_is_gone():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = procfs.stat(child.pid)
    assert stat is not None
    name = renamed(owner(), r"process \d+", f"process {child.pid}")
    name = renamed(name, r"tick \d+", f"tick {stat.start_time}")
    assert not gone(name)
    child.communicate()
    assert gone(name)


def test_another_process_that_got_the_same_number_does_not_count():
    assert gone(renamed(owner(), r"tick \d+", "tick 1"))


def test_whoever_ran_before_the_host_was_started_again_is_gone():
    assert gone(renamed(owner(), r"boot \w+", "boot 00000000"))


def test_of_another_host_nobody_here_knows():
    assert not gone(renamed(renamed(owner(), r" on \S+ ", " on elsewhere "), r"tick \d+", "tick 1"))


@pytest.mark.parametrize("name", ["", "somebody", "process one on here (boot a, tick b)"])
def test_a_name_that_is_not_ours_is_not_known_to_be_gone(name: str):
    assert not gone(name)


def test_a_process_of_another_container_on_this_host_is_not_known_to_be_gone():
    """Containers may share the host's name and boot, but process 1 of one is not process 1 of the other."""
    elsewhere = renamed(owner(), r"pid:\[\d+\]", "pid:[1]")
    assert not gone(renamed(elsewhere, r"tick \d+", "tick 1"))
