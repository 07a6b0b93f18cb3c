"""Whether the service lives, and whether it can do its work."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from autotune import __version__
from autotune.errors import StoreError
from autotune.records import Record
from autotune.service.state import State, state_of

router = APIRouter(tags=["health"])

WORKER_SILENCE = timedelta(seconds=60)  # after which a worker counts as gone


class Health(Record):
    """The service answers."""

    status: str = "ok"
    version: str = __version__


class Readiness(Record):
    """What the service can do now."""

    ready: bool
    database: bool
    workers: int  # that were seen within a minute; without one jobs wait


@router.get("/healthz")
async def healthz() -> Health:
    """The process answers; nothing else is looked at, not even for a free thread."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}})
def readyz(state: Annotated[State, Depends(state_of)], response: Response) -> Readiness:
    """The database answers. Without a worker the service is ready all the same: jobs can be submitted and wait."""
    try:
        alive = workers_alive(state)
    except StoreError:
        response.status_code = 503
        return Readiness(ready=False, database=False, workers=0)
    return Readiness(ready=True, database=True, workers=alive)


def workers_alive(state: State) -> int:
    """How many workers were seen within a minute."""
    return sum(state.now() - sign.seen_at < WORKER_SILENCE for sign in state.store.workers())
