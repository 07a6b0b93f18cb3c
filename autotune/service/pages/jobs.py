"""The list of jobs."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query
from fastapi.responses import Response

from autotune.results import JobStatus
from autotune.service.api.common import SearchText
from autotune.service.api.paging import cursor_of, cursor_text
from autotune.service.pages.visit import Visit, Visitor
from autotune.service.pages.web import PageRoute
from autotune.submission import Cursor, JobFilter

router = APIRouter(route_class=PageRoute, include_in_schema=False)

PER_PAGE = 25


@router.get("/")
def jobs_page(
    visit: Visitor,
    status: str = "",
    search: SearchText = "",
    cursor: Annotated[str, Query(max_length=500)] = "",
) -> Response:
    """The jobs the visitor may see, newest first."""
    shown = JobStatus(status) if status in set(JobStatus) else None
    search = search.strip()
    wanted = JobFilter(tenant=visit.principal.scope, status=(shown,) if shown else (), search=search or None)
    jobs, more = visit.state.store.page(wanted, after=cursor_of(cursor) if cursor else None, most=PER_PAGE)
    last = cursor_text(Cursor(created_at=jobs[-1].created_at, id=jobs[-1].id)) if jobs and more else ""
    return visit.page(
        "jobs.html",
        jobs=jobs,
        statuses=_statuses(visit, search),
        shown=shown,
        search=search,
        older=_address(shown, search, last) if last else "",
        newest=_address(shown, search) if cursor else "",
        is_open=any(job.status in (JobStatus.QUEUED, JobStatus.RUNNING) for job in jobs),
    )


def _statuses(visit: Visit, search: str) -> list[tuple[JobStatus | None, int, str]]:
    """Each status (None: any) with the number of its jobs, and the address that shows them."""
    counts = dict.fromkeys(JobStatus, 0)
    for (_, status), found in visit.state.store.counts(tenant=visit.principal.scope).items():
        counts[status] += found
    every = [(None, sum(counts.values())), *counts.items()]
    return [(status, found, _address(status, search)) for status, found in every]


def _address(status: JobStatus | None, search: str, cursor: str = "") -> str:
    values = {"status": status or "", "search": search, "cursor": cursor}
    asked = urlencode({name: value for name, value in values.items() if value})
    return f"/?{asked}" if asked else "/"
