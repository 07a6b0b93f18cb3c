"""What every command that launches engines sets up: the fleet, the study, and what a signal does."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from autotune.fleet import Fleet
from autotune.results import Job
from autotune.search_space import SearchSpace
from autotune.settings import Settings
from autotune.spec import JobSpec
from autotune.store import url_for_optuna
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy, open_storage
from autotune.tuner.context import JobContext

SIMULATED_DEVICES = 4  # of a local Ray with a simulated engine: enough for tensor parallelism, few for a laptop


@contextmanager
def open_fleet(context: JobContext, settings: Settings) -> Iterator[Fleet]:
    """The devices of the configured cluster, or of a local Ray. SIGTERM ends the command as Ctrl-C does."""
    local_devices = SIMULATED_DEVICES if context.profile.platform == "simulated" else None
    with Fleet(context.spec.devices, address=settings.ray_address, local_devices=local_devices) as fleet:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has set its own, which aborts half-way
        yield fleet


def open_study(job: Job, settings: Settings) -> PersistedStudy:
    """The study that people watch of a job."""
    space, spec = SearchSpace.model_validate(job.space), JobSpec.model_validate(job.spec)
    return PersistedStudy(open_storage(url_for_optuna(settings.database)), job.id, spec.sla, Grid.of(space))
