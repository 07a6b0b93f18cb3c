"""The progress bar of a running job, and a line for every trial that ends."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from autotune.report.course import stage_text
from autotune.report.rows import changed_knobs, knob_text, milliseconds, re_runs
from autotune.results import Evidence, LoadPoint, Measured, Trial
from autotune.tuner.events import Event, Observer


@contextmanager
def progress_bar(console: Console) -> Iterator[Observer]:
    """A bar over the launches of a phase, with what each running trial does now; ended trials scroll above it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting Ray", total=None)
        baseline: dict[str, Any] = {}

        def observe(event: Event) -> None:
            if event.phase == "stopping":
                console.print("stopping the engines; Ctrl-C (again) leaves without waiting for them")
            if event.finished is not None:
                console.print(trial_line(event.finished, baseline), highlight=False)
                if event.finished.purpose == "baseline":
                    baseline.update(event.finished.knobs)
            doing = "; ".join(f"trial {number}: {stage_text(facts)}" for number, facts in sorted(event.running.items()))
            progress.update(task, description=doing or event.phase, completed=event.done, total=event.planned)

        yield observe


def trial_line(trial: Trial, baseline: Mapping[str, Any]) -> str:
    """One line about a trial that ended: what it was, what came of it, and which knobs are not the baseline's."""
    origin = trial.origin if trial.confirms is None else f"re-run of {trial.confirms}"
    head = f"trial {trial.number:>2} {escape(origin):<18}"
    knobs = escape(knob_text(changed_knobs(trial.knobs, baseline))) if baseline else ""
    outcome = trial.result.outcome if trial.result else None
    if isinstance(outcome, Measured):
        told = _re_runs(outcome.points) if trial.confirms is not None else _operating_point(outcome)
    else:
        told = f"[red]{escape(_failure(outcome.evidence))}[/red]" if outcome else ""
    return f"{head} {told}  {knobs}".rstrip()


def _operating_point(outcome: Measured) -> str:
    point = outcome.closest_point
    verdict = "[green]meets the SLA[/green]" if outcome.operating_point else "[yellow]misses the SLA[/yellow]"
    if point.aborted:
        return f"ended early, P99 TTFT {milliseconds(point.p99_ttft_ms)} at {point.load}: {verdict}"
    return f"{_numbers(point.output_throughput_per_device, point.p99_ttft_ms)} at {point.load}: {verdict}"


def _re_runs(points: Sequence[LoadPoint]) -> str:
    runs = re_runs(points)
    numbers = _numbers(runs.output_throughput_per_device, runs.p99_ttft_ms, "up to ")
    return f"{numbers} at {points[0].load}: {runs.verdict}"


def _numbers(throughput: float, p99_ttft_ms: float | None, most: str = "") -> str:
    return f"{throughput:6,.0f} tok/s, P99 TTFT {most}{milliseconds(p99_ttft_ms)}"


def _failure(evidence: Evidence) -> str:
    return f"{evidence.failure.value}: {evidence.cause}"
