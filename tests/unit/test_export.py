"""Exports: what vLLM, a shell and other programs read, with the evidence inside."""

import json
import shlex
import subprocess
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autotune.engine_config import EngineConfig
from autotune.errors import InputError
from autotune.export import FORMATS, ExportSource, export, file_name, read_export
from autotune.results import (
    Confirmation,
    FrontPoint,
    Latency,
    Load,
    LoadPoint,
    Measured,
    ParetoFront,
    Quantile,
    Trial,
    TrialResult,
)
from autotune.spec import Sla


def latency(value_ms: float) -> Latency:
    quantile = Quantile(percent=99, value_ms=value_ms, lower_ms=value_ms - 20, upper_ms=None)
    return Latency(count=100, mean_ms=value_ms, quantiles=(quantile,))


def point(throughput: float, *, devices: int = 1, kind: str = "request_rate") -> LoadPoint:
    return LoadPoint(
        level=3,
        load=Load.model_validate({"kind": kind, "value": 8}),
        devices=devices,
        seed=0,
        duration_s=10,
        completed=100,
        failed=0,
        request_throughput=8,
        output_throughput=throughput,
        total_token_throughput=throughput,
        request_goodput=8,
        ttft=latency(143),
        tpot=latency(10),
        itl=latency(10),
        e2el=latency(1000),
        client_lag_ms=0,
        violations={"p99_ttft_ms": -0.3, "error_rate": -1},
    )


def trial(arguments: dict[str, Any], environment: dict[str, str] | None = None) -> Trial:
    return Trial(
        number=12,
        purpose="search",
        origin="gp",
        knobs={"max_num_seqs": 64},
        config=EngineConfig(arguments=arguments, environment=environment or {}),
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def source(**changes: Any) -> ExportSource:
    whole = {
        "job_id": "a1b2",
        "job_name": "chat",
        "model": "/models/my llama",
        "workload": "chat-short",
        "workload_digest": "d1",
        "engine": "npus",
        "devices": {"resource": "NPU"},
        "instrument": "autotune",
        "confirm_runs": 3,
        "sla": Sla(p99_ttft_ms=200),
        "engine_version": "0.32.0",
        "trial": trial({"max_num_seqs": 64}),
        "point": point(812, devices=2),
        "exported_at": datetime(2026, 11, 22, tzinfo=UTC),
    }
    return ExportSource.model_validate(whole | changes)


def test_the_yaml_holds_the_model_and_flat_keys_with_dashes() -> None:
    text = export(source(trial=trial({"max_num_seqs": 64, "kv_cache_dtype": "auto", "swap_space": None})), "vllm")
    assert yaml.safe_load(text) == {"model": "/models/my llama", "max-num-seqs": 64, "kv-cache-dtype": "auto"}


def test_mappings_stay_nested_in_the_yaml() -> None:
    nested = {"compilation_config": {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 2]}}
    read = yaml.safe_load(export(source(trial=trial(nested)), "vllm"))
    assert read["compilation-config"] == {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 2]}


def test_false_is_the_no_flag_because_the_engine_drops_false() -> None:
    read = yaml.safe_load(export(source(trial=trial({"enable_prefix_caching": False, "enforce_eager": True})), "vllm"))
    assert read == {"model": "/models/my llama", "no-enable-prefix-caching": True, "enforce-eager": True}


@pytest.mark.parametrize("format", ["vllm", "command"])
def test_false_is_left_out_for_a_flag_that_has_no_opposite(format: str) -> None:
    assert "disable-log-stats" not in export(source(trial=trial({"disable_log_stats": False})), format)


def test_the_environment_is_in_the_yamls_comments_with_the_command() -> None:
    text = export(source(trial=trial({}, {"HCCL_BUFFSIZE": "512", "NOTE": "two\nlines"})), "vllm")
    assert "#   HCCL_BUFFSIZE=512 NOTE=$'two\\nlines' vllm serve --config THIS_FILE.yaml\n" in text
    assert yaml.safe_load(text) == {"model": "/models/my llama"}


@pytest.mark.parametrize("format", ["vllm", "command", "env", "compose", "kubernetes", "json"])
@pytest.mark.parametrize(("version", "asked"), [("0.9.1", True), ("0.11.0", False)])
def test_v1_is_asked_of_releases_that_have_another_engine_too(format: str, version: str, asked: bool) -> None:
    text = export(source(engine_version=f"vllm {version}, vllm-ascend {version}"), format)
    assert ("VLLM_USE_V1" in text) is asked
    if format in ("vllm", "json"):
        assert not read_export(text, "best").is_edited


