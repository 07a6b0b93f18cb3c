"""Errors as `application/problem+json` (RFC 9457): what happened, what to do, and every problem of the input."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Scope

from autotune.errors import AutotuneError, Conflict, EnvironmentProblem, InputError, LimitReached, NotFound, StoreError
from autotune.records import Record
from autotune.service.meter import route_of
from autotune.telemetry import get_logger

log = get_logger()

MEDIA_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[AutotuneError], int, str], ...] = (  # the first that fits
    (NotFound, 404, "Not found"),
    (Conflict, 409, "Conflict"),
    (LimitReached, 429, "Limit reached"),
    (InputError, 422, "The input is wrong"),
    (EnvironmentProblem, 503, "This server cannot do it"),
    (StoreError, 503, "The database cannot be used"),
)


class Problem(Record):
    """The body of every error."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    problems: tuple[str, ...] = ()  # each with its place, such as `job.sla.p99_ttft_ms: must be greater than 0`


class Refused(Exception):
    """A request that is refused before anybody works on it."""

    def __init__(self, status: int, title: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.title, self.detail, self.headers = status, title, detail, headers or {}

    @property
    def problem(self) -> Problem:
        """What is told of it."""
        return Problem(title=self.title, status=self.status, detail=self.detail)


def answer(problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """The response that tells a problem."""
    return JSONResponse(
        problem.model_dump(mode="json"), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers
    )


Tell = Callable[[Scope, Problem, dict[str, str]], Response]  # the answer to a request, with these headers


def as_json(_scope: Scope, problem: Problem, headers: dict[str, str]) -> Response:
    """What programs are told, whatever they asked for."""
    return answer(problem, headers)


def of_error(exc: AutotuneError) -> Problem:
    """What an error of ours says. What is wrong with the database is told without its address."""
    status, title = next((status, title) for kind, status, title in _STATUS if isinstance(exc, kind))
    if isinstance(exc, StoreError):
        return Problem(title=title, status=status, detail="the database cannot be used at the moment; try again later")
    problems = exc.problems if isinstance(exc, InputError) else ()
    return Problem(title=title, status=status, detail=str(exc), problems=problems)


def install(app: FastAPI, tell: Tell = as_json) -> None:
    """Let every error of the application leave as a problem."""

    async def known(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, AutotuneError)
        if isinstance(exc, StoreError):
            log.warning("database_failed", problem=str(exc))
        return tell(request.scope, of_error(exc), {})

    async def refused(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, Refused)
        return tell(request.scope, exc.problem, exc.headers)

    async def invalid(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        problems = tuple(_told(error) for error in exc.errors())
        problem = Problem(title="The input is wrong", status=422, detail="; ".join(problems), problems=problems)
        return tell(request.scope, problem, {})

    async def plain(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        problem = Problem(title=_title(exc.status_code), status=exc.status_code, detail=str(exc.detail))
        headers = dict(exc.headers or {})
        described = request.app.openapi()["paths"].get(route_of(request.scope))
        if exc.status_code == 405 and described:  # the router names the methods of the first of an address's routes
            headers["Allow"] = ", ".join(method.upper() for method in described)
        return tell(request.scope, problem, headers)

    app.add_exception_handler(AutotuneError, known)
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, plain)


def _title(status: int) -> str:
    return "Too large" if status == 413 else HTTPStatus(status).phrase.capitalize()


def _told(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path", "header"))
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
