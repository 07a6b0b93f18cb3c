"""What a trial has left on disk: its engine's log and raw records, while it runs too."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse

from autotune.errors import NotFound
from autotune.records import Record
from autotune.service import files
from autotune.service.api.common import ShownJob, ShownTrial
from autotune.trial import trial_folder

router = APIRouter(prefix="/v1/jobs/{job_id}/trials/{number}/artifacts", tags=["artifacts"], responses={404: {}})

NEXT_OFFSET = "X-Next-Offset"
MOST_OFFSET = 2**53 - 1  # what numbers hold everywhere
MOST_BYTES = 1_048_576  # of one piece
MOST_LINES = 10_000

_PIECE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file, or a piece of it",
        "content": {name: {"schema": {"type": "string", "format": "binary"}} for name in files.MEDIA_TYPES},
        "headers": {
            NEXT_OFFSET: {
                "description": "Where the file goes on after what was sent: the next `offset`.",
                "schema": {"type": "integer", "minimum": 0},
            }
        },
    }
}


class Artifact(Record):
    """A file of a trial."""

    name: str
    size: int  # bytes; the file of a running trial may grow
    media_type: str
    href: str


class Artifacts(Record):
    """The files of one launch of a trial."""

    attempt: int  # of the trial's launches
    artifacts: tuple[Artifact, ...]


def launch_folder(
    shown: ShownJob,
    trial: ShownTrial,
    attempt: Annotated[int | None, Query(ge=1, le=100, description="Which launch; default the last.")] = None,
) -> tuple[int, Path]:
    """The launch that is meant, and its folder. Raises NotFound for one that was not."""
    wanted = attempt or trial.attempts
    if wanted > trial.attempts:
        raise NotFound(f"trial {trial.number} was launched {trial.attempts} times")
    return wanted, trial_folder(Path(shown.job.folder), trial.number, attempt=wanted)


Launch = Annotated[tuple[int, Path], Depends(launch_folder)]
FileName = Annotated[str, InPath(min_length=1, max_length=255, description="A name of the list.")]


@router.get("")
def list_artifacts(shown: ShownJob, trial: ShownTrial, launch: Launch) -> Artifacts:
    """The files of a trial, with their sizes; none when they are on another machine, or nothing was launched."""
    attempt, folder = launch
    place = f"/v1/jobs/{shown.job.id}/trials/{trial.number}/artifacts"
    asked = f"?attempt={attempt}" if attempt != trial.attempts else ""
    found = files.entries(folder)
    return Artifacts(
        attempt=attempt,
        artifacts=tuple(
            Artifact(name=e.name, size=e.size, media_type=e.media_type, href=f"{place}/{e.name}{asked}") for e in found
        ),
    )


@router.get("/{name}", response_class=Response, responses=_PIECE)
def download_artifact(
    launch: Launch,
    name: FileName,
    offset: Annotated[int | None, Query(ge=0, le=MOST_OFFSET, description="Begin at this byte.")] = None,
    tail: Annotated[int | None, Query(ge=0, le=MOST_LINES, description="Begin with the last lines.")] = None,
) -> Response:
    """A file of a trial, also while it grows; with `offset` or `tail` at most a mebibyte of it.

    To follow a log, ask again with the `X-Next-Offset` of the last answer as `offset`.
    """
    _, folder = launch
    found = files.entry(folder, name)
    if offset is None and tail is None:
        headers = {NEXT_OFFSET: str(found.size), "Content-Length": str(found.size)}
        return StreamingResponse(files.chunks(folder, found), media_type=found.media_type, headers=headers)
    if offset is None:
        offset = files.start_of_last_lines(folder, found, tail or 0, MOST_BYTES)
    piece = files.read(folder, name, offset, MOST_BYTES)
    return Response(piece, media_type=found.media_type, headers={NEXT_OFFSET: str(offset + len(piece))})