def test_the_command_is_read_by_a_shell_as_it_was_meant() -> None:
    arguments = {
        "max_num_seqs": 64,
        "enable_prefix_caching": False,
        "additional_config": {"a": "it's $HOME"},
        "sizes": [1, 2],
    }
    text = export(source(trial=trial(arguments, {"NOTE": 'a "b" $(c)'})), "command")
    probe = 'vllm() { printf "%s\\0" "$NOTE" "$@"; }\n' + text
    words = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True).stdout.split("\0")
    assert words[:-1] == [
        'a "b" $(c)',
        "serve",
        "/models/my llama",
        "--max-num-seqs",
        "64",
        "--no-enable-prefix-caching",
        "--additional-config",
        '{"a": "it\'s $HOME"}',
        "--sizes",
        "1",
        "2",
    ]


def test_a_value_that_looks_like_a_flag_stays_a_value() -> None:
    assert "  --max-model-len=-1\n" in export(source(trial=trial({"max_model_len": "-1"})), "command")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30))
def test_any_environment_value_survives_quoting(value: str) -> None:
    text = export(source(trial=trial({}, {"NOTE": value})), "env")
    assignments = [word for word in shlex.split(text, comments=True) if word.startswith("NOTE=")]
    assert assignments == [f"NOTE={value}"]


def test_a_name_that_is_no_environment_variable_is_refused() -> None:
    with pytest.raises(InputError, match="'A;B' is not a name of an environment variable"):
        export(source(trial=trial({}, {"A;B": "1"})), "env")


def test_an_empty_environment_is_said_to_be_empty() -> None:
    assert export(source(), "env").endswith("# this configuration needs no environment variables\n")


@pytest.mark.parametrize("format", ["vllm", "command", "env"])
def test_the_evidence_is_in_the_comments(format: str) -> None:
    again = Confirmation(
        trial=12, load=Load(kind="request_rate", value=8), runs=(point(800),) * 3, holds=True,
        output_throughput_per_device=400, p99_ttft_ms=150,
    )  # fmt: skip
    comments = [
        line for line in export(source(baseline=point(250), confirmation=again), format).splitlines() if line[:1] == "#"
    ]
    assert comments[:7] == [
        "# vllm-autotune: job chat (a1b2), trial 12, level 3",
        "# model /models/my llama, engine 0.32.0, workload chat-short, exported 2026-11-22",
        "# measured at 8 req/s per device: 406.0 tok/s per device, P99 TTFT 143 ms (95 % bounds 123 to unknown), "
        "0 of 100 requests failed",
        "# measured again in 3 runs at 8 req/s per device: 400.0 tok/s per device, "
        "P99 TTFT 143 ms on average, 143 ms at worst, limit 200 ms: the SLA holds (judged by mean plus standard error)",
        "# SLA: error_rate <= 0.01, p99_ttft_ms <= 200",
        "# baseline at 8 req/s per device: 250.0 tok/s per device, P99 TTFT 143 ms (95 % bounds 123 to unknown); "
        "this configuration has 1.62 times its throughput",
        "# keep the load of one instance (2 devices) at or below 16 requests/s",
    ]


def test_the_comments_tell_levels_that_were_not_steady() -> None:
    moved = point(800).model_copy(update={"steady": False, "drift": 3.2, "drift_of": "tpot"})
    again = Confirmation(
        trial=12, load=Load(kind="request_rate", value=8), runs=(point(800), moved), holds=True,
        output_throughput_per_device=400, p99_ttft_ms=150,
    )  # fmt: skip
    text = export(source(point=moved, confirmation=again), "vllm")
    growth = "(the TPOT of the second half is 3.20x the first): a longer level would show worse figures"
    assert f"\n# not steady when it was measured {growth}\n" in text
    assert f"\n# not steady when it was measured again in 1 of 2 runs {growth}\n" in text
    assert "not steady" not in export(source(), "vllm")


