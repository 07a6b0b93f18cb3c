"""What an export is made of."""

from datetime import datetime
from typing import Literal

from autotune.records import Record
from autotune.releases import versions_of
from autotune.results import Attribution, Comparison, Confirmation, LoadPoint, ParetoFront, Trial
from autotune.spec import Devices, Sla


class ExportSource(Record):
    """One selected configuration, where it comes from, and what is known about it."""

    job_id: str
    job_name: str
    model: str  # its folder
    workload: str
    workload_digest: str  # of the workload's document and its data
    sla: Sla
    engine: str  # name of the profile
    engine_version: str  # `vllm 0.30.0, vllm-ascend 0.30.0rc2`, as `EngineInfo.version` writes it; empty: not known
    devices: Devices
    instrument: Literal["autotune", "vllm-bench", "guidellm"]  # what sent the load
    confirm_runs: int
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

    @property
    def engine_versions(self) -> dict[str, str]:
        """The engine's version and those of its plugins, by distribution name; empty when they are not known."""
        return versions_of(self.engine_version)
