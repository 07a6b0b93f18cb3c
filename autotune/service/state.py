"""What every request needs: the database, the operator's settings, and the clock."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from fastapi import Request

from autotune.service.hub import Hub
from autotune.service.meter import Meter
from autotune.settings import Settings
from autotune.store import SharedStore


@dataclass(frozen=True, slots=True)
class State:
    """What the application was made with."""

    store: SharedStore
    settings: Settings
    now: Callable[[], datetime]
    hosts: frozenset[str]  # names that requests may come for, without ports
    hub: Hub
    meter: Meter


def state_of(request: Request) -> State:
    """The state of the application that serves a request."""
    state: State = request.app.state.autotune
    return state
