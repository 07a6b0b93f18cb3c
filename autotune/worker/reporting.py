"""What a worker says of its job while it runs."""

import threading
import time
from collections.abc import Callable

from autotune.errors import StoreError
from autotune.store import Lease, SharedStore
from autotune.submission import JobProgress
from autotune.telemetry import get_logger
from autotune.tuner.events import Event, Observer
from autotune.tuner.job import HandOver
from autotune.tuner.owner import utc_now

log = get_logger()

REPORT_S = 1.0  # between two reports, at least


def reporter(
    store: SharedStore, lease: Lease, stop: threading.Event, clock: Callable[[], float] = time.monotonic
) -> Observer:
    """An observer that keeps the job's progress in the database, and asks for the hand-over once `stop` is set."""
    last_s = -REPORT_S

    def observe(event: Event) -> None:
        nonlocal last_s
        if stop.is_set() and event.phase != "stopping":
            raise HandOver
        if event.finished is None and clock() - last_s < REPORT_S:
            return
        last_s = clock()
        try:
            store.report(lease, _progress(event))
        except StoreError as exc:  # the loop's own writes tell whether the job is still ours
            log.warning("progress_unsaid", job=lease.job_id, problem=str(exc))

    return observe


def _progress(event: Event) -> JobProgress:
    return JobProgress(
        phase=event.phase, done=event.done, planned=event.planned, running=dict(event.running), at=utc_now()
    )
