"""Runs a vendor's read-only command-line tool in bounded time."""

import contextlib
import os
import subprocess
from collections.abc import Sequence

from autotune.errors import EnvironmentProblem

TIMEOUT_S = 20.0

_KILLED_S = 1.0


def run(command: Sequence[str], timeout_s: float = TIMEOUT_S) -> str:
    """The tool's output, in English. Raises EnvironmentProblem when it is missing, fails or hangs."""
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
        output, _ = tool.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as problem:
        tool.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # a tool that hangs in a wedged driver does not die
            tool.communicate(timeout=_KILLED_S)
        raise EnvironmentProblem(
            f"`{' '.join(command)}` did not answer within {timeout_s:g} s; a device or its driver hangs"
        ) from problem
    if tool.returncode != 0:
        raise EnvironmentProblem(f"`{' '.join(command)}` failed (exit code {tool.returncode}): {output.strip()[:500]}")
    return output
