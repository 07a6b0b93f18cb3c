"""Small requests to an engine: what is sent, and to whom."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from autotune.engines.loopback import Server, request
from autotune.errors import EnvironmentProblem
from autotune.trial.endpoint import find_target


@contextmanager
def listening(status: int, **headers: str) -> Iterator[tuple[str, list[str | None]]]:
    """A server that gives one answer to all, and the keys that it was shown."""
    shown: list[str | None] = []

    class Says(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Says) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", shown
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_told_and_takes_the_key_nowhere(status: int) -> None:
    with listening(200) as (other, stolen), listening(status, Location=other) as (url, shown):
        assert request(Server(url, "m", "secret"), "/v1/models").status == status
        with pytest.raises(EnvironmentProblem, match="redirects are not followed"):
            find_target(url, model=None, api_key="secret")
        assert shown == ["Bearer secret"] * 2
        assert stolen == []


def test_without_a_key_none_is_sent() -> None:
    with listening(200) as (url, shown):
        request(Server(url, "m", ""), "/metrics")
    assert shown == [None]
