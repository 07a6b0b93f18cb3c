"""The front, the recommendation and the exports of a job."""

import csv
import io

import pytest
import yaml

from autotune.export import FORMATS
from autotune.results import JobStatus, ParetoFront, Trial

from .conftest import LIMITS, MakePoint, MakeTrial, Service


def test_the_front_of_an_ended_job_is_final(service: Service, finished: str):
    shown = service.client().get(f"/v1/jobs/{finished}/pareto").json()
    front = ParetoFront.model_validate(shown["front"])
    assert [(p.trial, p.output_throughput_per_device) for p in front.points] == [(0, 500.0), (1, 700.0)]
    assert shown["is_final"]


@pytest.mark.parametrize("ask", ["recommendation", "export"])
def test_a_resumed_job_does_not_give_the_result_of_its_last_run(service: Service, trials: tuple[Trial, ...], ask: str):
    lease = service.begin("job-1")
    for trial in trials:
        service.play(lease, trial)
    service.finish(lease, trials, JobStatus.CANCELLED)
    client = service.client()
    assert client.get("/v1/jobs/job-1/pareto").json()["is_final"]
    service.store.release(lease)
    service.store.requeue("job-1", now=service.now, limits=lambda _: LIMITS)
    assert not client.get("/v1/jobs/job-1/pareto").json()["is_final"]
    assert client.get(f"/v1/jobs/job-1/{ask}").status_code == 409
    assert client.get("/v1/jobs/job-1").json()["job"]["result"] is None


def test_a_running_job_has_the_front_of_its_trials_so_far(service: Service, trials: tuple[Trial, ...]):
    lease = service.begin("job-1")
    service.play(lease, trials[0])
    shown = service.client().get("/v1/jobs/job-1/pareto").json()
    assert ([p["trial"] for p in shown["front"]["points"]], shown["is_final"]) == ([0], False)


@pytest.mark.parametrize(
    ("query", "accept", "is_csv"),
    [
        ("?format=csv", "application/json", True),
        ("", "text/csv", True),
        ("", "text/csv, application/json", True),
        ("", "application/json, text/csv", False),
        ("", "*/*", False),
        ("?format=json", "text/csv", False),
    ],
)
def test_a_front_is_csv_where_that_is_asked_for(
    service: Service, finished: str, query: str, accept: str, *, is_csv: bool
):
    answer = service.client().get(f"/v1/jobs/{finished}/pareto{query}", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("text/csv" if is_csv else "application/json")


def test_a_row_of_the_csv_has_the_figures_and_the_knobs(service: Service, finished: str):
    text = service.client().get(f"/v1/jobs/{finished}/pareto?format=csv").text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(r["trial"], r["p99_ttft_ms"], r["max_num_seqs"]) for r in rows] == [
        ("0", "100.0", "16"),
        ("1", "150.0", "8"),
    ]


def test_the_recommendation_names_the_configuration(service: Service, finished: str):
    shown = service.client().get(f"/v1/jobs/{finished}/recommendation").json()
    assert shown["recommendation"]["trial"] == 1
    assert shown["config"]["arguments"] == {"max_num_seqs": 8}


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_an_export_has_the_type_and_the_name_of_its_format(service: Service, finished: str, form: str):
    answer = service.client().get(f"/v1/jobs/{finished}/export?format={form}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == FORMATS[form].media_type
    assert f'"done-1-trial-1{FORMATS[form].extension}"' in answer.headers["content-disposition"]


def test_a_selection_by_hand_is_exported(service: Service, finished: str):
    text = service.client().get(f"/v1/jobs/{finished}/export?select=trial=0").text
    assert yaml.safe_load(text)["max-num-seqs"] == 16


@pytest.mark.parametrize("query", ["select=best", "select=trial=x", "format=pdf"])
def test_an_unknown_selection_or_format_is_a_problem_of_the_input(service: Service, finished: str, query: str):
    assert service.client().get(f"/v1/jobs/{finished}/export?{query}").status_code == 422


def test_a_trial_that_misses_the_sla_cannot_be_selected(service: Service, finished: str):
    answer = service.client().get(f"/v1/jobs/{finished}/export?select=trial=1:1")
    assert (answer.status_code, answer.json()["title"]) == (404, "Not found")


@pytest.mark.parametrize("path", ["recommendation", "export"])
def test_a_job_without_a_result_is_a_conflict(service: Service, path: str):
    service.begin("job-1")
    answer = service.client().get(f"/v1/jobs/job-1/{path}")
    assert (answer.status_code, answer.json()["detail"]) == (409, "job 'job-1' is running and has no result yet")


def test_where_nothing_meets_the_sla_the_export_says_so_and_the_recommendation_why(
    service: Service, make_trial: MakeTrial, make_point: MakePoint
):
    lease = service.begin("job-1")
    trial = make_trial(0, {"max_num_seqs": 16}, make_point(300.0, 500.0))
    service.play(lease, trial)
    service.finish(lease, [trial])
    client = service.client()
    refused = client.get("/v1/jobs/job-1/export")
    assert (refused.status_code, refused.json()["title"]) == (404, "Nothing meets the SLA")
    told = client.get("/v1/jobs/job-1/recommendation").json()
    assert (told["config"], told["recommendation"]["closest_trial"]) == (None, 0)
    assert told["recommendation"]["reason"] == refused.json()["detail"]
