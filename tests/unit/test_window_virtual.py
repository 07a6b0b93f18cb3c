"""Levels in virtual time: the figures of a window, and the reading of engines that are made to be held back."""

from pathlib import Path
from typing import Any

import pytest

from autotune.engines.simulated import options
from autotune.engines.simulated.core import Core
from autotune.engines.simulated.launch import prepare
from autotune.engines.simulated.model import read as read_simulated
from autotune.level_run import LevelWatch
from autotune.measurement import load_point
from autotune.model_card import read_model
from autotune.results import Load, LoadPoint
from autotune.spec import Sla
from autotune.trial.reading import Peaks, read
from autotune.trial.virtual_window import VirtualInstrument
from autotune.workload import LevelPlan, PlannedRequest

TINY = Path(__file__).parents[2] / "autotune" / "demo" / "tiny-llama"
PATIENT = Sla(p99_ttft_ms=1e6)


def measured(
    *words: str, users: int, count: int = 48, prompt: int = 32, answer: int = 32, sla: Sla = PATIENT
) -> LoadPoint:
    """A closed loop on an engine with these arguments."""
    line = ["serve", str(TINY), "--max-model-len", "512", *words]
    core = Core(prepare(options.read(line, {"VLLM_CPU_KVCACHE_SPACE": "1"}), read_simulated(TINY)))
    planned = tuple(
        PlannedRequest(index, 0.0, tuple((index + step) % 300 for step in range(prompt)), answer)
        for index in range(count)
    )
    load = Load(kind="max_concurrency", value=users)
    plan = LevelPlan(load, planned, users, 300.0, seed=0)
    instrument = VirtualInstrument(core)
    window = instrument.window()
    run = instrument.send(plan, LevelWatch())
    point = load_point(run, level=0, load=load, devices=1, seed=0, sla=sla, engine_counters=window.close())
    return read(point, read_model(TINY), Peaks(tflops=1.0))


@pytest.mark.parametrize(
    ("words", "load", "kind"),
    [
        (("--max-num-seqs", "4"), {"users": 16}, "slots"),
        (("--max-num-seqs", "64", "--num-gpu-blocks-override", "20"), {"users": 16, "prompt": 128}, "kv_cache"),
        (
            ("--max-num-seqs", "64", "--max-num-batched-tokens", "64"),
            {"users": 16, "prompt": 400, "answer": 4},
            "prefill_budget",
        ),
        (("--max-num-seqs", "64"), {"users": 2}, "client"),
        (("--max-num-seqs", "64"), {"users": 16, "prompt": 400, "answer": 4, "sla": Sla(p99_ttft_ms=1.0)}, "compute"),
    ],
)
def test_a_simulated_engine_that_is_held_back_in_one_way_is_read_so(
    words: tuple[str, ...], load: dict[str, Any], kind: str
):
    found = measured(*words, **load).bottleneck
    assert found is not None
    assert found.kind == kind, found


def test_limits_and_requests_are_those_of_the_engine():
    engine = measured("--max-num-seqs", "4", "--max-num-batched-tokens", "512", users=16).engine
    assert (engine["max_num_seqs"], engine["max_num_batched_tokens"]) == (4.0, 512.0)
    assert engine["requests_running_max"] == 4.0
    assert engine["requests_waiting_max"] == 12.0
    assert engine["generation_tokens"] == 48 * 32


def test_a_look_is_what_a_step_leaves_behind():
    """Four requests of 32 tokens run together, and after every 32nd step none of them: 4 x 31 / 32."""
    engine = measured("--max-num-seqs", "4", users=16, count=160).engine
    assert engine["requests_running_mean"] == pytest.approx(3.875, rel=0.01)
    assert 11.0 < engine["requests_waiting_mean"] < 12.0


def test_the_second_window_starts_afresh():
    line = ["serve", str(TINY), "--max-model-len", "512"]
    core = Core(prepare(options.read(line, {"VLLM_CPU_KVCACHE_SPACE": "1"}), read_simulated(TINY)))
    instrument = VirtualInstrument(core)
    request = PlannedRequest(0, 0.0, (1, 2, 3), 4)
    plan = LevelPlan(Load(kind="max_concurrency", value=1), (request,), 1, 300.0, seed=0)
    instrument.send(plan, LevelWatch())
    window = instrument.window()
    assert "samples" not in window.close()
    window = instrument.window()
    instrument.send(plan, LevelWatch())
    assert window.close()["generation_tokens"] == 4.0
