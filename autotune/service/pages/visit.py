"""Who looks at a page, and what a form of theirs has to carry."""

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

from fastapi import Depends, Request
from fastapi.responses import Response

from autotune.access import Principal, Role
from autotune.service.auth import (
    COOKIE,
    CSRF_FIELD,
    LOCAL_USER,
    SAFE_METHODS,
    check_csrf,
    csrf_token,
    has_tokens,
    open_session,
    session_principal,
    set_cookie,
)
from autotune.service.pages.web import Elsewhere, FromElsewhere, html
from autotune.service.problems import Refused
from autotune.service.state import State, state_of


@dataclass(frozen=True, slots=True)
class Visit:
    """A request for a page by somebody who may see it."""

    request: Request
    principal: Principal
    key: str  # of the browser's session
    is_new: bool = False  # the browser has no cookie yet

    @property
    def state(self) -> State:
        """The application's state."""
        return state_of(self.request)

    @property
    def csrf(self) -> str:
        """What the forms of this visit carry."""
        return csrf_token(self.key)

    @property
    def may_submit(self) -> bool:
        """Whether forms that change something are shown."""
        return self.principal.role.includes(Role.SUBMITTER)

    @property
    def sees_tenants(self) -> bool:
        """Whether jobs of several tenants are to be told apart."""
        return self.principal.scope is None and bool(self.principal.token_id)

    def need(self, role: Role) -> None:
        """Raise Refused (403) for somebody of a lower role."""
        if not self.principal.role.includes(role):
            raise Refused(403, "Forbidden", f"this needs the role {role}; your token has {self.principal.role}")

    def page(self, template: str, status: int = 200, **context: Any) -> Response:
        """The rendered page; a new browser gets its session with it."""
        response = html(template, status, visit=self, **context)
        if self.is_new:
            set_cookie(response, self.request, self.key)
        return response


def visitor(request: Request) -> Visit:
    """Whoever visits: a logged-in browser, or the local user of a service without tokens. Others go to the login."""
    state = state_of(request)
    key = request.cookies.get(COOKIE)
    principal = session_principal(state, key) if key else None
    if key and principal is not None:
        return Visit(request, principal, key)
    ask_again_from_here(request)
    if has_tokens(state):
        raise Elsewhere(f"/login?{urlencode({'next': _address(request)})}")
    return Visit(request, LOCAL_USER, open_session(state, ""), is_new=True)


def ask_again_from_here(request: Request) -> None:
    """Raise FromElsewhere for a link of another site: the strict cookie comes only when our own page asks."""
    is_link = request.method in SAFE_METHODS and request.headers.get("sec-fetch-site") == "cross-site"
    if is_link and COOKIE not in request.cookies:
        raise FromElsewhere(_address(request))


def _address(request: Request) -> str:
    if request.method not in SAFE_METHODS:
        return "/"
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def local_address(text: str) -> str:
    """The address if it is a path of this site, else the first page."""
    parts = urlsplit(text)
    is_path = text.startswith("/") and not text.startswith("//") and not (parts.scheme or parts.netloc)
    return text if is_path and "\\" not in text and text.isprintable() else "/"


Fields = dict[str, list[str]]


async def sent_fields(request: Request) -> Fields:
    """A form's text fields, as they were sent."""
    form = await request.form()
    return {name: [value for value in form.getlist(name) if isinstance(value, str)] for name in form}


def checked(visit: Annotated[Visit, Depends(visitor)], fields: Annotated[Fields, Depends(sent_fields)]) -> Visit:
    """A visit that sends a form of our own. Raises Refused (403) for one without its session's token."""
    check_csrf(visit.key, only(fields, CSRF_FIELD))
    return visit


def only(fields: Fields, name: str) -> str:
    """The first value of a field, without spaces around it; empty when it was not sent."""
    values = fields.get(name)
    return values[0].strip() if values else ""


Visitor = Annotated[Visit, Depends(visitor)]
Sender = Annotated[Visit, Depends(checked)]
Sent = Annotated[Fields, Depends(sent_fields)]
