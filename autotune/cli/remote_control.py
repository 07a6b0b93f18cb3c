"""Cancel and resume on a server."""

import time

from autotune.cli.console import console as open_console
from autotune.cli.place import connected
from autotune.errors import EnvironmentProblem
from autotune.results import ENDED, JobStatus

POLL_S = 1.0
PATIENCE_S = 180.0  # for a worker to end its engines


def cancel_on(server: str, key: str) -> None:
    """Ask for a job's end and wait for it."""
    console = open_console()
    with connected(server) as there:
        job = there.find(key).job
        there.cancel(job.id)
        deadline = time.monotonic() + PATIENCE_S
        while (job := there.job(job.id).job).status not in ENDED:
            if time.monotonic() > deadline:
                raise EnvironmentProblem(
                    f"{job.id} has not stopped yet; its worker was asked to. Look again: "
                    f"autotune status {job.id}{there.options}"
                )
            time.sleep(POLL_S)
        onward = "" if job.status is JobStatus.SUCCEEDED else f"; to go on: autotune resume {job.id}{there.options}"
        console.print(f"{job.id} is {job.status}{onward}", highlight=False, soft_wrap=True)


def resume_on(server: str, key: str) -> None:
    """Put a failed or cancelled job into the server's queue again."""
    with connected(server) as there:
        job = there.find(key).job
        there.resume(job.id)
        open_console().print(
            f"{job.id} is in the queue again; watch it with: autotune watch {job.id}{there.options}",
            highlight=False,
            soft_wrap=True,
        )
