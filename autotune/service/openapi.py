"""The description of the API: what FastAPI knows, and what every operation has in common.

Problems are `application/problem+json`, which FastAPI would describe as plain JSON, and the gate before the routers
refuses things that no route says.
"""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from autotune.service.admission import SubmitRequest
from autotune.service.problems import MEDIA_TYPE, Problem
from autotune.submission import JobEvent

REFERENCE = "#/components/schemas/{model}"

PROBLEMS = {
    "401": "No token, or one that is unknown, expired or revoked",
    "403": "The token's role does not allow it, or the request comes from another site",
    "404": "There is no such thing, or it belongs to another tenant",
    "405": "The address has no such method",
    "409": "The job is in no state for it, or the idempotency key was used for another job",
    "413": "The body is too large",
    "415": "The body is of another media type",
    "421": "The service does not answer for this host name",
    "422": "The input is wrong: `problems` names each place",
    "429": "Too many requests, or the tenant has all that it may have",
    "500": "A defect of the server",
    "503": "The database or the engine cannot be used at the moment",
}
_OF_ALL = ("421", "429", "500")
_WITH_TOKEN = ("401", "403", "503")
_NOT_PROBLEMS = {("/readyz", "503")}
_METHODS = ("get", "post", "put", "patch", "delete")


def install(app: FastAPI) -> None:
    """Let the application describe itself so."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # as FastAPI's documentation does


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        separate_input_output_schemas=app.separate_input_output_schemas,
    )
    schemas = document["components"]["schemas"]
    for record in (SubmitRequest, Problem, JobEvent):  # of bodies that FastAPI does not know
        schemas.update(_schemas(record.model_json_schema(ref_template=REFERENCE), record.__name__))
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own form of a problem
        schemas.pop(name, None)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    document["components"]["responses"] = {f"Problem{status}": _problem(text) for status, text in PROBLEMS.items()}
    for path, operation in _operations(document):
        _complete(path, operation)
    return document


def _schemas(schema: dict[str, Any], name: str) -> dict[str, Any]:
    inner = schema.pop("$defs", {})
    return {**inner, name: schema}


def _problem(text: str) -> dict[str, Any]:
    return {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": REFERENCE.format(model="Problem")}}}}


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        yield from ((path, item[method]) for method in _METHODS if method in item)


def _complete(path: str, operation: dict[str, Any]) -> None:
    """Name every problem that an operation can answer with."""
    responses = operation["responses"]
    common = (*_OF_ALL, *(_WITH_TOKEN if "security" in operation else ()))
    told = {status for status in responses if status in PROBLEMS and (path, status) not in _NOT_PROBLEMS}
    for status in {*told, *common}:
        if (path, status) not in _NOT_PROBLEMS:
            responses[status] = {"$ref": f"#/components/responses/Problem{status}"}
    operation["responses"] = dict(sorted(responses.items()))
