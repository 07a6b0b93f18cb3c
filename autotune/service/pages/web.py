"""From a template to a response, and errors as pages."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Scope

from autotune import __version__
from autotune.errors import AutotuneError
from autotune.service.auth import CSRF_FIELD
from autotune.service.pages.words import FILTERS, STATUS_MARKS
from autotune.service.problems import Problem, Refused, answer, of_error

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",  # what a tenant sees, and the form's token
}

_SEE_OTHER = 303  # the browser asks for the new address with GET

templates = Environment(
    loader=PackageLoader("autotune.service"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
templates.filters.update(FILTERS)
templates.globals.update(version=__version__, csrf_field=CSRF_FIELD, status_marks=STATUS_MARKS, visit=None)


class Elsewhere(Exception):
    """The visitor is to go to another address first."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.address = address


class FromElsewhere(Elsewhere):
    """A link of another site was followed, with which browsers send no strict cookie: our own page asks once more."""


def html(template: str, status: int = 200, **context: Any) -> Response:
    """A rendered template with the headers of every page."""
    return HTMLResponse(templates.get_template(template).render(context), status_code=status, headers=HEADERS)


def see_other(address: str) -> Response:
    """Send the browser to a local address after something was done."""
    return RedirectResponse(address, status_code=_SEE_OTHER)


class PageRoute(APIRoute):
    """A route whose errors people read: on a page, or by being led to the login."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler with errors turned into pages."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except FromElsewhere as exc:
                return html("again.html", address=exc.address)
            except Elsewhere as exc:
                return see_other(exc.address)
            except (Refused, AutotuneError, HTTPException, RequestValidationError) as exc:
                return error_page(*_told(exc))

        return handled


def _told(exc: Exception) -> tuple[int, str, str]:
    """Status, title and detail of an error."""
    match exc:
        case Refused():
            return exc.status, exc.title, exc.detail
        case AutotuneError():
            problem = of_error(exc)
            return problem.status, problem.title, problem.detail
        case HTTPException():
            return exc.status_code, "The request is wrong", str(exc.detail)
        case _:
            return 422, "The address is wrong", "it has values that this page does not know"


def told(scope: Scope, problem: Problem, headers: dict[str, str]) -> Response:
    """A problem that no route tells: a page for a browser that goes to an address of the pages, else as the API's."""
    wants_page = "text/html" in Headers(scope=scope).get("accept", "") and not scope["path"].startswith("/v1/")
    if not wants_page:
        return answer(problem, headers)
    page = error_page(problem.status, problem.title, problem.detail)
    page.headers.update(headers)
    return page


def error_page(status: int, title: str, detail: str) -> Response:
    """A page that says what is wrong."""
    return html("error.html", status, title=title, detail=detail, code=status)
