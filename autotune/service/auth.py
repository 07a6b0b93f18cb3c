"""Who makes a request: a bearer token, a browser's session, or the local user while there are no tokens."""

import hmac
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.responses import Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from autotune.access import LOCAL_TENANT, Principal, Role, Token, WebSession, secret_hash, split_token
from autotune.service.problems import Refused
from autotune.service.state import State, state_of

COOKIE = "autotune_session"
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf_token"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

PROVEN = "autotune.proven"  # in a request's scope: the hash of its token, once that was found to be good

LOCAL_USER = Principal(tenant=LOCAL_TENANT, role=Role.ADMIN, name="local")
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_BEARER = HTTPBearer(  # for the API's description; `authenticate` reads the header itself
    scheme_name="token",
    description="A token of `autotune token create`. A service without tokens, on loopback, needs none.",
    auto_error=False,
)


def bearer(state: State, text: str) -> Principal:
    """Whom a token stands for. Raises Refused (401) for one that is unknown, expired or revoked."""
    parts = split_token(text)
    token = state.store.token(parts[0]) if parts else None
    now = state.now()
    if parts is None or token is None or not token.matches(parts[1]) or not token.is_valid(now):
        raise Refused(401, "Not authenticated", "the token is unknown, expired or revoked", _CHALLENGE)
    _note_use(state, token)
    return token.principal


def _note_use(state: State, token: Token) -> None:
    """Once a minute: a reading request does not write each time."""
    if token.last_used_at is None or state.now() - token.last_used_at >= timedelta(minutes=1):
        state.store.used_token(token.id, now=state.now())


def has_tokens(state: State) -> bool:
    """Whether anybody has to show a token. Without any the service listens on loopback only, for its one user."""
    return state.openness.has_tokens()


def session_principal(state: State, key: str) -> Principal | None:
    """Whom a browser's session stands for; None when it is over."""
    session = state.store.web_session(secret_hash(key))
    if session is None or session.expires_at <= state.now():
        return None
    if not session.token_id:
        return None if has_tokens(state) else LOCAL_USER
    token = state.store.token(session.token_id)
    return token.principal if token is not None and token.is_valid(state.now()) else None


def open_session(state: State, token_id: str) -> str:
    """Begin a browser's session; its key, which only the cookie holds."""
    key, now = secrets.token_urlsafe(32), state.now()
    expires_at = now + timedelta(hours=state.settings.service.session_hours)
    state.store.add_session(
        WebSession(key_hash=secret_hash(key), token_id=token_id, created_at=now, expires_at=expires_at)
    )
    return key


def set_cookie(response: Response, request: Request, key: str) -> None:
    """Give the browser its session: out of reach of scripts, and sent by this site's own pages only."""
    service = state_of(request).settings.service
    secure = service.https or request.url.scheme == "https"
    max_age_s = int(service.session_hours * 3600)
    response.set_cookie(COOKIE, key, max_age=max_age_s, httponly=True, samesite="strict", secure=secure)


def csrf_token(key: str) -> str:
    """What a form of a session has to send back: derived from the cookie, which no other site can read."""
    return secret_hash("csrf:" + key)


def check_csrf(key: str, sent: str | None) -> None:
    """Raise Refused (403) unless the request carries its session's token."""
    if sent is None or not hmac.compare_digest(csrf_token(key), sent):
        raise Refused(403, "Forbidden", "the form has expired or comes from another site; load the page again")


def authenticate(request: Request) -> Principal:
    """Whoever makes the request. Raises Refused (401, 403)."""
    state = state_of(request)
    header = request.headers.get("authorization")
    if header is not None:
        scheme, _, text = header.partition(" ")
        if scheme.lower() != "bearer":
            raise Refused(401, "Not authenticated", "use the header `Authorization: Bearer TOKEN`", _CHALLENGE)
        bearer_of = bearer(state, text.strip())
        request.scope.get(PROVEN, []).append(secret_hash(text.strip()))
        return bearer_of
    key = request.cookies.get(COOKIE)
    principal = session_principal(state, key) if key else None
    if key and principal is not None:
        if request.method not in SAFE_METHODS:
            check_csrf(key, request.headers.get(CSRF_HEADER))
        return principal
    if has_tokens(state):
        raise Refused(
            401, "Not authenticated", "send a token: `Authorization: Bearer TOKEN`, or log in at /login", _CHALLENGE
        )
    return LOCAL_USER


def at_least(role: Role) -> Callable[..., Principal]:
    """A dependency: the request's principal, if he has at least this role. Raises Refused (403)."""

    def allowed(
        request: Request, _described: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None
    ) -> Principal:
        principal = authenticate(request)
        if not principal.role.includes(role):
            raise Refused(403, "Forbidden", f"this needs the role {role}; your token has {principal.role}")
        return principal

    return allowed


Viewer = Annotated[Principal, Depends(at_least(Role.VIEWER))]
Submitter = Annotated[Principal, Depends(at_least(Role.SUBMITTER))]
Admin = Annotated[Principal, Depends(at_least(Role.ADMIN))]
