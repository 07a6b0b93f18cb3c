"""What an export is made of."""

from datetime import datetime

from autotune.records import Record
from autotune.results import Attribution, Comparison, Confirmation, LoadPoint, ParetoFront, Trial
from autotune.spec import Sla


class ExportSource(Record):
    """One selected configuration, where it comes from, and what is known about it."""

    job_id: str
    job_name: str
    model: str
    workload: str
    sla: Sla
    engine_version: str
    trial: Trial  # the selected one
    point: LoadPoint  # its selected load level
    baseline: LoadPoint | None = None  # the baseline's operating point; None: no level meets the SLA
    baseline_confirmation: Confirmation | None = None  # re-runs of the baseline
    confirmation: Confirmation | None = None  # re-runs of this trial
    comparison: Comparison | None = None  # of the re-runs, where this is the recommended trial
    attribution: Attribution | None = None  # whose effect the gain is, of the trial that is recommended
    front: ParetoFront = ParetoFront()  # for the table
    trials: tuple[Trial, ...] = ()  # the knobs of the front's trials
    exported_at: datetime
    price_per_device_hour: float | None = None  # None: the settings have none
