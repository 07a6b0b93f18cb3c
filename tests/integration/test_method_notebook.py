"""The method notebook runs from an empty kernel to the end on the study that is shipped with it."""

import gzip
import json
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from autotune.results import Job, Trial

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "method.ipynb"
STUDY = ROOT / "notebooks" / "method-study.json.gz"
MOST_BYTES = 300_000

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def job() -> Job:
    with gzip.open(STUDY, "rt") as file:
        return Job.model_validate(json.load(file)["job"])


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tables of the notebook; it is executed once for all tests."""
    folder = tmp_path_factory.mktemp("method")
    frames = ("baseline", "searched", "front", "points", "bottlenecks", "trade", "confirmed", "steps", "failures")
    asked = {name: f"{name}.to_json(orient='records')" for name in frames}
    asked |= {"exported": "json.dumps(exported)", "cause": "json.dumps([reading.signature, reading.line_number])"}
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    end = len(notebook.cells)
    notebook.cells.extend(nbformat.v4.new_code_cell(f"print({expression})") for expression in asked.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTUNE_METHOD_STUDY", str(STUDY))
        patch.setenv("PLOTLY_RENDERER", "json")
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    answers = [json.loads(cell.outputs[0].text) for cell in notebook.cells[end:]]
    return dict(zip(asked, answers, strict=True))


def test_the_baseline_climbs_until_it_breaks_the_sla(told: dict[str, Any]) -> None:
    assert {row["trial"] for row in told["baseline"]} == {0}
    assert [row["meets_sla"] for row in told["baseline"]] == [True] * (len(told["baseline"]) - 1) + [False]


def test_every_trial_of_the_search_is_shown(told: dict[str, Any], job: Job) -> None:
    origins = [row["origin"] for row in told["searched"]]
    assert len(origins) == 1 + job.spec["budget"]["trials"]
    assert origins[:2] == ["baseline", "recipe:recipe"]
    assert "gp" in origins


def test_along_the_front_more_throughput_costs_more_latency(told: dict[str, Any]) -> None:
    searched = [row for row in told["points"] if row["purpose"] in ("baseline", "search") and row["meets_sla"]]
    figures = {(row["trial"], row["level"]): (row["throughput"], row["p99_ttft_ms"]) for row in searched}
    front = [(row["throughput"], row["p99_ttft_ms"]) for row in told["front"]]
    assert len(front) > 1
    assert front == [figures[row["trial"], row["level"]] for row in told["front"]]
    assert front == sorted(front)
    assert [wait for _, wait in front] == sorted({wait for _, wait in front})


def test_each_trial_that_broke_the_sla_names_its_bottleneck(told: dict[str, Any]) -> None:
    assert told["bottlenecks"]
    assert all(row["bottleneck"] and row["advice"] for row in told["bottlenecks"])


def test_a_stricter_sla_never_allows_more_throughput(told: dict[str, Any]) -> None:
    rows = [[share or 0.0 for share in row.values()] for row in told["trade"]]
    assert rows[-1][-1] == 1.0
    assert rows[0][0] < 1.0
    assert all(row == sorted(row) for row in rows)
    assert all(list(column) == sorted(column) for column in zip(*rows, strict=True))


def test_what_is_recommended_held_the_sla_when_it_was_measured_again(told: dict[str, Any], job: Job) -> None:
    holding = [row["trial"] for row in told["confirmed"] if row["holds the SLA"]]
    attribution = job.result.attribution if job.result else None
    assert job.result is not None
    assert {job.result.recommendation.trial, attribution.winner if attribution else None} & set(holding)
    assert all(row["runs"] == job.spec["budget"]["confirm_runs"] for row in told["confirmed"])


def test_the_gains_of_the_steps_add_up_to_the_whole_gain(told: dict[str, Any], job: Job) -> None:
    assert job.result is not None
    assert job.result.attribution is not None
    total = sum(row["gain"] for row in told["steps"])
    assert total == pytest.approx(job.result.attribution.total_tok_s.value)


def test_the_export_is_a_file_for_the_engine_with_its_evidence(told: dict[str, Any], job: Job) -> None:
    assert job.result is not None
    recommended = told["exported"]["recommended"]
    assert yaml.safe_load(recommended)["model"] == "/models/dense-7b"
    assert f"trial {job.result.recommendation.trial}, level {job.result.recommendation.level}" in recommended
    assert "SLA:" in recommended


def test_launches_that_could_not_run_are_listed_with_cause_and_advice(told: dict[str, Any]) -> None:
    rows = json.loads(gzip.decompress(STUDY.read_bytes()))["trials"]
    failed = [row["number"] for row in rows if row["result"]["outcome"]["kind"] == "infeasible"]
    assert [row["trial"] for row in told["failures"]] == failed
    assert all(row["cause"] and row["advice"] for row in told["failures"])


def test_the_study_shows_what_the_text_says_of_it(told: dict[str, Any]) -> None:
    rows = {row["origin"]: row["throughput"] for row in told["searched"]}
    assert rows["recipe:recipe"] < rows["baseline"]
    assert rows["recipe:guide"] < rows["baseline"]
    assert [(row["knobs"], row["verdict"]) for row in told["steps"] if row["verdict"] != "inert"] == [
        ("max_num_seqs: 256 → 512", "gain")
    ]
    assert told["failures"] == []


def test_the_log_of_the_last_cell_is_read_as_streams_that_ran_out(told: dict[str, Any]) -> None:
    assert told["cause"] == ["acl_207005_sqcq", 2]


def test_the_study_is_small_and_names_no_folder_of_the_machine_that_recorded_it() -> None:
    assert STUDY.stat().st_size < MOST_BYTES
    document = json.loads(gzip.decompress(STUDY.read_bytes()))
    assert document["job"]["model_path"] == "/models/dense-7b"
    assert "/tmp" not in json.dumps(document)


def test_the_recorder_still_makes_such_a_study(tmp_path: Path) -> None:
    recorder = runpy.run_path(str(ROOT / "benchmarks" / "record_study.py"))
    recorder["JOB"].update({"budget": {"trials": 1, "confirm_top": 0}, "attribution": False})
    recorder["WORKLOAD"].update({"levels": [2], "requests_per_level": 40})
    document = json.loads(recorder["record"](tmp_path))
    assert Job.model_validate(document["job"]).status == "succeeded"
    assert [Trial.model_validate(row).origin for row in document["trials"]] == ["baseline", "recipe:recipe"]


def test_no_outputs_are_stored() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)