def test_every_latency_line_of_the_sla_is_told_with_its_bounds() -> None:
    text = export(source(sla=Sla(p99_ttft_ms=200, p99_tpot_ms=16)), "env")
    assert (
        "P99 TTFT 143 ms (95 % bounds 123 to unknown), P99 TPOT 10 ms (95 % bounds -10 to unknown), "
        "0 of 100 requests failed\n"
    ) in text


def test_the_versions_of_the_engines_plugins_are_fields() -> None:
    version = "vllm 0.30.0, vllm-ascend 0.30.0rc2, torch-npu 2.10.0.post4"
    read = json.loads(export(source(engine_version=version), "json"))
    assert read["engine_versions"] == {"vllm": "0.30.0", "vllm-ascend": "0.30.0rc2", "torch-npu": "2.10.0.post4"}


def test_a_name_with_a_line_break_cannot_leave_its_comment() -> None:
    text = export(source(workload="chat\nmodel: evil"), "vllm")
    assert yaml.safe_load(text)["model"] == "/models/my llama"


def test_a_name_with_a_control_character_leaves_the_yaml_readable() -> None:
    assert yaml.safe_load(export(source(workload="chat\x06"), "vllm"))["model"] == "/models/my llama"


def test_without_reruns_and_baseline_the_comments_say_so() -> None:
    text = export(source(point=point(812, kind="max_concurrency")), "env")
    assert "# not confirmed by re-runs\n" in text
    assert "# the baseline meets the SLA at no measured load\n" in text
    assert "# keep the load of one instance (1 device) at or below 8 concurrent requests\n" in text


def test_the_json_holds_configuration_and_evidence_as_fields() -> None:
    read = json.loads(export(source(baseline=point(203), trial=trial({"max_num_seqs": 64}, {"A": "1"})), "json"))
    assert read["arguments"] == {"max_num_seqs": 64}
    assert read["environment"] == {"A": "1"}
    assert read["sla"] == {"error_rate": 0.01, "p99_ttft_ms": 200}
    assert read["throughput_versus_baseline"] == 2.0
    assert read["recommended_load"] == {"kind": "request_rate", "value": 16}
    assert read["measured"]["output_throughput"] == 812


def test_the_csv_is_the_front_with_its_evidence_and_the_knobs_of_its_trials() -> None:
    points = [
        FrontPoint(
            trial=number, level=3, load=Load(kind="request_rate", value=8), output_throughput_per_device=throughput,
            p99_ttft_ms=143, request_throughput=8,
        )
        for number, throughput in ((11, 300), (12, 406))
    ]  # fmt: skip
    outcome = Measured(points=(point(812, devices=2),), operating_level=3)
    measured = trial({"max_num_seqs": 64}).model_copy(update={"result": TrialResult(outcome=outcome)})
    text = export(source(front=ParetoFront(points=tuple(points)), trials=(measured,)), "csv")
    told = 'a1b2,/models/my llama,0.32.0,chat-short,"error_rate <= 0.01, p99_ttft_ms <= 200",2026-11-22T00:00:00+00:00'
    assert text.splitlines() == [
        "trial,level,load_kind,load_per_device,output_throughput_per_device,p99_ttft_ms,p99_ttft_lower_ms,"
        "p99_ttft_upper_ms,request_throughput,selected,job,model,engine_version,workload,sla,exported_at,max_num_seqs",
        f"11,3,request_rate,8.0,300.0,143.0,,,8.0,False,{told},",
        f"12,3,request_rate,8.0,406.0,143.0,123.0,,8.0,True,{told},64",
    ]


def test_an_empty_front_is_a_table_without_rows() -> None:
    assert export(source(), "csv") == "trial,level\n"


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_ends_with_a_line_break(format: str) -> None:
    assert export(source(), format).endswith("\n")


def test_an_unknown_format_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"unknown export format 'vlm'; did you mean vllm\? use one of: vllm, command"):
        export(source(), "vlm")


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("vllm", "demo-1-trial-12.yaml"),
        ("command", "demo-1-trial-12.sh"),
        ("csv", "demo-1-trial-12.csv"),
    ],
)
def test_the_suggested_file_name_says_job_trial_and_kind(format: str, name: str) -> None:
    assert file_name(source(job_id="demo-1"), format) == name


def test_a_suggested_file_name_has_plain_characters_only() -> None:
    assert file_name(source(job_id='../"a\r\nb"'), "json") == "..-a-b--trial-12.json"
