"""Small real objects that several tests build on."""

import contextlib
import runpy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog

from autotune.engine_config import EngineConfig
from autotune.results import (
    Evidence,
    FailureClass,
    Infeasible,
    Latency,
    Load,
    LoadPoint,
    Measured,
    Quantile,
    Trial,
    TrialResult,
)
from autotune.settings import EngineProfile, Settings
from autotune.tuner.context import JobContext, prepare
from autotune.tuner.sources import load_job

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DATA = Path(__file__).parent / "data"


@pytest.fixture(autouse=True)
def _no_events_of_others() -> Iterator[None]:
    """A command that was run in this process sends its events to a standard error that is closed after its test."""
    yield
    structlog.reset_defaults()


def latency(p99_ms: float | None) -> Latency:
    """A latency whose every percentile is `p99_ms`."""
    quantiles = tuple(Quantile(percent=p, value_ms=p99_ms, lower_ms=p99_ms, upper_ms=p99_ms) for p in PERCENTILES)
    return Latency(count=300, mean_ms=p99_ms, quantiles=quantiles)


@pytest.fixture(scope="session")
def make_point() -> Callable[..., LoadPoint]:
    """A load point with the given P99 TTFT and throughput; the SLA is `limit_ms`."""

    def make(
        p99_ttft_ms: float | None = 100.0,
        output_throughput: float = 500.0,
        *,
        level: int = 0,
        value: float = 4.0,
        limit_ms: float = 200.0,
        failed: int = 0,
    ) -> LoadPoint:
        over = 1.5 if p99_ttft_ms is None else p99_ttft_ms / limit_ms - 1
        return LoadPoint(
            level=level,
            load=Load(kind="max_concurrency", value=value),
            devices=1,
            seed=0,
            duration_s=10.0,
            completed=300 - failed,
            failed=failed,
            request_throughput=output_throughput / 16,
            output_throughput=output_throughput,
            total_token_throughput=3 * output_throughput,
            request_goodput=output_throughput / 16,
            ttft=latency(p99_ttft_ms),
            tpot=latency(10.0),
            itl=latency(12.0),
            e2el=latency(400.0),
            client_lag_ms=0.4,
            violations={"p99_ttft_ms": max(-1.0, min(1.5, over)), "error_rate": -1.0},
        )

    return make


@pytest.fixture(scope="session")
def make_trial() -> Callable[..., Trial]:
    """A trial of the given knobs: measured when points are given, a failed launch for `oom=True`, else running."""

    def make(number: int, knobs: dict[str, Any], *points: LoadPoint, oom: bool = False, **fields: Any) -> Trial:
        outcome: Any = None
        if points:
            feasible = [p for p in points if p.feasible]
            best = max(feasible, key=lambda p: p.output_throughput) if feasible else None
            outcome = Measured(points=points, operating_level=best.level if best else None)
        if oom:
            outcome = Infeasible(
                evidence=Evidence(
                    failure=FailureClass.OOM,
                    signature="npu_oom",
                    cause="Out of device memory.",
                    advice="Lower gpu_memory_utilization.",
                    line="NPU out of memory. Tried to allocate 22.00 MiB",
                )
            )
        defaults = {
            "purpose": "baseline" if number == 0 else "search",
            "origin": "baseline" if number == 0 else "sobol",
            "config": EngineConfig(arguments=knobs),
            "started_at": STARTED,
            "result": TrialResult(outcome=outcome) if outcome else None,
            "finished_at": STARTED if outcome else None,
        }
        return Trial(number=number, knobs=knobs, **(defaults | fields))

    return make


@pytest.fixture(scope="session")
def fake_vllm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable of the fault engine, which goes well unless the environment says otherwise."""
    return runpy.run_path(str(DATA / "fault_vllm.py"))["install"](tmp_path_factory.mktemp("engine"))


@pytest.fixture(scope="session")
def install_npu_smi() -> Callable[[Path, str], None]:
    """Writes an `npu-smi` into a folder that prints a recorded table of a machine with eight A2 NPUs."""

    def install(folder: Path, info: str) -> None:
        tables = DATA / "npu_smi"
        script = folder / "npu-smi"
        script.write_text(
            f'#!/bin/sh\ncase "$*" in "info -m") cat {tables}/m_a2.txt ;; *) cat {tables}/{info}.txt ;; esac\n'
        )
        script.chmod(0o755)

    return install


@pytest.fixture(scope="session")
def make_context(fake_vllm: Path) -> Callable[..., JobContext]:
    """The job of seconds in `data/job`, prepared on the scripted engine; every launch leaves a `launch.json`."""

    def make(
        home: Path,
        *overrides: str,
        platform: str = "cpu",
        executable: Path = fake_vllm,
        environment: dict[str, str] | None = None,
    ) -> JobContext:
        profile = EngineProfile.model_validate(
            {
                "executable": executable,
                "platform": platform,
                "environment": {"FAKE_VLLM_RECORD": "launch.json", **(environment or {})},  # in the launch's own folder
                "start_timeout_s": 60,
                "device_rest_s": 0,  # nothing was on these devices
            }
        )
        settings = Settings(home=home, profiles={"fake": profile})
        return prepare(load_job(DATA / "job" / "job.yaml", overrides), settings)

    return make


@pytest.fixture(scope="session")
def working_below() -> Callable[[Path], list[int]]:
    """Tells the processes whose working folder is below a folder: an engine works in its trial's."""

    def look(folder: Path) -> list[int]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(folder):
                    found.append(process.pid)
        return found

    return look
