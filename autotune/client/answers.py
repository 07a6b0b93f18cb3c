"""What a server's answer means: a record of ours, or an error of ours."""

import json
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from autotune import __version__
from autotune.errors import AutotuneError, Conflict, InputError, LimitReached, NotAllowed, NotFound, ServerUnavailable

R = TypeVar("R", bound=BaseModel)

_KINDS: dict[int, type[InputError]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: InputError,
    422: InputError,
    429: LimitReached,
}
_TOKEN_ADVICE = "set AUTOTUNE_TOKEN, or put the token into ~/.config/autotune/token (mode 600)"  # noqa: S105 -- advice
_OTHER_VERSION = f"this is {__version__}, use the version that the server has (/healthz tells it)"
_NOT_OURS = "does not answer as vllm-autotune does; is that its address?"


def error_of(response: httpx.Response, address: str) -> AutotuneError:
    """The error that a refusal stands for, with every problem it lists; its body has been read."""
    status = response.status_code
    if response.is_redirect:
        return ServerUnavailable(
            f"{address} sends us on to {response.headers.get('location', 'another address')}; nothing was sent there. "
            "If you trust it, give that address with --server"
        )
    body = _problem(response)
    if body is None:
        return ServerUnavailable(f"{address} answered {status} {response.reason_phrase} and {_NOT_OURS}")
    detail = str(body.get("detail") or body.get("title") or response.reason_phrase)
    if status == 404 and detail == "Not Found":  # of the router, not of a job
        return ServerUnavailable(f"{address} knows no {response.request.url.path}; {_OTHER_VERSION}")
    problems = [str(problem) for problem in body.get("problems") or ()] or [detail]
    if status == 401:
        problems = [f"{address}: {detail}; {_TOKEN_ADVICE}"]
    kind = _KINDS.get(status)
    return kind(problems) if kind else ServerUnavailable(f"{address} answered {status}: {detail}")


def record(response: httpx.Response, model: type[R], address: str) -> R:
    """The record in an answer. Raises ServerUnavailable for another form: a foreign server, or another version."""
    try:
        return model.model_validate_json(response.content)
    except ValidationError as exc:
        raise unreadable(response, address) from exc


def unreadable(response: httpx.Response, address: str) -> ServerUnavailable:
    """The error of an answer that is not in our form."""
    kind = response.headers.get("content-type", "no content type")
    if not kind.startswith("application/json"):
        return ServerUnavailable(f"{address} {_NOT_OURS} (it sent {kind})")
    return ServerUnavailable(f"{address} answers in a form that this version does not know; {_OTHER_VERSION}")


def unreachable(address: str, exc: httpx.TransportError) -> ServerUnavailable:
    """The error of a request that was not answered."""
    reason = str(exc) or type(exc).__name__
    if isinstance(exc, httpx.TimeoutException):
        reason = "no answer in time"
    return ServerUnavailable(f"{address} cannot be reached: {reason}; does `autotune serve` run there?")


def _problem(response: httpx.Response) -> dict[str, Any] | None:
    """The body of an error of ours (RFC 9457); None for what came from somebody else."""
    if not response.headers.get("content-type", "").startswith("application/problem+json"):
        return None
    try:
        body = json.loads(response.content)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
