"""What every request needs: the database, the operator's settings, and the clock."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from fastapi import Request

from autotune.service.hub import Hub
from autotune.service.meter import Meter
from autotune.settings import Settings
from autotune.store import SharedStore

OPEN = timedelta(seconds=1)


class Openness:
    """Whether there is a token, without asking the database for every request.

    Tokens are revoked and never deleted, so that there is one stays true; that there is none is believed for a second.
    """

    def __init__(self, store: SharedStore, now: Callable[[], datetime]) -> None:
        self._store, self._now = store, now
        self._has_tokens = False
        self._asked_at: datetime | None = None

    def has_tokens(self) -> bool:
        """Whether anybody has to show one. Raises StoreError."""
        now = self._now()
        if not self._has_tokens and (self._asked_at is None or abs(now - self._asked_at) >= OPEN):
            self._has_tokens = self._store.has_tokens()
            self._asked_at = now
        return self._has_tokens


@dataclass(frozen=True, slots=True)
class State:
    """What the application was made with."""

    store: SharedStore
    settings: Settings
    now: Callable[[], datetime]
    hosts: frozenset[str]  # names that requests may come for, without ports
    hub: Hub
    meter: Meter
    openness: Openness


def state_of(request: Request) -> State:
    """The state of the application that serves a request."""
    state: State = request.app.state.autotune
    return state
