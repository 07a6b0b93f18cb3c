"""The job file's record: names, limits and their order."""

import jsonschema
import pytest
from pydantic import ValidationError

from autotune.spec import Devices, JobSpec, Sla

JOB = {
    "version": 1,
    "name": "llama-npu",
    "model": "./llama",
    "devices": {"resource": "NPU"},
    "search_space": "ascend-dense",
    "workload": "chat",
    "sla": {"p99_ttft_ms": 200},
}


def test_a_short_job_has_defaults_for_the_rest():
    job = JobSpec.model_validate(JOB)
    assert (job.engine, job.sampler, job.objectives, job.seed) == ("vllm", "gp", "throughput", 0)
    assert (job.budget.trials, job.budget.patience, job.budget.confirm_top, job.budget.confirm_runs) == (60, 15, 5, 3)
    assert job.devices.max_per_trial == "all"


def test_a_job_survives_being_written_down():
    job = JobSpec.model_validate(JOB | {"sla": {"p99_ttft_ms": 200, "p50_itl_ms": 20, "error_rate": 0}})
    assert JobSpec.model_validate(job.document) == job


def test_latency_limits_stand_in_one_order_however_they_were_written():
    sla = Sla.model_validate({"p99_e2el_ms": 4, "p99_ttft_ms": 2, "p50_ttft_ms": 1, "p99.9_tpot_ms": 3})
    assert [(line.name, line.percent, line.metric, line.limit_ms) for line in sla.latency_limits] == [
        ("p50_ttft_ms", 50.0, "ttft", 1.0),
        ("p99_ttft_ms", 99.0, "ttft", 2.0),
        ("p99.9_tpot_ms", 99.9, "tpot", 3.0),
        ("p99_e2el_ms", 99.0, "e2el", 4.0),
    ]


@pytest.mark.parametrize(
    ("sla", "told"),
    [
        ({}, "at least one latency line"),
        ({"error_rate": 0.1}, "at least one latency line"),
        ({"p99_tttft_ms": 200}, "unknown SLA line 'p99_tttft_ms'"),
        ({"p100_ttft_ms": 200}, "unknown SLA line 'p100_ttft_ms'"),
        ({"p99_ttft_ms": 0}, "greater than 0"),
        ({"p99_ttft_ms": float("inf")}, "finite"),
        ({"p99_ttft_ms": 200, "error_rate": 1.1}, "less than or equal to 1"),
    ],
)
def test_an_sla_without_a_meaning_is_refused(sla, told):
    with pytest.raises(ValidationError, match=told):
        Sla.model_validate(sla)


@pytest.mark.parametrize("most", [0, -1, "some", 1.5])
def test_devices_of_a_trial_are_a_positive_number_or_all(most):
    with pytest.raises(ValidationError):
        Devices(resource="CPU", max_per_trial=most)


@pytest.mark.parametrize("name", ["", "a b", "../up", "-x", "x" * 64])
def test_a_name_is_fit_for_a_folder(name):
    with pytest.raises(ValidationError):
        JobSpec.model_validate(JOB | {"name": name})


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError, match="executable"):
        JobSpec.model_validate(JOB | {"executable": "/bin/sh"})


def test_names_and_values_of_an_sla_are_told_together():
    with pytest.raises(ValidationError) as refused:
        Sla.model_validate({"p99_ttft_ms": "200ms", "p101_tpot_ms": 3, "error_rate": 5})
    assert refused.value.error_count() == 3


def test_the_published_schema_takes_what_the_record_takes_and_refuses_a_misspelt_sla():
    schema = JobSpec.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(JOB, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(JOB | {"sla": {"p99_tttft_ms": 1}}, schema)
