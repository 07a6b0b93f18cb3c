"""How a job stands, as a terminal shows it while it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotune.report.rows import measured, milliseconds
from autotune.report.tables import trials_table
from autotune.results import ENDED, JobStatus, LoadPoint, Trial
from autotune.submission import SubmittedJob

BAR_WIDTH = 32

_BUDGET_LINES = {"trials": "trials at the mean pace", "wall_clock_s": "wall clock", "device_hours": "device-hours"}
_COLOURS = {JobStatus.SUCCEEDED: "green", JobStatus.FAILED: "red", JobStatus.CANCELLED: "yellow"}


@dataclass(frozen=True, slots=True)
class Course:
    """What is known of a job at one moment."""

    submitted: SubmittedJob
    trials: Sequence[Trial]
    budget_trials: int
    sla: str
    front_size: int
    time_left_s: Mapping[str, float] = field(default_factory=dict)  # by line of the budget; estimates
    note: str = ""  # what it waits for

    @property
    def phase(self) -> str:
        """What it does, in a word or two."""
        job, progress = self.submitted.job, self.submitted.progress
        if job.status is JobStatus.RUNNING:
            return "asked to stop" if self.submitted.cancel_requested else progress.phase or "preparing"
        return ""

    @property
    def counted(self) -> tuple[int, int]:
        """Launches done and planned: of the search with its baseline, or of the confirmation while that runs."""
        progress = self.submitted.progress
        if progress.planned and not progress.phase.startswith("baseline"):
            return min(progress.done, progress.planned), progress.planned
        ended = sum(trial.is_searched and trial.result is not None and not trial.was_cancelled for trial in self.trials)
        return ended, max(ended, self.budget_trials + 1)


def course_view(course: Course, *, rows: int) -> RenderableType:
    """The job in a few lines, and its last trials, at most `rows` of them, as a table."""
    stages = {number: stage_text(facts) for number, facts in course.submitted.progress.running.items()}
    parts: list[RenderableType] = [_facts(course)]
    if course.trials:
        parts.append(trials_table(course.trials, last=rows, stages=stages))
    return Group(*parts)


def best_point(trials: Sequence[Trial]) -> tuple[Trial, LoadPoint] | None:
    """The fastest operating point of the baseline and the search so far, with its trial."""
    found = [
        (trial, outcome.operating_point)
        for trial in trials
        if trial.is_searched and (outcome := measured(trial)) is not None and outcome.operating_point is not None
    ]
    return max(found, key=lambda pair: pair[1].output_throughput_per_device, default=None)


def best_text(trials: Sequence[Trial]) -> str:
    """The best configuration that meets the SLA so far, with its figures; empty when there is none."""
    best = best_point(trials)
    if best is None:
        return ""
    trial, point = best
    return (
        f"{point.output_throughput_per_device:,.0f} tok/s per device, P99 TTFT {milliseconds(point.p99_ttft_ms)} "
        f"at {point.load} (trial {trial.number}, {trial.origin})"
    )


def stage_text(facts: Mapping[str, Any]) -> str:
    """What a running trial does: `loading 24 concurrent (120/500)`."""
    stage = str(facts.get("stage", "running"))
    level = f" {facts['level']}" if "level" in facts else ""
    done = f" ({facts.get('done', 0)}/{facts['planned']})" if "planned" in facts else ""
    return f"{stage}{level}{done}"


def time_left_text(time_left_s: Mapping[str, float]) -> str:
    """The line of the budget that ends the search first, if the pace stays as it is."""
    if not time_left_s:
        return ""
    line, seconds = min(time_left_s.items(), key=lambda pair: pair[1])
    return f"about {duration_text(seconds)} (estimate: {_BUDGET_LINES.get(line, line)})"


def duration_text(seconds: float) -> str:
    """`45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _facts(course: Course) -> Table:
    job = course.submitted.job
    done, planned = course.counted
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=planned, completed=done, width=BAR_WIDTH), f"{done}/{planned} trials")
    status = Text(str(job.status), style=_COLOURS.get(job.status, "cyan"))
    if course.phase:
        status.append(f", {course.phase}", style="default")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("job", Text(f"{job.id}  {job.spec.get('model', '')} on {job.spec.get('engine', '')}"))
    grid.add_row("status", status)
    grid.add_row("SLA", Text(course.sla))
    grid.add_row("progress", bar)
    nothing = "nothing meets the SLA" if job.status in ENDED else "nothing has met the SLA yet"
    grid.add_row("best", Text(best_text(course.trials) or nothing))
    grid.add_row("front", Text(f"{course.front_size} points"))
    left = time_left_text(course.time_left_s)
    worker = (course.submitted.owner or "").partition(" (")[0]  # without what tells processes of one number apart
    for name, text in (("time left", left), ("worker", worker), ("note", course.note)):
        if text:
            grid.add_row(name, Text(text))
    return grid
