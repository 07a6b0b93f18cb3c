"""Waiting until a platform's idle check succeeds; standard library only, the supervisor needs it."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence

_PAUSE_S = 1.0
_POLL_S = 0.2
_PROBE_TIMEOUT_S = 60.0
_KILLED_PROBE_S = 1.0


def _never() -> bool:
    return False


def wait_idle(
    command: Sequence[str] | None,
    timeout_s: float,
    given_up: Callable[[], bool] = _never,
    *,
    pause_s: float = _PAUSE_S,
    rest_s: float = 0.0,
) -> bool | None:
    """Run the check until it exits 0; False in vain, None where the platform has none.

    Before `rest_s` it is not run: a driver that has lost a process may look idle and not be ready.
    """
    if not command:
        return None
    rested = time.monotonic() + rest_s
    while not given_up() and time.monotonic() < rested:
        time.sleep(min(_POLL_S, max(0.0, rested - time.monotonic())))
    deadline = time.monotonic() + timeout_s
    while not _succeeds(command, given_up):
        if given_up() or time.monotonic() >= deadline:
            return False
        time.sleep(pause_s)
    return True


def _succeeds(command: Sequence[str], given_up: Callable[[], bool]) -> bool:
    try:
        check = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError:
        return False
    deadline = time.monotonic() + _PROBE_TIMEOUT_S
    while not given_up() and time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return check.wait(_POLL_S) == 0
    check.kill()  # and not waited for long: a wedged driver would hold us too
    with contextlib.suppress(subprocess.TimeoutExpired):
        check.wait(_KILLED_PROBE_S)
    return False
