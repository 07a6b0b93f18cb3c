"""Read-backs tell which configurations are one: nothing is measured twice under two names."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from autotune.engine_config import EngineConfig
from autotune.results import LoadPoint, Measured, Trial, TrialResult
from autotune.search_space.catalogue import Installed, habits, predicted
from autotune.tuner.effective import corrections, effective_hash

NOTHING_KNOWN = Installed()
NAMES = ("block_size", "max_num_seqs", "kv_cache_dtype")

MakeTrial = Callable[..., Trial]
MakePoint = Callable[..., LoadPoint]
Ran = Callable[..., Trial]


@pytest.fixture
def ran(make_trial: MakeTrial, make_point: MakePoint) -> Ran:
    """A measured trial: the arguments that it was launched with, and what the engine said that it uses."""

    def make(arguments: dict[str, Any], effective: Mapping[str, str]) -> Trial:
        outcome = Measured(points=(make_point(),), operating_level=0, effective_config=dict(effective))
        return make_trial(1, arguments, result=TrialResult(outcome=outcome))

    return make


def as_asked(config: EngineConfig) -> dict[str, Any]:
    """The prediction of one who knows nothing of the engine."""
    return predicted(config, habits(NOTHING_KNOWN))


def name(arguments: dict[str, Any], *trials: Trial, installed: Installed = NOTHING_KNOWN) -> str:
    engine = habits(installed)
    known = corrections(trials, NAMES)
    return effective_hash(EngineConfig(arguments=arguments), known, lambda config: predicted(config, engine))


def test_without_a_read_back_different_values_are_different_configurations() -> None:
    assert name({"block_size": 16}) != name({"block_size": 128})


def test_a_value_that_runs_as_another_is_that_other(ran: Ran) -> None:
    """On Ascend a block size of 16 silently runs as 128."""
    trial = ran({"block_size": 16}, {"block_size": "128"})
    assert name({"block_size": 16}, trial) == name({"block_size": 128}, trial)
    assert name({"block_size": 64}, trial) != name({"block_size": 128}, trial)


def test_an_argument_that_was_left_out_is_its_default(ran: Ran) -> None:
    trial = ran({}, {"max_num_seqs": "256"})
    assert name({}, trial) == name({"max_num_seqs": 256}, trial)
    assert name({}, trial) != name({"max_num_seqs": 128}, trial)


def test_automatic_is_the_same_as_left_out(ran: Ran) -> None:
    assert name({"kv_cache_dtype": "auto"}) == name({"kv_cache_dtype": None}) == name({})
    trial = ran({"kv_cache_dtype": "auto"}, {"kv_cache_dtype": "bfloat16"})
    assert name({}, trial) == name({"kv_cache_dtype": "bfloat16"}, trial)


def test_read_backs_that_disagree_correct_nothing(ran: Ran) -> None:
    """What 16 runs as depends on something else."""
    trials = [ran({"block_size": 16}, {"block_size": "128"}), ran({"block_size": 16}, {"block_size": "64"})]
    assert corrections(trials, NAMES) == {}
    assert name({"block_size": 16}, *trials) != name({"block_size": 128}, *trials)


def test_only_arguments_of_the_space_are_corrected(ran: Ran) -> None:
    """The engine also says what nobody asked for, such as its number of blocks."""
    assert corrections([ran({}, {"num_gpu_blocks": "1234"})], NAMES) == {}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (True, "True"),
        (False, "false"),
        (0.9, "0.90"),
        (8, "8.0"),
        ("FULL", "full"),
        ({"b": 1, "a": 2}, '{"a": 2, "b": 1}'),
    ],
)
def test_a_value_is_itself_however_the_engine_spells_it(asked: Any, said: str, ran: Ran) -> None:
    other = ran({"max_num_seqs": asked}, {"max_num_seqs": said})
    assert name({"max_num_seqs": asked}, other) == name({"max_num_seqs": asked})


def test_a_running_or_failed_trial_tells_nothing(make_trial: MakeTrial) -> None:
    assert corrections([make_trial(1, {"block_size": 16}), make_trial(2, {"block_size": 16}, oom=True)], NAMES) == {}


def test_the_environment_and_the_devices_make_a_configuration_another_one() -> None:
    configs = [EngineConfig(), EngineConfig(environment={"A": "1"}), EngineConfig(devices=2)]
    assert len({effective_hash(config, {}, as_asked) for config in configs}) == 3


def test_the_order_of_arguments_does_not_matter() -> None:
    assert name({"block_size": 16, "max_num_seqs": 8}) == name({"max_num_seqs": 8, "block_size": 16})


# What the catalogue predicts

ASCEND = Installed(
    platform="ascend", versions={"vllm": "0.23.0", "vllm-ascend": "0.23.0.post1"}, models=frozenset({"qwen3", "dense"})
)


def test_what_is_predicted_is_one_configuration_before_anything_was_measured() -> None:
    """block_size 16 runs as 128 on Ascend, and 128 is what runs when nothing is asked."""
    assert len({name(given, installed=ASCEND) for given in ({}, {"block_size": 16}, {"block_size": 128})}) == 1
    off = {"enable_prefix_caching": False, "enable_chunked_prefill": False}
    assert name({**off, "block_size": 256}, installed=ASCEND) != name({**off, "block_size": 128}, installed=ASCEND)


def test_a_read_back_wins_over_the_prediction(ran: Ran) -> None:
    trial = ran({"block_size": 16}, {"block_size": "64"})
    assert name({"block_size": 16}, trial, installed=ASCEND) != name({"block_size": 128}, installed=ASCEND)
    assert name({"block_size": 32}, trial, installed=ASCEND) == name({"block_size": 128}, installed=ASCEND)


def test_keys_within_a_configuration_are_predicted_one_by_one() -> None:
    """cudagraph_mode FULL_AND_PIECEWISE is the default; the other keys stay what they are."""
    assert name({"compilation_config": {"cudagraph_mode": "FULL_AND_PIECEWISE"}}, installed=ASCEND) == name(
        {}, installed=ASCEND
    )
    assert name({"compilation_config": {"unknown": 1}}, installed=ASCEND) != name({}, installed=ASCEND)
