"""One job's loop: ask, run, save, tell, until the budget is spent; then confirm, select and persist."""

from autotune.tuner.context import JobContext, Sources, load_job, prepare
from autotune.tuner.events import Event, Observer
from autotune.tuner.job import run_job
from autotune.tuner.loop import JobCancelled, Seats, proposer_plan

__all__ = [
    "Event",
    "JobCancelled",
    "JobContext",
    "Observer",
    "Seats",
    "Sources",
    "load_job",
    "prepare",
    "proposer_plan",
    "run_job",
]
