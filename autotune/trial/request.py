"""What a trial is asked to do, and how it is watched and cancelled from another thread."""

import dataclasses
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autotune.engine_config import EngineConfig
from autotune.model_card import ModelCard
from autotune.settings import EngineProfile
from autotune.spec import Sla
from autotune.trial.artifacts import trial_folder
from autotune.trial.reading import Peaks
from autotune.workload import Level, Workload

Stage = Literal["queued", "waiting for devices", "starting the engine", "warming up", "loading", "stopping"]


@dataclass(frozen=True, slots=True)
class Course:
    """What a load ladder is climbed with: the traffic, the promise, and where the records go."""

    name: str  # of whatever is measured, for the log
    workload: Workload
    sla: Sla
    levels: tuple[Level, ...]  # climbed in this order; empty: the ladder finds its own
    seed: int
    devices: int
    model: ModelCard
    artifacts: Path
    peaks: Peaks  # of one device


@dataclass(frozen=True, slots=True)
class TrialRequest:
    """One launch: a configuration, and the load levels to measure it at."""

    job: str
    number: int
    config: EngineConfig
    profile: EngineProfile
    resource: str
    model: ModelCard
    engine_version: str
    workload: Workload
    sla: Sla
    levels: tuple[Level, ...]  # climbed in this order; empty: the ladder finds its own
    search_seed: int  # of the one frozen trace that every search trial gets
    confirm_seeds: tuple[int, ...]  # a confirmation: the one level is measured with each of them
    folder: Path  # the job's artifacts
    attempt: int = 1  # launches of this trial so far, this one included
    failures: int = 0  # earlier launches that failed for what may not be the configuration's fault
    debug: bool = False  # the engine logs all it can
    instrument: Literal["autotune", "vllm-bench", "guidellm"] = "autotune"  # what sends the load
    guidellm: Path | None = None  # where instrument guidellm is installed
    label: str = ""  # tells a launch beside the job's own apart: rerun-1

    @property
    def artifacts(self) -> Path:
        """Where this launch keeps its log and records."""
        return trial_folder(self.folder, self.number, attempt=self.attempt, label=self.label)

    @property
    def course(self) -> Course:
        """What its ladder is climbed with."""
        return Course(
            name=f"trial {self.number}",
            workload=self.workload,
            sla=self.sla,
            levels=self.levels,
            seed=self.search_seed,
            devices=self.config.devices,
            model=self.model,
            artifacts=self.artifacts,
            peaks=Peaks(self.profile.peak_tflops, self.profile.peak_memory_gb_per_s),
        )

    def next_attempt(self) -> "TrialRequest":
        """The same launch once more, after a failure."""
        return dataclasses.replace(self, attempt=self.attempt + 1, failures=self.failures + 1)


@dataclass(frozen=True, slots=True)
class Grant:
    """What the cluster gave: `count` devices, and which (empty where the cluster only counts, as with CPU cores)."""

    devices: tuple[str, ...]
    count: int


class Control:
    """Progress out, cancellation in. Written by the trial's thread, read by the actor's others."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._progress: Mapping[str, Any] = {"stage": "queued"}

    @property
    def progress(self) -> Mapping[str, Any]:
        """The stage, and within it what is known: level, requests done and planned."""
        return self._progress

    def enter(self, stage: Stage, **facts: Any) -> None:
        """Say what the trial does now."""
        self._progress = {"stage": stage, **facts}

    def cancel(self) -> None:
        """Ask for the end, heard in every stage."""
        self._cancelled.set()

    def cancelled(self) -> bool:
        """Whether the end was asked for."""
        return self._cancelled.is_set()
