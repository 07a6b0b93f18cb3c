"""The doctor on the real engine of this machine."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.cli.main import app

pytestmark = pytest.mark.live

DEMO = Path(__file__).parents[2] / "autotune" / "demo" / "job.yaml"


def test_the_real_engine_is_asked_for_its_versions_and_knows_the_demos_model(
    real_vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AUTOTUNE_VLLM", str(real_vllm))
    monkeypatch.setenv("AUTOTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    document = json.loads(CliRunner().invoke(app, ["doctor", str(DEMO), "--json"]).stdout)
    told = {finding["topic"]: finding for finding in document["findings"]}
    assert told["engine"]["status"] == "ok"
    assert "vllm 0.32.0" in told["engine"]["message"]
    assert told["model"]["status"] == "ok"
    assert told["memory"]["status"] == "ok"
