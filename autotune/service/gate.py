"""What every request has to pass before it is looked at: its host, its origin, its size, and its client's rate.

An ASGI middleware, so that pages, API and dashboard stand behind the same gate.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autotune.access import secret_hash, split_token
from autotune.service.auth import PROVEN, SAFE_METHODS
from autotune.service.problems import Problem, Tell
from autotune.settings import ServiceSettings
from autotune.telemetry import get_logger

log = get_logger()

MOST_CLIENTS = 10_000  # whose rates are remembered

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)

_CRASHED = Problem(title="Internal error", status=500, detail="the server has a defect; its log says more")


class Rates:
    """A token bucket per client."""

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (left, at)

    def wait_s(self, client: str) -> float:
        """Take one from the client's bucket; how long to wait until there is one, 0 when there was."""
        now = self._clock()
        left, at = self._buckets.pop(client, (float(self._burst), now))
        left = min(self._burst, left + (now - at) * self._per_s)
        taken = left >= 1
        self._buckets[client] = (left - 1 if taken else left, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - left) / self._per_s


class TooLarge(HTTPException):
    """The body is larger than allowed. Whoever reads it passes on what HTTP knows, and hides other exceptions."""


class Gate:
    """The middleware."""

    def __init__(self, app: ASGIApp, *, settings: ServiceSettings, hosts: frozenset[str], tell: Tell) -> None:
        self._app, self._settings, self._hosts, self._tell = app, settings, hosts, tell
        self._rates = Rates(settings.rate_per_s, settings.rate_burst)
        self._proven: OrderedDict[str, None] = OrderedDict()  # hashes of tokens that were good when they were used last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer with what is wrong about it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem, extra = self._refusal(scope, headers)
        answering = _Hardened(send)
        if problem is not None:
            await self._tell(scope, problem, extra)(scope, receive, answering)
            return
        proven = scope[PROVEN] = []
        try:
            await self._app(scope, self._bounded(receive), answering)
        except Exception:  # the last handler: whatever one request does, its client hears of it
            log.exception("request_crashed", method=scope["method"], path=scope["path"])
            if answering.has_begun:
                raise
            await self._tell(scope, _CRASHED, {})(scope, receive, answering)
        finally:
            self._remember(_token(headers), is_good=bool(proven))

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[Problem | None, dict[str, str]]:
        host = _name(headers.get("host", ""))
        if host not in self._hosts:
            detail = f"this service does not answer for the host {host!r}; its operator can add it to allowed_hosts"
            return Problem(title="Misdirected request", status=421, detail=detail), {}
        origin = headers.get("origin")
        if scope["method"] not in SAFE_METHODS and origin is not None and not self._is_ours(origin, headers):
            return Problem(title="Forbidden", status=403, detail="the request comes from another site"), {}
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._settings.max_request_bytes:
            return self._too_large, {}
        wait_s = self._rates.wait_s(self._client(scope, headers))
        if wait_s > 0:
            detail = f"more than {self._settings.rate_per_s:g} requests per second; wait {wait_s:.1f} s"
            return Problem(title="Too many requests", status=429, detail=detail), {"Retry-After": str(int(wait_s) + 1)}
        return None, {}

    def _is_ours(self, origin: str, headers: Headers) -> bool:
        return _split(origin).netloc == headers.get("host")

    def _client(self, scope: Scope, headers: Headers) -> str:
        """Who is counted together: the bearer of a token that is known to be good, else an address."""
        token = _token(headers)
        return f"token:{token}" if token in self._proven else f"address:{(scope.get('client') or ('', 0))[0]}"

    def _remember(self, token: str | None, *, is_good: bool) -> None:
        """A token that is no longer good, or that nobody has looked at, is none to the next request."""
        if token is None:
            return
        self._proven.pop(token, None)
        if is_good:
            self._proven[token] = None
            if len(self._proven) > MOST_CLIENTS:
                self._proven.popitem(last=False)

    @property
    def _too_large(self) -> Problem:
        detail = f"the body has more than {self._settings.max_request_bytes} bytes"
        return Problem(title="Too large", status=413, detail=detail)

    def _bounded(self, receive: Receive) -> Receive:
        """For bodies that do not say how large they are: what is beyond the limit is never read."""
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._settings.max_request_bytes:
                raise TooLarge(413, self._too_large.detail)
            return message

        return bounded


def _token(headers: Headers) -> str | None:
    """The hash of the token that a request carries, good or not."""
    text = headers.get("authorization", "").partition(" ")[2].strip()
    return secret_hash(text) if split_token(text) else None


def _name(host: str) -> str:
    """`[::1]:8000` -> `::1`; empty for what is no host."""
    return (_split(f"//{host}").hostname or "") if host else ""


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:  # such as a bracket that is never closed
        return urlsplit("")


class _Hardened:
    """Sends an answer with the headers that all have."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            present = {name.lower() for name, _ in message["headers"]}
            added = [(name, value) for name, value in SECURITY_HEADERS if name not in present]
            message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)
