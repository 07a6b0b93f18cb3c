"""A database that goes away for a while: which errors say so, and how long a call is tried again."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from autotune.telemetry import get_logger

log = get_logger()

Result = TypeVar("Result")

RETRY_S = 60.0  # a server that restarts is back by then
FIRST_PAUSE_S = 0.1
MOST_PAUSE_S = 5.0

_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_PASSING_STATES = frozenset(
    {
        "40001",  # could not serialize
        "40P01",  # deadlock: the other one went on
        "53300",  # too many connections
        "55P03",  # a lock was not to be had in time
        "57P01",  # the backend was terminated
        "57P02",  # another backend crashed
        "57P03",  # the server starts or stops
    }
)
_CONNECTION_STATES = "08"  # class of PostgreSQL's connection errors


@dataclass(frozen=True, slots=True)
class Patience:
    """How the store waits between two tries; tests pass a clock of their own."""

    pause: Callable[[float], None]
    clock: Callable[[], float]
    retry_s: float = RETRY_S


def was_cut(exc: DBAPIError) -> bool:
    """Whether an open connection was lost, or another process holds the lock: the next try may succeed."""
    code = getattr(exc.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _LOCKED  # the low byte is the error, the rest its variety
    state = getattr(exc.orig, "sqlstate", None) or ""
    return exc.connection_invalidated or state in _PASSING_STATES or state.startswith(_CONNECTION_STATES)


def is_away(exc: DBAPIError) -> bool:
    """As `was_cut`, or the server cannot be reached; then PostgreSQL's driver has no state to tell."""
    if was_cut(exc):
        return True
    is_connecting = isinstance(exc, OperationalError | InterfaceError) and hasattr(exc.orig, "sqlstate")
    return is_connecting and getattr(exc.orig, "sqlstate", None) is None


def keep_trying(
    call: Callable[[], Result], passing: Callable[[DBAPIError], bool], patience: Patience, database: str
) -> Result:
    """What `call` returns, tried again with growing pauses for a while where its errors are passing ones."""
    deadline_s = patience.clock() + patience.retry_s
    wait_s = FIRST_PAUSE_S
    is_told = False
    while True:
        try:
            return call()
        except DBAPIError as exc:
            if not passing(exc) or patience.clock() + wait_s > deadline_s:
                raise
            if not is_told:
                log.warning("database_lost", database=database, problem=str(exc.orig))
                is_told = True
        patience.pause(wait_s)
        wait_s = min(2 * wait_s, MOST_PAUSE_S)
