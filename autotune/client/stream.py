"""A job's events as the server sends them: an event stream that is taken up again where it broke off."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import get_args

import httpx
from pydantic import ValidationError

from autotune.client.address import Address
from autotune.client.answers import error_of, unreachable
from autotune.errors import InputError, NotAllowed
from autotune.submission import EventKind, JobEvent

PATH = "/events"  # below a job's
CONNECT_S = 5.0
SILENCE_S = 45.0  # after which a stream counts as broken: servers send a comment every few seconds
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)  # before the next try; the last one again and again
GIVE_UP_S = 600.0  # without any answer
SILENT_TRIES = 2  # streams that opened and said nothing: somebody on the way keeps them back

_KINDS = frozenset(get_args(EventKind))


class NoStream(Exception):
    """The server, or somebody on the way to it, gives no event stream."""


class NothingMore(Exception):
    """The job has ended, and all of its events have been told."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of an event stream."""

    event: str
    data: str


class Stream:
    """The events of one job, over as many connections as it takes; closed from another thread."""

    def __init__(self, http: httpx.Client, address: Address, path: str, after: int) -> None:
        self._http, self._address, self._path = http, address, path
        self._after = after
        self._over = threading.Event()
        self._open: httpx.Response | None = None

    def close(self) -> None:
        """End the iteration; one that waits for the server is woken up."""
        self._over.set()
        response = self._open
        network = response.extensions.get("network_stream") if response is not None else None
        raw = network.get_extra_info("socket") if network is not None else None
        if raw is not None:
            with contextlib.suppress(OSError):  # closed in the meantime
                raw.shutdown(socket.SHUT_RDWR)

    def wait(self, seconds: float) -> bool:
        """Wait; whether the end has come."""
        return self._over.wait(seconds)

    def __iter__(self) -> Iterator[JobEvent]:
        """Every event once, in order, until there are no more. Raises NoStream, NotAllowed, ServerUnavailable."""
        tries, silent, last = 0, 0, monotonic()
        while not self._over.is_set():
            heard = False
            try:
                for message in self._messages():
                    heard, tries, silent, last = True, 0, 0, monotonic()
                    yield from self._events(message)
            except NothingMore:
                return
            except httpx.TransportError as exc:
                if monotonic() - last > GIVE_UP_S and not self._over.is_set():
                    raise unreachable(self._address.url, exc) from exc
                silent += isinstance(exc, httpx.ReadTimeout) and not heard
                if silent >= SILENT_TRIES:
                    raise NoStream from exc
            self._over.wait(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
            tries += 1

    def _messages(self) -> Iterator[Message]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._after:
            headers["Last-Event-ID"] = str(self._after)
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
        with self._http.stream("GET", self._path + PATH, headers=headers, timeout=timeout) as response:
            self._open = response
            try:
                self._check(response)
                yield from messages(response.iter_lines())
            finally:
                self._open = None

    def _check(self, response: httpx.Response) -> None:
        if response.status_code == httpx.codes.NO_CONTENT:
            raise NothingMore
        if response.is_success:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise NoStream
            return
        response.read()
        error = error_of(response, self._address.url)
        if isinstance(error, NotAllowed):
            raise error
        if response.status_code == 404 or (isinstance(error, InputError) and response.status_code != 429):
            raise NoStream from error
        raise httpx.RemoteProtocolError(str(error))  # as if the connection had failed: it is tried again

    def _events(self, message: Message) -> Iterator[JobEvent]:
        """The event in a message; others, such as signs of life, are none."""
        if message.event not in _KINDS:
            return
        try:
            event = JobEvent.model_validate(json.loads(message.data))
        except (ValueError, ValidationError) as exc:
            raise NoStream from exc
        if event.id > self._after:
            self._after = event.id
            yield event


def messages(lines: Iterable[str]) -> Iterator[Message]:
    """The messages of an event stream; comments too, as empty ones: they are signs of life."""
    event, data = "", list[str]()
    for line in lines:
        if not line:
            if data:
                yield Message(event, "\n".join(data))
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "":
                yield Message("", "")
            case "event":
                event = value
            case "data":
                data.append(value)
            case _:  # id is in the data, retry is ours to choose
                pass
