"""What a job may name, as the API tells it."""

import json
from pathlib import Path

import pytest

from autotune.loading import bundled
from autotune.search_space import SearchSpace
from autotune.workload import Workload

from .conftest import DEMO, Service

DOCS = Path(__file__).parents[2] / "docs"


def test_every_bundled_space_is_listed_and_can_be_submitted_with_changes(service: Service):
    client = service.client()
    listed = [space["name"] for space in client.get("/v1/search-spaces").json()["search_spaces"]]
    assert tuple(listed) == bundled("search_spaces")
    for name in listed:
        SearchSpace.model_validate(client.get(f"/v1/search-spaces/{name}").json())
    own = client.get("/v1/search-spaces/demo").json() | {"name": "mine"}
    assert client.post("/v1/jobs/validate", json={"job": DEMO, "search_space": own}).json()["search_space"] == "mine"


def test_every_bundled_workload_is_listed_and_shown(service: Service):
    client = service.client()
    listed = [workload["name"] for workload in client.get("/v1/workloads").json()["workloads"]]
    assert tuple(listed) == bundled("workloads")
    for name in listed:
        Workload.model_validate(client.get(f"/v1/workloads/{name}").json())


@pytest.mark.parametrize("path", ["search-spaces/nothing", "workloads/nothing", "search-spaces/..%2fpyproject"])
def test_what_is_not_bundled_is_not_found(service: Service, path: str):
    assert service.client().get(f"/v1/{path}").status_code == 404


def test_profiles_tell_neither_paths_nor_variables(service: Service):
    answer = service.client().get("/v1/profiles")
    assert "secret" not in answer.text
    profiles = {profile["name"]: profile for profile in answer.json()["profiles"]}
    assert {"npu", "simulated", "vllm"} <= set(profiles)
    assert profiles["npu"] == {
        "name": "npu",
        "platform": "ascend",
        "resource": "NPU",
        "engine": "vllm",
        "origin": "settings",
        "price_per_device_hour": None,
        "is_available": False,
    }
    assert profiles["simulated"]["is_available"]


def test_the_schema_of_the_job_file_is_the_committed_one(service: Service):
    shown = service.client().get("/v1/schemas/job").json()
    assert shown == json.loads((DOCS / "job.schema.json").read_text())
