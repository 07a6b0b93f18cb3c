"""Logging in with a token, and out."""

import secrets

from fastapi import APIRouter, Request
from fastapi.responses import Response

from autotune.access import secret_hash
from autotune.service.auth import (
    COOKIE,
    CSRF_FIELD,
    bearer,
    check_csrf,
    csrf_token,
    has_tokens,
    open_session,
    session_principal,
    set_cookie,
)
from autotune.service.pages.visit import Sender, Sent, ask_again_from_here, local_address, only
from autotune.service.pages.web import PageRoute, html, see_other
from autotune.service.problems import Refused
from autotune.service.state import state_of

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/login")
def login_page(request: Request, next: str = "/") -> Response:
    """The form for a token; whoever needs none is led on."""
    ask_again_from_here(request)
    state, key = state_of(request), request.cookies.get(COOKIE)
    if not has_tokens(state) or (key and session_principal(state, key)):
        return see_other(local_address(next))
    return _form(request, key or secrets.token_urlsafe(32), next)


@router.post("/login")
def log_in(request: Request, fields: Sent) -> Response:
    """Begin a session for a token. Its key is a new one, so that nobody can have planted it."""
    state, key = state_of(request), request.cookies.get(COOKIE, "")
    check_csrf(key, only(fields, CSRF_FIELD))
    goal = only(fields, "next")
    try:
        principal = bearer(state, only(fields, "token"))
    except Refused as exc:
        return _form(request, key, goal, error=f"{exc.detail[0].upper()}{exc.detail[1:]}.")
    state.store.end_session(secret_hash(key))
    response = see_other(local_address(goal))
    set_cookie(response, request, open_session(state, principal.token_id))
    return response


@router.post("/logout")
def log_out(visit: Sender) -> Response:
    """End the session, here and in the browser."""
    visit.state.store.end_session(secret_hash(visit.key))
    response = see_other("/login")
    response.delete_cookie(COOKIE)
    return response


def _form(request: Request, key: str, goal: str, error: str = "") -> Response:
    page = html("login.html", 401 if error else 200, csrf=csrf_token(key), goal=local_address(goal), error=error)
    set_cookie(page, request, key)  # stands for nobody until a token was shown: only the form's token hangs on it
    return page
