"""Small HTTP requests to an engine, never through a proxy, and never sent on to another address."""

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any


class _Stay(urllib.request.HTTPRedirectHandler):
    """Redirects are answers like others: who follows one takes the key to whatever host it names."""

    def redirect_request(self, *_: Any) -> None:
        """None: do not follow."""


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)


@dataclass(frozen=True, slots=True)
class Server:
    """Where an engine listens. `base_url` is `http://127.0.0.1:PORT`, `model` the name it serves."""

    base_url: str
    model: str
    api_key: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status with its body; status 0 when nothing answered, with the reason as the body."""

    status: int
    body: str


def request(server: Server, path: str, *, document: dict[str, Any] | None = None, timeout_s: float = 5.0) -> Answer:
    """GET `path`, or POST `document` to it as JSON. No answer is an Answer too: nothing is raised."""
    headers = {"Content-Type": "application/json"}
    if server.api_key:
        headers["Authorization"] = f"Bearer {server.api_key}"
    data = None if document is None else json.dumps(document).encode()
    try:
        question = urllib.request.Request(server.base_url + path, data=data, headers=headers)  # noqa: S310 - loopback
        with _OPENER.open(question, timeout=timeout_s) as reply:
            return Answer(reply.status, reply.read().decode(errors="replace"))
    except urllib.error.HTTPError as problem:
        with problem:
            return Answer(problem.code, problem.read().decode(errors="replace"))
    except (OSError, http.client.HTTPException) as problem:  # refused, timed out, broken off
        return Answer(0, str(problem) or type(problem).__name__)
