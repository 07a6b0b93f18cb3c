"""The progress bar of a running job, and a line for every trial that ends."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from autotune.report.rows import knob_text, milliseconds
from autotune.results import Evidence, Measured, Trial
from autotune.tuner import Event, Observer


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

        def observe(event: Event) -> None:
            if event.finished is not None:
                console.print(trial_line(event.finished), highlight=False)
            doing = "; ".join(f"trial {number}: {_stage(facts)}" for number, facts in sorted(event.running.items()))
            progress.update(task, description=doing or event.phase, completed=event.done, total=event.planned)

        yield observe


def trial_line(trial: Trial) -> str:
    """One line about a trial that ended: what it was, and what came of it."""
    knobs = escape(knob_text(trial.knobs))
    origin = trial.origin if trial.confirms is None else f"re-run of {trial.confirms}"
    head = f"trial {trial.number:>2} {escape(origin):<18}"
    outcome = trial.result.outcome if trial.result else None
    if isinstance(outcome, Measured):
        point = outcome.closest_point
        verdict = "[green]meets the SLA[/green]" if outcome.operating_point else "[yellow]misses the SLA[/yellow]"
        measured = f"{point.output_throughput_per_device:8,.0f} tok/s, P99 TTFT {milliseconds(point.p99_ttft_ms)}"
        return f"{head} {measured} at {point.load}: {verdict}  {knobs}"
    return f"{head} [red]{escape(_failure(outcome.evidence))}[/red]  {knobs}" if outcome else head


def _failure(evidence: Evidence) -> str:
    return f"{evidence.failure.value}: {evidence.cause}"


def _stage(facts: Mapping[str, Any]) -> str:
    if "planned" in facts:
        return f"{facts['stage']} {facts['level']} ({facts['done']}/{facts['planned']})"
    return str(facts["stage"])
