"""The job list for the terminal."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from autotune.results import ENDED
from autotune.submission import JobSummary


def jobs_table(jobs: Sequence[JobSummary]) -> Table:
    """A line per job: where it stands, how far it is, and the best throughput that meets the SLA so far."""
    several = len({job.tenant for job in jobs}) > 1
    table = Table(header_style="bold")
    for header in ("job", *(["tenant"] if several else []), "status", "created (UTC)"):
        table.add_column(header)
    for header in ("trials", "front", "best tok/s per device"):
        table.add_column(header, justify="right")
    table.add_column("SLA", overflow="fold")
    for job in jobs:
        best = job.best_output_throughput_per_device
        table.add_row(
            job.id,
            *([job.tenant] if several else []),
            str(job.status),
            f"{job.created_at:%Y-%m-%d %H:%M}",
            f"{job.trials}/{job.budget_trials + 1}",
            str(job.front_size) if job.status in ENDED else "–",  # it is stored with the result
            "–" if best is None else f"{best:,.1f}",
            Text(job.sla),
        )
    return table
