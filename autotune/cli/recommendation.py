"""The recommendation, as a person reads it."""

from rich.console import Console
from rich.markup import escape

from autotune.report.attribution import attribution_table, attribution_text
from autotune.results import JobResult


def print_recommendation(console: Console, result: JobResult) -> None:
    """The recommendation, and before it whose effect its gain is, where that is known."""
    if result.attribution is not None:
        console.print(attribution_table(result.attribution))
        console.print(attribution_text(result.attribution), markup=False, highlight=False)
    console.print(f"[bold]recommendation[/bold]: {escape(result.recommendation.reason)}", highlight=False)
