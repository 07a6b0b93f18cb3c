"""The description of the API: the committed copy, and what every operation promises."""

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.service.app import api

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"
PUBLIC = {"healthz", "readyz"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return api().openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(path, operation) for path, item in document["paths"].items() for operation in item.values()]


def test_the_committed_copy_is_what_the_code_says(document: dict[str, Any]):
    """After a change of the API: `autotune schema --api > docs/openapi.json`."""
    assert json.loads(COMMITTED.read_text()) == document


def test_everything_but_health_needs_a_token(document: dict[str, Any]):
    assert {o["operationId"] for _, o in operations(document) if "security" not in o} == PUBLIC
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_operations_have_names_of_their_own_and_one_line_of_description(document: dict[str, Any]):
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names))
    assert all(name.replace("_", "").isalpha() for name in names)
    assert all(operation.get("description") for _, operation in operations(document))


def test_every_error_is_described_as_a_problem(document: dict[str, Any]):
    shared = document["components"]["responses"]
    for _, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) < 400 or (operation["operationId"], status) == ("readyz", "503"):
                continue
            assert response == {"$ref": f"#/components/responses/Problem{status}"}
            assert list(shared[f"Problem{status}"]["content"]) == ["application/problem+json"]


def test_every_reference_leads_somewhere(document: dict[str, Any]):
    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for inner in value.values() for found in references(inner)]
        return [found for inner in value for found in references(inner)] if isinstance(value, list) else []

    for reference in set(references(document)):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]


def test_the_served_description_is_the_same(service: Any):
    assert service.client().get("/v1/openapi.json").json() == api().openapi()
