"""The real vLLM of this machine, with the shipped tiny model."""

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.settings import EngineProfile, Settings
from autotune.tuner.context import JobContext, prepare
from autotune.tuner.sources import load_job

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def real_vllm() -> Path:
    """The `vllm` that AUTOTUNE_VLLM names, or the one that `make engine` installs."""
    named = os.environ.get("AUTOTUNE_VLLM")
    executable = Path(named) if named else ROOT / ".venv-engine" / "bin" / "vllm"
    if not os.access(executable, os.X_OK):
        told = f"no real vLLM at {executable}: run `make engine`, or set AUTOTUNE_VLLM"
        if os.environ.get("AUTOTUNE_REQUIRE_ENGINE"):  # `make test` has just installed one
            pytest.fail(told)
        pytest.skip(told)
    return executable


@pytest.fixture(scope="session")
def context(real_vllm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobContext]:
    """The demo job with a small workload, prepared on the real engine."""
    profile = EngineProfile(executable=real_vllm, platform="cpu", start_timeout_s=240)
    settings = Settings(home=tmp_path_factory.mktemp("home"), profiles={"vllm": profile})
    sources = load_job(ROOT / "autotune" / "demo" / "job.yaml")
    small = {"levels": (8.0, 24.0), "requests_per_level": 48, "warmup_requests": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))  # where device locks lie
        prepared = prepare(sources, settings)
        yield dataclasses.replace(prepared, workload=prepared.workload.model_copy(update=small))
