"""What an exported file says of its own measurement, and that it is read back as it was meant."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.engine_config import EngineConfig
from autotune.errors import InputError
from autotune.export import ExportSource, export, read_export
from autotune.results import LoadPoint, Trial
from autotune.spec import Sla

MakeSource = Callable[..., ExportSource]


@pytest.fixture(scope="module")
def make_source(make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint]) -> MakeSource:
    def make(arguments: dict[str, Any], environment: dict[str, str] | None = None) -> ExportSource:
        config = EngineConfig(arguments=arguments, environment=environment or {})
        return ExportSource(
            job_id="chat-1",
            job_name="chat",
            model="/models/m",
            workload="chat",
            workload_digest="d1",
            engine="npus",
            devices={"resource": "NPU", "max_per_trial": 4},  # type: ignore[arg-type]
            instrument="autotune",
            confirm_runs=2,
            sla=Sla(p99_ttft_ms=200),
            engine_version="vllm 0.30.0, vllm-ascend 0.30.0rc2",
            trial=make_trial(12, {}).model_copy(update={"config": config}),
            point=make_point(level=1, value=8),
            exported_at=datetime(2026, 11, 22, tzinfo=UTC),
        )

    return make


@pytest.mark.parametrize("format", ["vllm", "json"])
def test_a_file_says_what_a_verification_needs(format: str, make_source: MakeSource) -> None:
    read = read_export(export(make_source({"max_num_seqs": 64}, {"A": "1"}), format), "best")
    assert read.model == "/models/m"
    assert read.config == EngineConfig(arguments={"max_num_seqs": 64}, environment={"A": "1"})
    replay = read.replay.model_dump(mode="json", exclude_none=True, exclude={"config_digest"})
    assert replay == {
        "version": 1,
        "job": "chat-1",
        "trial": 12,
        "engine": "npus",
        "engine_version": "vllm 0.30.0, vllm-ascend 0.30.0rc2",
        "devices": {"resource": "NPU", "max_per_trial": 4},
        "environment": {"A": "1"},
        "workload": "chat",
        "workload_digest": "d1",
        "sla": {"error_rate": 0.01, "p99_ttft_ms": 200},
        "level": 1,
        "load": {"kind": "max_concurrency", "value": 8},
        "runs": 2,
        "instrument": "autotune",
    }


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
VALUES = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT,
    st.dictionaries(TEXT, st.one_of(st.booleans(), st.integers(), TEXT), max_size=3),
)  # fmt: skip


@pytest.mark.parametrize("format", ["vllm", "json"])
@settings(deadline=None)
@given(value=VALUES, variable=TEXT)
def test_whatever_is_exported_is_read_back_and_launches_the_same_words(
    format: str, value: Any, variable: str, make_source: MakeSource
) -> None:
    source = make_source({"max_num_seqs": 64, "knob": value}, {"NOTE": variable})
    read = read_export(export(source, format), "best")
    assert read.config.command_words == source.trial.config.command_words
    assert read.config.environment == {"NOTE": variable}
    assert not read.is_edited


def test_the_devices_follow_from_the_parallel_sizes(make_source: MakeSource) -> None:
    text = export(make_source({"tensor_parallel_size": 2, "data_parallel_size": 2}), "vllm")
    assert read_export(text, "best").config.devices == 4


def test_an_edited_file_launches_what_it_says_now_and_is_known_as_edited(make_source: MakeSource) -> None:
    text = export(make_source({"max_num_seqs": 64}), "vllm").replace("max-num-seqs: 64", "max-num-seqs: 65")
    read = read_export(text, "best")
    assert read.config.arguments == {"max_num_seqs": 65}
    assert read.is_edited


def test_where_a_file_is_served_is_left_to_whoever_launches_it(make_source: MakeSource) -> None:
    text = export(make_source({"max_num_seqs": 64}), "vllm") + "port: 8000\nserved-model-name: chat\n"
    read = read_export(text, "best")
    assert read.config.arguments == {"max_num_seqs": 64}
    assert read.left_out == ("port", "served_model_name")
    assert not read.is_edited


def test_the_environment_of_a_json_file_is_what_stands_beside_its_arguments(make_source: MakeSource) -> None:
    document = json.loads(export(make_source({}, {"A": "1"}), "json"))
    read = read_export(json.dumps(document | {"environment": {"A": "2"}}), "best")
    assert read.config.environment == {"A": "2"}
    assert read.is_edited


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: /m\n", "best: has no line `# autotune: …`"),
        ("# autotune: {\nmodel: /m\n", "best: cannot be read"),
        ('# autotune: {"job": 1}\nmodel: /m\n', "best: what it says of its measurement cannot be read"),
        ("{", "best: is no JSON"),
        ('{"arguments": {}}', "best: has no `arguments` and `replay`"),
    ],
)
def test_a_file_that_cannot_be_verified_is_told(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_export(text, "best")


def test_a_file_without_a_model_is_told(make_source: MakeSource) -> None:
    text = export(make_source({}), "vllm").replace("model: /models/m\n", "max-num-seqs: 1\n")
    with pytest.raises(InputError, match="best: names no model"):
        read_export(text, "best")
