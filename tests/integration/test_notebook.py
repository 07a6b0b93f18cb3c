"""The notebook runs from an empty kernel to the end against a real database, without a network."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from autotune.engine_config import EngineConfig
from autotune.results import (
    Evidence,
    FailureClass,
    FrontPoint,
    Infeasible,
    Job,
    JobResult,
    JobStatus,
    Latency,
    Load,
    LoadPoint,
    Measured,
    ParetoFront,
    Quantile,
    Recommendation,
    Trial,
    TrialResult,
)
from autotune.store import Store

pytestmark = pytest.mark.process

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "pareto.ipynb"
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

SPEC = {"model": "tiny", "sla": {"p99_ttft_ms": 200.0, "error_rate": 0.01, "confidence": None}}


def latency(p99_ms: float | None) -> Latency:
    quantile = Quantile(percent=99, value_ms=p99_ms, lower_ms=None, upper_ms=None)
    return Latency(count=100, mean_ms=None, quantiles=(quantile,))


def point(level: int, throughput: float, p99_ttft_ms: float | None) -> LoadPoint:
    return LoadPoint(
        level=level,
        load=Load(kind="request_rate", value=level + 1),
        devices=2,
        seed=0,
        duration_s=10.0,
        completed=100,
        failed=0,
        request_throughput=10.0,
        output_throughput=throughput,
        total_token_throughput=throughput * 2,
        request_goodput=9.0,
        ttft=latency(p99_ttft_ms),
        tpot=latency(20.0),
        itl=latency(20.0),
        e2el=latency(900.0),
        client_lag_ms=0.1,
        violations={"p99_ttft_ms": -0.1 if p99_ttft_ms is not None and p99_ttft_ms <= 200 else 0.5},
    )


def trial(number: int, seqs: int) -> Trial:
    return Trial(
        number=number,
        purpose="search" if number else "baseline",
        origin="gp" if number else "baseline",
        knobs={"max_num_seqs": seqs},
        config=EngineConfig(arguments={"max_num_seqs": seqs}, devices=2),
        started_at=NOON,
    )


def measured(*points: LoadPoint) -> TrialResult:
    feasible = [p for p in points if p.feasible]
    return TrialResult(outcome=Measured(points=points, operating_level=feasible[-1].level if feasible else None))


def out_of_memory() -> TrialResult:
    evidence = Evidence(failure=FailureClass.OOM, signature=None, cause="the KV cache has no room", advice="lower it")
    return TrialResult(outcome=Infeasible(evidence=evidence))


def front_point(number: int, level: int, throughput: float, p99_ttft_ms: float) -> FrontPoint:
    return FrontPoint(
        trial=number,
        level=level,
        load=Load(kind="request_rate", value=level + 1),
        output_throughput_per_device=throughput,
        p99_ttft_ms=p99_ttft_ms,
        request_throughput=10.0,
    )


def new_job(store: Store, job_id: str, name: str, minute: int) -> None:
    store.create_job(
        Job(
            id=job_id,
            name=name,
            status=JobStatus.RUNNING,
            spec=SPEC,
            space={},
            workload={},
            model_path="/models/tiny",
            folder="",
            created_at=NOON.replace(minute=minute),
        )
    )


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Two jobs: `finished`, and the newer `begun` whose first trial still runs."""
    url = f"sqlite:///{tmp_path}/autotune.db"
    results = {
        0: measured(point(0, 400, 50.0), point(1, 800, 120.0)),
        1: measured(point(0, 420, 40.0), point(1, 1200, 180.0), point(2, 1500, 900.0), point(3, 1600, None)),
        2: out_of_memory(),
    }
    front = ParetoFront(
        points=(front_point(1, 0, 210.0, 40.0), front_point(0, 1, 400.0, 120.0), front_point(1, 1, 600.0, 180.0))
    )
    chosen = Recommendation(trial=1, level=1, reason="the highest throughput")
    with Store.open(url) as store:
        new_job(store, "aa01", "finished", minute=0)
        lease = store.claim("aa01", "a test", now=NOON)
        for number, result in results.items():
            store.start_trial(lease, trial(number, seqs=64 * (number + 1)))
            store.finish_trial(lease, number, result, NOON)
        ended = JobResult(stopped_by="trials", front=front, recommendation=chosen)
        store.finish_job(lease, JobStatus.SUCCEEDED, ended, finished_at=NOON)
        new_job(store, "bb02", "begun", minute=1)
        store.start_trial(store.claim("bb02", "a test", now=NOON), trial(0, seqs=64))
    return url


@pytest.fixture
def run(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Executes the notebook for a job, then evaluates expressions in its kernel."""
    environment = {
        "AUTOTUNE_DATABASE": database,
        "PLOTLY_RENDERER": "json",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def execute(job: str, *frames: str) -> list[list[dict[str, Any]]]:
        monkeypatch.setenv("AUTOTUNE_JOB", job)
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        asked = [nbformat.v4.new_code_cell(f"print({frame}.to_json(orient='records'))") for frame in frames]
        notebook.cells.extend(asked)
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
        return [json.loads(cell.outputs[0].text) for cell in notebook.cells[-len(asked) :]]

    return execute


def test_the_front_of_a_finished_job_is_compared_with_the_baseline(run: Any) -> None:
    front, trials, points = run("finished", "front", "trials", "points")
    expected = [
        {"trial": 1, "level": 0, "load": "1 req/s", "versus_baseline": 0.525},
        {"trial": 0, "level": 1, "load": "2 req/s", "versus_baseline": 1.0},
        {"trial": 1, "level": 1, "load": "2 req/s", "versus_baseline": 1.5},
    ]
    throughputs = [(210.0, 40.0), (400.0, 120.0), (600.0, 180.0)]
    measures = [{"output_throughput_per_device": y, "p99_ttft_ms": x} for y, x in throughputs]
    assert front == [a | b for a, b in zip(expected, measures, strict=True)]
    assert [row["status"] for row in trials] == ["meets the SLA", "meets the SLA", "infeasible"]
    assert [row["max_num_seqs"] for row in trials] == [64, 128, 192]
    assert trials[2]["failure"] == "the KV cache has no room"
    assert [row["feasible"] for row in points] == [True, True, True, True, False, False]


def test_without_a_name_the_newest_job_is_shown_even_before_its_first_measurement(run: Any) -> None:
    front, trials = run("", "front", "trials")
    assert front == []
    assert [(row["purpose"], row["status"]) for row in trials] == [("baseline", "running")]


def test_no_outputs_are_stored() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)
