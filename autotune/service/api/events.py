"""What happens to a job, as server-sent events."""

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from autotune.errors import NotFound, StoreError
from autotune.results import ENDED
from autotune.service.api.common import Service, ShownJob
from autotune.service.auth import Viewer, authenticate
from autotune.service.problems import Refused
from autotune.service.state import state_of
from autotune.submission import JobEvent, JobProgress

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"], responses={404: {}})

EVENT_STREAM = "text/event-stream"
HEARTBEAT_S = 15.0  # proxies give up on a connection that is silent for a minute
RETRY_MS = 2000  # after which a browser asks again
MOST_ID = 2**63 - 1  # what a column of the database holds

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "A stream of events", "content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
    204: {"description": "The job has ended, and there is nothing after that event: do not ask again"},
}


def position(
    after: Annotated[int | None, Query(ge=0, le=MOST_ID, description="Begin after this event.")] = None,
    last_event_id: Annotated[str | None, Header(description="As `after`, of a browser that asks again.")] = None,
) -> int:
    """The id of the last event that the caller has; the header of a browser that comes back wins. 0: none."""
    if last_event_id is None:
        return after or 0
    is_number = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 20
    if not is_number or int(last_event_id) > MOST_ID:
        raise Refused(422, "The input is wrong", "Last-Event-ID: is not the id of an event of this server")
    return int(last_event_id)


@router.get("/events", response_class=Response, responses=_STREAM)
async def watch_events(
    request: Request,
    state: Service,
    principal: Viewer,
    shown: ShownJob,
    after: Annotated[int, Depends(position)],
) -> Response:
    """Events from the beginning or after an id, then those to come, until the job has finished.

    Every event of the job's history has an id. `progress` events have none and are not repeated: they tell what a
    running job does, when it changes.
    """
    job_id = shown.job.id
    news = await run_in_threadpool(state.store.news, (job_id,))
    if shown.job.status in ENDED and after >= news[job_id].last_event:
        return Response(status_code=204)
    state.hub.check_room()
    after = min(after, news[job_id].last_event)  # an id of another database would wait for ever
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(request, job_id, after), media_type=EVENT_STREAM, headers=headers)


async def _stream(request: Request, job_id: str, after: int) -> AsyncIterator[str]:
    yield f"retry: {RETRY_MS}\n\n"
    seen_s = time.monotonic()
    async for told in state_of(request).hub.watch(job_id, after, silence_s=HEARTBEAT_S):
        if told is None or time.monotonic() - seen_s >= HEARTBEAT_S:
            seen_s = time.monotonic()
            if not await run_in_threadpool(_goes_on, request, job_id, is_silent=told is None):
                return
        match told:
            case None:
                yield ": nothing new\n\n"
            case JobProgress():
                yield f"event: progress\ndata: {told.model_dump_json()}\n\n"
            case _:
                yield "".join(_text(event) for event in told)


def _text(event: JobEvent) -> str:
    return f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"


def _goes_on(request: Request, job_id: str, *, is_silent: bool) -> bool:
    """Whether the token or session that opened the stream is still good; of a silent job also whether more may come."""
    state = state_of(request)
    try:
        principal = authenticate(request)
        shown = state.store.submitted(job_id, tenant=principal.scope, now=state.now())
    except (Refused, NotFound):
        return False
    except StoreError:  # the database is away for a while
        return True
    return not is_silent or shown.job.status not in ENDED or shown.owner is not None
