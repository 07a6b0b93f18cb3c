"""What a worker does with a job that it cannot even read."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.access import TenantLimits
from autotune.results import JobStatus
from autotune.settings import Settings
from autotune.store import SharedStore
from autotune.submission import Submission
from autotune.tuner.owner import utc_now
from autotune.worker import worker


def test_a_job_that_no_worker_can_read_fails_and_does_not_come_back(
    tmp_path: Path, make_context: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    """Such as one of another version: with a field that this one does not know."""
    monkeypatch.setattr(worker, "TROUBLE_PAUSE_S", 0.0)
    settings = Settings(home=tmp_path)
    job = make_context(tmp_path).job
    with SharedStore.open(settings.database) as store:
        submission = Submission(tenant="local", submitted_by="ann", queued_at=utc_now())
        store.submit(job, submission, TenantLimits())
        with sqlite3.connect(store._engine.url.database or "") as connection:
            connection.execute("UPDATE autotune_jobs SET spec = json_set(spec, '$.of_tomorrow', 1)")
        ends = threading.Timer(20.0, (stop := threading.Event()).set)
        ends.start()
        worker.Worker(store, settings, stop).run(once=True)
        ends.cancel()
        kept = store.job(job.id)
    assert not stop.is_set()
    assert (kept.status, kept.result) == (JobStatus.FAILED, None)
    assert "of_tomorrow" in kept.message
