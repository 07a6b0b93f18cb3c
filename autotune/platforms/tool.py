"""Runs a vendor's read-only command-line tool in bounded time."""

import contextlib
import os
import subprocess
from collections.abc import Sequence

from autotune.errors import EnvironmentProblem

TIMEOUT_S = 20.0

_KILLED_S = 1.0


class DeviceToolFailed(EnvironmentProblem):
    """A device tool that is installed hangs or fails: devices or their driver are not well on this node."""

    def __init__(self, message: str, *, hangs: bool) -> None:
        self.hangs = hangs
        super().__init__(message)


def run(command: Sequence[str], timeout_s: float | None = None) -> str:
    """The tool's output, in English; it has `TIMEOUT_S` for it, or what is said.

    Raises EnvironmentProblem when it is missing, DeviceToolFailed when it fails or hangs.
    """
    limit_s = TIMEOUT_S if timeout_s is None else timeout_s
    try:
        tool = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as problem:
        raise EnvironmentProblem(
            f"cannot run {command[0]}: {problem.strerror}; is the device's driver installed and mounted?"
        ) from problem
    try:
        output, _ = tool.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired as problem:
        tool.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a tool that hangs in a wedged driver does not die
            tool.communicate(timeout=_KILLED_S)
        raise DeviceToolFailed(
            f"`{' '.join(command)}` did not answer within {limit_s:g} s; a device or its driver hangs", hangs=True
        ) from problem
    if tool.returncode != 0:
        said = f"`{' '.join(command)}` failed (exit code {tool.returncode}): {output.strip()[:500]}"
        raise DeviceToolFailed(said, hangs=False)
    return output
