"""`autotune verify` as a user types it: an exported file is launched again, on the simulated engine."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from autotune.engine_config import EngineConfig
from autotune.export import ExportSource, export
from autotune.results import Load, LoadPoint, Trial
from autotune.spec import Devices, Sla
from autotune.tuner.sources import load_workload
from autotune.workload import document_digest

pytestmark = [pytest.mark.ray, pytest.mark.process, pytest.mark.timeout(240)]

HOLDS, WRONG_INPUT, BROKEN, FAILED = 0, 2, 4, 5
MODEL = Path(__file__).parents[2] / "autotune" / "demo" / "tiny-llama"

# Sixteen users at once slow each token down to almost 6 ms; four at a time get one every 4.8 ms, and the others wait.
WORKLOAD = {
    "version": 1,
    "name": "short",
    "dataset": {
        "kind": "synthetic",
        "input_tokens": {"kind": "fixed", "tokens": 16},
        "output_tokens": {"kind": "fixed", "tokens": 24},
    },
    "arrival": {"kind": "closed_loop"},
    "levels": [4, 16],
    "requests_per_level": 32,
}


@pytest.fixture
def write_export(
    make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint], tmp_path: Path
) -> Callable[..., Path]:
    """Writes the export of a trial that was measured with sixteen users, and its workload beside it."""
    (tmp_path / "workload.yaml").write_text(yaml.safe_dump(WORKLOAD, sort_keys=False))
    workload = load_workload("workload.yaml", tmp_path)

    def write(seats: int = 4, format: str = "vllm") -> Path:
        config = EngineConfig(arguments={"max_num_seqs": seats, "max_model_len": 64})
        source = ExportSource(
            job_id="gone-1",
            job_name="gone",
            model=str(MODEL),
            workload="workload.yaml",
            workload_digest=document_digest(workload.model_dump(mode="json")),
            engine="simulated",
            engine_version="vllm-simulated 0.0.1",
            devices=Devices(resource="CPU", max_per_trial=1),
            instrument="autotune",
            confirm_runs=2,
            sla=Sla.model_validate({"p99_ttft_ms": 10000, "p50_tpot_ms": 5.3}),
            trial=make_trial(7, {}).model_copy(update={"config": config}),
            point=make_point(level=1, value=16).model_copy(
                update={"load": Load(kind="max_concurrency", value=16), "tpot": make_point().ttft}
            ),
            exported_at=datetime(2026, 3, 1, tzinfo=UTC),
        )
        file = tmp_path / f"best.{format}"
        file.write_text(export(source, format))
        return file

    return write


@pytest.fixture
def cli(make_cli: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The command line on a home without any job."""
    return make_cli(tmp_path_factory.mktemp("home"))


def test_a_configuration_that_keeps_its_sla_is_verified_without_the_database(
    cli: Any, write_export: Callable[..., Path]
) -> None:
    done = cli("verify", write_export(), timeout_s=200)
    assert done.returncode == HOLDS, done.stdout + done.stderr
    assert "the SLA holds: " in done.stdout
    assert " in 2 runs at 16 concurrent per device" in done.stdout
    for line in ("p99_ttft_ms", "p50_tpot_ms", "error_rate"):
        assert any(line in row and row.rstrip(" │").endswith("holds") for row in done.stdout.splitlines()), done.stdout
    assert "measured with vllm-simulated 0.0.1, launched with vllm-simulated " in " ".join(done.stdout.split())


def test_an_edited_file_that_breaks_its_sla_is_told_with_the_line_that_breaks(
    cli: Any, write_export: Callable[..., Path]
) -> None:
    file = write_export()
    file.write_text(file.read_text().replace("max-num-seqs: 4\n", "max-num-seqs: 256\n"))
    done = cli("verify", file, "--json", "--seed", "5", timeout_s=200)
    assert done.returncode == BROKEN, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert {line["name"]: line["holds"] for line in told["lines"]} == {
        "p99_ttft_ms": True,
        "p50_tpot_ms": False,
        "error_rate": True,
    }
    assert told["seeds"] == [5, 6]
    assert [(run["seed"], run["load"]["value"]) for run in told["runs"]] == [(5, 16.0), (6, 16.0)]
    assert told["notes"][0] == "the file was edited after its export: what is launched is not what was measured"


def test_a_json_export_is_verified_like_the_yaml(cli: Any, write_export: Callable[..., Path]) -> None:
    done = cli("verify", write_export(format="json"), timeout_s=200)
    assert done.returncode == HOLDS, done.stdout + done.stderr


def test_an_engine_that_does_not_start_is_a_failed_launch_with_its_evidence(
    cli: Any, write_export: Callable[..., Path]
) -> None:
    file = write_export()
    file.write_text(file.read_text().replace("max-num-seqs: 4\n", "max-num-seqs: many\n"))
    done = cli("verify", file, timeout_s=200)
    assert done.returncode == FAILED, done.stdout + done.stderr
    assert "many" in done.stdout


def test_a_file_that_does_not_exist_is_wrong_input(cli: Any) -> None:
    done = cli("verify", "best.yaml")
    assert (done.returncode, done.stderr) == (WRONG_INPUT, "error: best.yaml: no such file\n")


def test_a_file_that_is_no_export_is_wrong_input(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: /m\n")
    done = cli("verify", tmp_path / "mine.yaml")
    assert done.returncode == WRONG_INPUT
    assert "has no line `# autotune: …`" in done.stderr
