"""One line of the doctor's report."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do about it. A warning lets jobs run; a failure does not."""

    topic: str
    status: Status
    message: str
    fix: str = ""


def ok(topic: str, message: str) -> Finding:
    """All is well."""
    return Finding(topic, "ok", message)


def warn(topic: str, message: str, fix: str) -> Finding:
    """Jobs run, but slower, or may fail later."""
    return Finding(topic, "warn", message, fix)


def fail(topic: str, message: str, fix: str) -> Finding:
    """Jobs cannot run."""
    return Finding(topic, "fail", message, fix)


def worst(findings: Iterable[Finding]) -> Status:
    """The worst status among them; ok when there is none."""
    statuses = {finding.status for finding in findings}
    return "fail" if "fail" in statuses else "warn" if "warn" in statuses else "ok"
