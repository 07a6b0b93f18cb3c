"""The what-if notebook runs from an empty kernel to the end, without a device and without a network."""

import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.process

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "what-if.ipynb"

SMALL = {
    "AUTOTUNE_WHAT_IF_REQUESTS": "60",
    "AUTOTUNE_WHAT_IF_THIN": "4",  # 3 widths x 3 numbers of sequences x 2 token budgets
    "AUTOTUNE_WHAT_IF_TRIALS": "6",
    "AUTOTUNE_WHAT_IF_SEEDS": "2",
    "AUTOTUNE_WHAT_IF_SAMPLERS": "random tpe",  # gp fits its model for seconds per trial on a busy machine
    "PLOTLY_RENDERER": "json",
}

Rows = list[dict[str, Any]]


def execute(folder: Path, last_cell: str, expressions: dict[str, str], settings: dict[str, str]) -> dict[str, Any]:
    """Run the notebook up to a cell with these settings; what the expressions, which give JSON, are then."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    end = next(place for place, cell in enumerate(notebook.cells, start=1) if cell.id == last_cell)
    asked = [nbformat.v4.new_code_cell(f"print({expression})") for expression in expressions.values()]
    notebook.cells = [*notebook.cells[:end], *asked]
    runtime = {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SMALL, **runtime, **settings}.items():
            patch.setenv(name, value)
        NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    answers = [json.loads(cell.outputs[0].text) for cell in notebook.cells[end:]]
    return dict(zip(expressions, answers, strict=True))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """The tables of one small run; the notebook is executed once for all tests."""
    names = ("curves", "grid", "points", "front", "searches")
    expressions = {name: f"{name}.to_json(orient='records')" for name in names}
    return execute(tmp_path_factory.mktemp("what-if"), "samplers", expressions, {})


def at_overload(curves: Rows, knob: str, measure: str) -> list[float]:
    """A measure at the highest load, by rising value of the knob."""
    highest = max(row["load"] for row in curves)
    rows = [row for row in curves if row["knob"] == knob and row["load"] == highest]
    return [row[measure] for row in sorted(rows, key=lambda row: row["set_to"])]


def test_more_sequences_never_lower_the_throughput_at_overload(frames: dict[str, Rows]) -> None:
    throughput = at_overload(frames["curves"], "max_num_seqs", "throughput")
    assert len(throughput) == 4
    assert throughput == sorted(throughput)
    assert throughput[-1] > 2 * throughput[0]


def test_the_fewer_sequences_the_longer_the_wait_at_overload(frames: dict[str, Rows]) -> None:
    eight, thirty_two, many, _ = at_overload(frames["curves"], "max_num_seqs", "p99_ttft_ms")
    assert eight > thirty_two > many


def test_devices_that_share_a_layer_give_less_throughput_each(frames: dict[str, Rows]) -> None:
    alone, two, four = at_overload(frames["curves"], "tensor_parallel_size", "throughput")
    assert alone > two > four


def test_the_grid_holds_every_combination_and_says_which_are_refused(frames: dict[str, Rows]) -> None:
    refused = {(row["max_num_seqs"], row["max_num_batched_tokens"]) for row in frames["grid"] if row["refused"]}
    assert len(frames["grid"]) == 18
    assert refused == {(512, 256)}


def test_what_lies_inside_the_border_has_a_throughput_under_the_sla(frames: dict[str, Rows]) -> None:
    inside = [row for row in frames["grid"] if row["violation"] <= 0]
    outside = [row for row in frames["grid"] if row["throughput"] is None]
    assert inside
    assert outside
    assert all(row["throughput"] > 0 for row in inside)
    assert all(row["violation"] > 0 for row in outside)


def test_no_feasible_point_dominates_one_of_the_front(frames: dict[str, Rows]) -> None:
    feasible = [(row["throughput"], row["p99_ttft_ms"]) for row in frames["points"] if row["feasible"]]
    front = [(row["throughput"], row["p99_ttft_ms"]) for row in frames["front"]]
    assert front
    for throughput, p99_ttft_ms in front:
        assert (throughput, p99_ttft_ms) in feasible
        assert p99_ttft_ms <= 500.0
        better = [(t, p) for t, p in feasible if t >= throughput and p <= p99_ttft_ms]
        assert set(better) == {(throughput, p99_ttft_ms)}


def test_a_search_tries_nothing_twice_and_never_forgets_its_best(frames: dict[str, Rows]) -> None:
    knobs = ("tensor_parallel_size", "max_num_seqs", "max_num_batched_tokens")
    known = {tuple(row[knob] for knob in knobs): row["throughput"] or 0.0 for row in frames["grid"]}
    assert {(row["sampler"], row["seed"]) for row in frames["searches"]} == {
        ("random", 0), ("random", 1), ("tpe", 0), ("tpe", 1),
    }  # fmt: skip
    for sampler, seed in {(row["sampler"], row["seed"]) for row in frames["searches"]}:
        rows = [row for row in frames["searches"] if (row["sampler"], row["seed"]) == (sampler, seed)]
        tried = [tuple(row[knob] for knob in knobs) for row in rows]
        assert len(set(tried)) == 6
        assert [row["throughput"] for row in rows] == [known[point] for point in tried]
        assert [row["best"] for row in rows] == [max(known[p] for p in tried[:count]) for count in range(1, 7)]


def test_another_engine_and_model_are_chosen_by_name(tmp_path: Path, frames: dict[str, Rows]) -> None:
    chosen = {"AUTOTUNE_WHAT_IF_ENGINE": "simulated-h100", "AUTOTUNE_WHAT_IF_MODEL": "tiny-llama"}
    told = execute(tmp_path, "trial", {"model": "json.dumps(model.path.name)", "capacity": "capacity"}, chosen)
    heaviest = max(row["load"] for row in frames["curves"])  # of the 7B model on an Ascend 910B
    assert told["model"] == "tiny-llama"
    assert told["capacity"] > heaviest


def test_no_outputs_are_stored() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)
