"""What everybody who launches engines sets up: the fleet, the study, and what a signal does."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from autotune.fleet import Fleet
from autotune.results import Job, JobStatus
from autotune.search_space import SearchSpace
from autotune.settings import EngineProfile, Settings
from autotune.spec import Devices, JobSpec
from autotune.store import Lease, Store, url_for_optuna
from autotune.study import note
from autotune.study.artifacts import Shelf
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy, open_storage
from autotune.tuner.context import JobContext
from autotune.tuner.events import Observer
from autotune.tuner.job import run_job
from autotune.tuner.ledger import Books

SIMULATED_DEVICES = 4  # of a local Ray with a simulated engine: enough for tensor parallelism, few for a laptop


@contextmanager
def open_fleet(
    context: JobContext, settings: Settings, on_sigterm: Callable[..., object] = signal.default_int_handler
) -> Iterator[Fleet]:
    """The devices that a job's trials run on; see `open_devices`."""
    with open_devices(context.spec.devices, context.profile, settings, on_sigterm) as fleet:
        yield fleet


@contextmanager
def open_devices(
    devices: Devices,
    profile: EngineProfile,
    settings: Settings,
    on_sigterm: Callable[..., object] = signal.default_int_handler,
) -> Iterator[Fleet]:
    """The devices of the configured cluster, or of a local Ray. SIGTERM ends a command as Ctrl-C does."""
    local_devices = SIMULATED_DEVICES if profile.platform == "simulated" else None
    heard_before = signal.getsignal(signal.SIGTERM)
    try:
        with Fleet(devices, address=settings.ray_address, local_devices=local_devices) as fleet:
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has set its own, which aborts half-way
            yield fleet
    finally:
        signal.signal(signal.SIGTERM, heard_before)  # leaving Ray resets it to the system's default, unseen by Python


def open_study(job: Job, settings: Settings) -> PersistedStudy:
    """The study that people watch of a job."""
    space, spec = SearchSpace.model_validate(job.space), JobSpec.model_validate(job.spec)
    shelf = Shelf(settings.artifacts, Path(job.folder), job.id, spec.sla)
    return PersistedStudy(open_storage(url_for_optuna(settings.database)), job.id, spec.sla, Grid.of(space), shelf)


def tune(context: JobContext, settings: Settings, store: Store, lease: Lease, fleet: Fleet, observe: Observer) -> Job:
    """Run a leased job to its end, with its study described; raises what `run_job` raises."""
    if context.job.status is JobStatus.QUEUED:
        store.set_space(lease, context.job.space)  # what does nothing on the engine of this machine is left out
    study, version = open_study(context.job, settings), context.engine.version
    text = note.text(context.spec, context.workload, context.space, job=context.job.id, engine_version=version)
    study.describe(note.attributes(context.spec, version), text)
    return run_job(context, Books(store, lease, study), fleet, observe)
