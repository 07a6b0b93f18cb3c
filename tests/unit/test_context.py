"""What a job is checked against before its first launch."""

from pathlib import Path

from autotune.engine_config import EngineConfig
from autotune.settings import EngineProfile
from autotune.tuner.context import with_profile


def profile(**arguments: object) -> EngineProfile:
    return EngineProfile(
        executable=Path("vllm"), platform="cpu", arguments=arguments, environment={"HF_TOKEN": "secret"}
    )


def test_the_job_wins_over_the_profile() -> None:
    config = with_profile(EngineConfig(arguments={"max_num_seqs": 8}), profile(max_num_seqs=64, dtype="bfloat16"))
    assert config.arguments == {"max_num_seqs": 8, "dtype": "bfloat16"}


def test_mappings_of_profile_and_job_are_united() -> None:
    config = EngineConfig(arguments={"additional_config": {"a": 1, "b": 2}})
    merged = with_profile(config, profile(additional_config={"b": 9, "c": 3}))
    assert merged.arguments == {"additional_config": {"a": 1, "b": 2, "c": 3}}


def test_the_profiles_environment_stays_out_of_what_is_stored() -> None:
    assert with_profile(EngineConfig(), profile()).environment == {}
