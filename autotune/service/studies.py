"""Optuna dashboard at its usual paths, behind the service's own door: for reading, and only the caller's studies."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from autotune.access import Principal
from autotune.errors import AutotuneError
from autotune.service.auth import authenticate
from autotune.service.problems import Refused, Tell, of_error
from autotune.service.state import State, state_of
from autotune.store import url_for_optuna
from autotune.study.dashboard import Dashboard
from autotune.study.reader import VISIBLE

_PREFIXES = ("/dashboard", "/api/", "/static/", "/artifacts/", "/csv/", "/favicon.ico", "/incompatible-rdb-schema")
_OF_A_JOB = "/dashboard/jobs/"  # ours: leads to the study of a job
_SEE_OTHER = 303


class Studies:
    """An ASGI middleware that answers what the dashboard's page asks for, and passes everything else on."""

    def __init__(self, app: ASGIApp, *, url: str, artifacts: Path, tell: Tell) -> None:
        self._app, self._tell = app, tell
        self._url, self._artifacts = url, artifacts
        self._dashboard: Dashboard | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http" or not scope["path"].startswith(_PREFIXES):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            told = await run_in_threadpool(self._prepared, request)
        except Refused as exc:
            await self._turned_away(request, exc)(scope, receive, send)
            return
        except AutotuneError as exc:
            await self._tell(scope, of_error(exc), {})(scope, receive, send)
            return
        if isinstance(told, Response):
            await told(scope, receive, send)
            return
        dashboard, visible = told
        await dashboard.asgi({**scope, VISIBLE: visible}, receive, send)

    def _prepared(self, request: Request) -> tuple[Dashboard, Any] | Response:
        """The dashboard and what the caller may see in it, or where to go instead."""
        principal, state = authenticate(request), state_of(request)
        if self._dashboard is None:  # at the first request: opening it takes a second, and needs the database
            self._dashboard = Dashboard(url_for_optuna(self._url), self._artifacts)
        path = request.url.path
        if path.startswith(_OF_A_JOB):
            return self._study_of(path.removeprefix(_OF_A_JOB), state, principal, self._dashboard)
        return self._dashboard, _visible(state, principal)

    def _study_of(self, job_id: str, state: State, principal: Principal, dashboard: Dashboard) -> Response:
        state.store.submitted(job_id, tenant=principal.scope, now=state.now())
        study = dashboard.study_id(job_id)
        place = "/dashboard" if study is None else f"/dashboard/studies/{study}"
        return RedirectResponse(place, status_code=_SEE_OTHER)

    def _turned_away(self, request: Request, exc: Refused) -> Response:
        """A person is led to the login; a program is told."""
        if "text/html" in request.headers.get("accept", "") and exc.status == 401:
            return RedirectResponse(f"/login?next={quote(request.url.path)}", status_code=_SEE_OTHER)
        return self._tell(request.scope, exc.problem, exc.headers)


def _visible(state: State, principal: Principal) -> Any:
    return None if principal.scope is None else state.store.job_ids(principal.scope)
