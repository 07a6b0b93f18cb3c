"""A job in a request's body: JSON with everything that belongs to it, or the text of a job file.

FastAPI would read a body before it asks who sends it; here the token comes first, and a file is parsed in a thread.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import from_json

from autotune.errors import InputError
from autotune.loading import load
from autotune.service.admission import SubmitRequest
from autotune.service.auth import Submitter
from autotune.service.problems import Refused
from autotune.spec import JobSpec

JSON, YAML = "application/json", "application/yaml"
MOST_YAML_BYTES = 65_536  # a job file has a few hundred; a parser in Python takes seconds for a megabyte
SOURCE = "job.yaml"  # names the text in messages, whatever its file is called

JOB_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "JSON, or a job file's text, which may name bundled spaces and workloads only.",
        "content": {
            JSON: {"schema": {"$ref": "#/components/schemas/SubmitRequest"}},
            YAML: {"schema": {"$ref": "#/components/schemas/JobSpec"}},
        },
    }
}


async def sent_job(request: Request, _principal: Submitter) -> SubmitRequest:
    """The job in the body. Raises Refused (413, 415), RequestValidationError or InputError with every problem."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    read = _READERS.get(media_type)
    if read is None:
        raise Refused(415, "Unsupported media type", f"send the job as {' or '.join(_READERS)}, not {media_type!r}")
    return await run_in_threadpool(read, await request.body())


SentJob = Annotated[SubmitRequest, Depends(sent_job)]


def _json(body: bytes) -> SubmitRequest:
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as exc:
        raise InputError(f"the body is not JSON: {exc}") from exc
    try:
        return SubmitRequest.model_validate(value)
    except ValidationError as exc:
        raise RequestValidationError(exc.errors()) from exc


def _yaml(body: bytes) -> SubmitRequest:
    if len(body) > MOST_YAML_BYTES:
        raise Refused(413, "Too large", f"a job file has at most {MOST_YAML_BYTES} bytes; send JSON for a larger job")
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise InputError(f"{SOURCE}: is not UTF-8 text: {exc}") from exc
    return SubmitRequest(job=load(text, JobSpec, source=SOURCE))


_READERS: Mapping[str, Callable[[bytes], SubmitRequest]] = {
    JSON: _json,
    YAML: _yaml,
    "application/x-yaml": _yaml,
    "text/yaml": _yaml,
}
