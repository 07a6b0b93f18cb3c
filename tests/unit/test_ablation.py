"""The configurations between a baseline and its winner: what is given in each, and what can run."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.results import LoadPoint, Trial
from autotune.tuner.ablation import (
    ablation_path,
    can_run,
    changed_knobs,
    changes,
    figure,
    is_as_launched,
    station,
    without,
)
from autotune.tuner.context import JobContext

TINY = runpy.run_path(str(Path(__file__).parents[1] / "data" / "tiny_job.py"))

SPACE = {
    "version": 1,
    "name": "conditional",
    "parameters": {
        "block_size": {"type": "int", "values": [16, 128]},
        "long_prefill_token_threshold": {
            "type": "int",
            "values": [128, 1024],
            "when": {"enable_chunked_prefill": True},
        },
        "enable_chunked_prefill": {"type": "bool"},
        "max_num_seqs": {"type": "int", "values": [4, 16]},
        "tensor_parallel_size": {"type": "int", "values": [1, 2]},
    },
    "rules": [
        {
            "kind": "at_least",
            "left": "max_num_seqs",
            "right": 16,
            "when": {"block_size": 16},
            "reason": "small blocks are for many",
        }
    ],
    "starting_points": {
        "baseline": {
            "block_size": 128,
            "long_prefill_token_threshold": 128,
            "enable_chunked_prefill": False,
            "max_num_seqs": 4,
            "tensor_parallel_size": 1,
        }
    },
}
WINNER = {
    "block_size": 16,
    "long_prefill_token_threshold": 1024,
    "enable_chunked_prefill": True,
    "max_num_seqs": 16,
    "tensor_parallel_size": 1,
}


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    return TINY["job_context"](tmp_path, {"trials": 1}, space=SPACE)


@pytest.fixture
def winner(context: JobContext, make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint]) -> Trial:
    return make_trial(7, WINNER, make_point(), config=context.configuration(WINNER))


def arguments(found: Any) -> dict[str, Any]:
    return {name: value for name, value in found.config.arguments.items() if name != "max_model_len"}


def test_the_ends_are_the_baseline_and_the_winner_as_they_were_launched(context: JobContext, winner: Trial):
    assert station(context, winner, frozenset()).config == context.baseline
    assert station(context, winner, frozenset(changed_knobs(context, winner))).config == winner.config


def test_between_the_ends_only_what_changed_is_given(context: JobContext, winner: Trial):
    found = station(context, winner, frozenset({"max_num_seqs", "enable_chunked_prefill"}))
    assert arguments(found) == {"max_num_seqs": 16, "enable_chunked_prefill": True}
    assert found.knobs["block_size"] == 128


def test_a_conditional_knob_that_is_not_changed_stays_the_engines_own(context: JobContext, winner: Trial):
    """It is in force, at the place where the space says that the default lies, but it is not given."""
    found = station(context, winner, frozenset({"enable_chunked_prefill"}))
    assert found.knobs["long_prefill_token_threshold"] == 128
    assert arguments(found) == {"enable_chunked_prefill": True}


def test_without_some_knobs_the_winner_gives_the_others_and_those_it_has_in_common_with_the_baseline(
    context: JobContext, winner: Trial
):
    assert arguments(without(context, winner, ("block_size",))) == {
        "long_prefill_token_threshold": 1024,
        "enable_chunked_prefill": True,
        "max_num_seqs": 16,
        "tensor_parallel_size": 1,
    }


def test_only_differences_are_changes(context: JobContext, winner: Trial):
    told = {name: (change.baseline, change.winner) for name, change in changes(context, winner).items()}
    assert told == {
        "block_size": (128, 16),
        "long_prefill_token_threshold": (128, 1024),
        "enable_chunked_prefill": (False, True),
        "max_num_seqs": (4, 16),
    }


@pytest.mark.parametrize(
    ("changed", "most_devices", "can"),
    [
        ({"max_num_seqs"}, 1, True),
        ({"max_num_seqs"}, 0, False),  # it needs a device
        ({"block_size"}, 1, False),  # breaks the rule while there are few seats
        ({"block_size", "max_num_seqs"}, 1, True),
        ({"long_prefill_token_threshold"}, 1, False),  # its condition is not met, so nothing would change
    ],
)
def test_what_can_run(changed: set[str], most_devices: int, can: bool, context: JobContext, winner: Trial):
    names = frozenset(changed)
    assert can_run(context, station(context, winner, names), names, most_devices) is can


def test_the_path_goes_around_what_cannot_run(context: JobContext, winner: Trial):
    """In the order of the space, but seats before blocks, and the switch before what depends on it."""
    path = ablation_path(context, winner, [], most_devices=1)
    assert path.steps == (
        ("enable_chunked_prefill",),
        ("long_prefill_token_threshold",),
        ("max_num_seqs",),
        ("block_size",),
    )


def test_the_figure_is_what_is_served_under_the_sla(
    make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint]
):
    """Half-way from 500 to 700 tok/s: at 100 ms the violation is -0.5, at 300 ms it is +0.5."""
    between = [make_point(100.0, 500.0, value=4.0), make_point(300.0, 700.0, level=1, value=16.0)]
    assert figure(make_trial(1, {}, *between)) == 600.0
    assert figure(make_trial(2, {}, make_point(900.0, 700.0))) == 0.0
    assert figure(make_trial(3, {}, oom=True)) == 0.0
    assert figure(make_trial(4, {})) is None


def test_a_winner_of_other_profile_arguments_is_not_as_it_was_launched(context: JobContext, winner: Trial):
    arguments_then = {**winner.config.arguments, "swap_space": 8}
    then = winner.model_copy(update={"config": winner.config.model_copy(update={"arguments": arguments_then})})
    assert is_as_launched(context, winner)
    assert not is_as_launched(context, then)
