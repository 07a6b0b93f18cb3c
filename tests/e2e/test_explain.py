"""`autotune explain` as a user types it, on the simulated engine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

DONE, WRONG_INPUT = 0, 2
MODEL = Path(__file__).parents[2] / "autotune" / "demo" / "tiny-llama"

# Sixteen users at once slow each token down to almost 6 ms; four at a time get one every 4.8 ms, and the others wait.
SPACE = {
    "version": 1,
    "name": "seats",
    "parameters": {
        "max_num_seqs": {"type": "int", "values": [4, 256]},
        "max_num_batched_tokens": {"type": "int", "values": [2048, 4096]},  # far more than these prompts have
    },
    "starting_points": {
        "baseline": {"max_num_seqs": 256, "max_num_batched_tokens": 2048},
        "few": {"max_num_seqs": 4, "max_num_batched_tokens": 4096},
    },
}
WORKLOAD = {
    "version": 1,
    "name": "short",
    "dataset": {
        "kind": "synthetic",
        "input_tokens": {"kind": "fixed", "tokens": 16},
        "output_tokens": {"kind": "fixed", "tokens": 24},
    },
    "arrival": {"kind": "closed_loop"},
    "levels": [16],
    "requests_per_level": 32,
}
JOB = {
    "version": 1,
    "name": "seats",
    "model": str(MODEL),
    "engine": "simulated",
    "devices": {"resource": "CPU", "max_per_trial": 1},
    "search_space": "space.yaml",
    "workload": "workload.yaml",
    "sla": {"p99_ttft_ms": 10000, "p50_tpot_ms": 5.3},
    "sampler": "random",
    "budget": {"trials": 1, "start_points": 1, "confirm_top": 1, "confirm_runs": 2},
    "seed": 1,
}


def test_a_job_that_asks_for_it_ends_with_the_effect_of_each_knob(make_cli: Callable[..., Any], tmp_path: Path):
    """The few seats keep the SLA and bring the whole gain; the token budget does nothing, and is not exported."""
    cli = make_cli(tmp_path)
    for name, document in {"space": SPACE, "workload": WORKLOAD, "job": JOB}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    ran = cli("run", "job.yaml", "--set", "attribution=true", timeout_s=200)
    assert ran.returncode == DONE, ran.stdout + ran.stderr
    assert "max_num_seqs" in ran.stdout.split("baseline → winner")[1]
    launched = cli("trials", "seats", "--json").stdout

    told = cli("explain", "seats", "--json")
    found = json.loads(told.stdout)
    assert told.returncode == DONE
    assert [step["changes"][0]["name"] for step in found["steps"]] == ["max_num_seqs", "max_num_batched_tokens"]
    seats, tokens = found["steps"]
    assert seats["verdict"] == "gain"
    assert (seats["share"], tokens["share"]) == (pytest.approx(1.0, abs=0.1), pytest.approx(0.0, abs=0.1))
    # One knob without effect in twenty looks as if it had one: that is what 95 % means.
    assert found["reset"] == ["max_num_batched_tokens"] * (tokens["verdict"] == "inert")
    assert cli("trials", "seats", "--json").stdout == launched

    exported = cli("export", "seats").stdout
    assert yaml.safe_load(exported)["max-num-seqs"] == 4
    assert ("max-num-batched-tokens" in yaml.safe_load(exported)) is not bool(found["reset"])
    assert "# max_num_seqs 256 -> 4: +" in exported
    assert cli("cancel", "seats").returncode == WRONG_INPUT  # nobody works on it any more


def test_a_job_without_a_gain_says_so(archive: Any):
    asked = archive.cli("explain", archive.hopeless.id)
    assert asked.returncode == WRONG_INPUT
    assert "recommends nothing, so there is no gain to explain" in asked.stderr
