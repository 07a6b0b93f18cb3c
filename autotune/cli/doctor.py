"""The doctor's report in the terminal, and its exit code."""

import json
from collections import Counter
from dataclasses import asdict
from typing import get_args

from rich.text import Text

from autotune.cli.console import console as open_console
from autotune.cli.outcome import DONE
from autotune.doctor import Asked, Finding, Status, examine, gather, worst
from autotune.errors import EnvironmentProblem

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def report(asked: Asked, *, as_json: bool) -> int:
    """Print every finding with its fix; returns 0 when nothing fails, else 3."""
    findings = examine(gather(asked))
    counts = Counter(finding.status for finding in findings)
    if as_json:
        totals = {status: counts[status] for status in get_args(Status)}
        print(json.dumps({**totals, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        _print(findings, counts)
    return EnvironmentProblem.exit_code if worst(findings) == "fail" else DONE


def _print(findings: list[Finding], counts: Counter[Status]) -> None:
    console = open_console()
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.status:<4}", style=_STYLES[finding.status])
        line.append(f"  {finding.topic:<{width}}  {finding.message}", style="default")
        console.print(line, soft_wrap=True)
        if finding.fix:
            console.print(f"{'':<{width + 8}}to do: {finding.fix}", soft_wrap=True, markup=False, highlight=False)
    told = f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} to mend"
    console.print(told, highlight=False)
