"""What `autotune estimate` prints of a model."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from autotune.cli.main import app
from autotune.errors import InputError, NotFound

LLAMA_8B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path / "llama", {})


def written(folder: Path, changed: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**LLAMA_8B, **changed}))
    return folder


def estimate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["estimate", *map(str, arguments)])


def test_weights_cache_and_workspace_are_told_with_where_they_come_from(model: Path):
    shown = estimate(model, "--max-model-len", "8192").stdout
    assert "8.03 billion parameters, 15.0 GiB of weights (computed from the config)" in shown
    assert "KV cache: 128.0 KiB per token" in shown
    assert "one request of max_model_len 8192: 1.00 GiB of KV cache" in shown
    assert "workspace of one device: 0.65 GiB, for 2048 tokens a step, 256 sequences" in shown


def test_small_models_are_told_in_small_units(tmp_path: Path):
    small = written(tmp_path / "small", {"num_hidden_layers": 1, "hidden_size": 256, "vocab_size": 1000})
    assert "11.7 million parameters, 22.3 MiB of weights" in estimate(small).stdout


def test_every_known_device_is_shown_with_the_smallest_size_that_fits(tmp_path: Path):
    """141 GB of weights fit on one H200 at most with nothing beside them."""
    llama_70b = {"num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64}
    shown = estimate(written(tmp_path / "large", llama_70b), "--max-model-len", "8192").stdout
    rows = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in shown.splitlines() if line[:1] == "│"}
    assert rows["910B-64GB"] == "4"
    assert rows["910B-32GB"] == "8"
    assert rows["H200"] == "2"


def test_one_device_is_shown_with_every_size_and_why_some_are_refused(tmp_path: Path):
    model = written(tmp_path / "qwen", {"num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584})
    shown = estimate(model, "--device", "910b", "--max-model-len", "4096").stdout
    assert shown.count("910B-64GB") == 5
    assert "28 attention heads cannot be divided by 8" in shown


def test_json_has_what_a_script_needs(model: Path):
    found = json.loads(estimate(model, "--device-memory-gib", "24", "--max-model-len", "4096", "--json").stdout)
    assert (found["parameters"], found["weight_bytes"]) == (8_030_261_248, 16_060_522_496)
    assert (found["kv_bytes_per_token"], found["kv_bytes_per_request"]) == (131072, 4096 * 131072)
    (device,) = found["devices"]
    assert device["memory_gib"] == 24
    assert [size["tensor_parallel_size"] for size in device["sizes"]] == [1, 2, 4, 8, 16]
    assert all(size["fits"] for size in device["sizes"])


def test_a_configuration_file_stands_for_its_folder(model: Path):
    assert "15.0 GiB of weights" in estimate(model / "config.json").stdout


def test_the_greatest_length_is_the_models_own(model: Path):
    assert "one request of max_model_len 131072: 16.00 GiB" in estimate(model).stdout


def test_an_eight_bit_cache_takes_half(model: Path):
    assert "KV cache: 64.0 KiB per token" in estimate(model, "--kv-cache-dtype", "fp8").stdout


def test_layers_with_a_window_are_told(tmp_path: Path):
    model = written(tmp_path / "mistral", {"model_type": "mistral", "sliding_window": 4096})
    assert "of which 32 layers keep 4096 tokens only" in estimate(model).stdout


def test_weights_that_nobody_can_tell_are_an_error(tmp_path: Path):
    model = written(tmp_path / "novel", {"model_type": "novel"})
    problem = estimate(model).exception
    assert isinstance(problem, InputError)
    assert "no safetensors files, and its architecture is not known" in str(problem)


def test_a_device_that_nobody_knows_is_an_error(model: Path):
    assert isinstance(estimate(model, "--device", "TPU").exception, NotFound)
