"""What the dashboard offers with a trial: latency against load as a picture, load points as JSON, the engine's log."""

import io
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from optuna.artifacts import FileSystemArtifactStore

from autotune.report.latency import latency_picture
from autotune.report.serving import serving_document
from autotune.results import Measured, Trial
from autotune.spec import Sla

LOG, BENCHMARK, PICTURE = "engine.log", "benchmark.json", "latency.svg"
LOG_BYTES = 512 * 1024  # of a log that is shown; of a longer one its end
_MIME_TYPES = {PICTURE: "image/svg+xml", BENCHMARK: "application/json", LOG: "text/plain; charset=utf-8"}
_OURS = uuid.UUID(
    "3f0c52a5-6f0e-4d39-9f0f-6a1d3c1a8e55"
)  # the namespace of our artifacts' ids; its value means nothing


class WholeFiles(FileSystemArtifactStore):
    """A folder in which a file is complete as soon as it has its name, also after a crash."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write a file, or replace it."""
        part = f"{artifact_id}.part"
        super().write(part, content_body)
        self._get_filepath(part).replace(self._get_filepath(artifact_id))


@dataclass(frozen=True, slots=True)
class Shelf:
    """The artifacts of one job's study: made once from a finished trial, and found again by name.

    Their ids follow from study, row and file name. So a trial that is told twice has each of them once, and a study
    that is made anew finds its own.
    """

    root: Path  # of all artifacts
    folder: Path  # of the job, with its trials' logs
    study: str
    sla: Sla

    def named(self, row: Trial) -> dict[str, str]:
        """The artifacts of a finished trial: file name -> id."""
        return {name: str(uuid.uuid5(_OURS, f"{self.study}/{row.number}/{name}")) for name in self._makers(row)}

    def keep(self, row: Trial) -> None:
        """Write the files of a finished trial that are not there yet. Raises OSError when the disk refuses."""
        store = WholeFiles(self.root)
        for name, artifact in self.named(row).items():
            if not (self.root / artifact).exists():
                self.root.mkdir(parents=True, exist_ok=True)
                store.write(artifact, io.BytesIO(self._makers(row)[name]()))

    def _makers(self, row: Trial) -> dict[str, Callable[[], bytes]]:
        """How to make each file; a log that is on another machine is none."""
        if row.result is None:
            return {}
        makers: dict[str, Callable[[], bytes]] = {}
        outcome = row.result.outcome
        if isinstance(outcome, Measured):
            makers[PICTURE] = lambda: self._picture(row, outcome).encode()
            makers[BENCHMARK] = lambda: benchmark(self.study, row, outcome, self.sla).encode()
        log = self.folder / row.result.artifacts.get(LOG, "")
        if log.is_file():
            makers[LOG] = lambda: end_of(log)
        return makers

    def _picture(self, row: Trial, outcome: Measured) -> str:
        return latency_picture(outcome.points, self.sla, title=f"{self.study}, trial {row.number} ({row.origin})")


def attributes(named: dict[str, str]) -> dict[str, str]:
    """The artifacts as Optuna's own `upload_artifact` notes them: system attributes of their trial."""
    return {
        f"artifacts:{artifact}": json.dumps(
            {"artifact_id": artifact, "filename": name, "mimetype": _MIME_TYPES[name], "encoding": None}
        )
        for name, artifact in named.items()
    }


def benchmark(study: str, row: Trial, outcome: Measured, sla: Sla) -> str:
    """Every load point of a trial as JSON: the fields of `vllm bench serve`, and what it was measured with."""
    document = {
        "study": study,
        "trial": row.number,
        "origin": row.origin,
        "knobs": row.knobs,
        "config": row.config.model_dump(mode="json"),
        "sla": sla.model_dump(mode="json"),
        "engine_version": row.result.engine_version if row.result else "",
        "overridden": outcome.overridden,
        "operating_level": outcome.operating_level,
        "levels": [{"level": point.level, **serving_document(point)} for point in outcome.points],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def end_of(log: Path) -> bytes:
    """A log, or of a long one the last lines with a word on where the rest is. Raises OSError."""
    size = log.stat().st_size
    if size <= LOG_BYTES:
        return log.read_bytes()
    with log.open("rb") as file:
        file.seek(size - LOG_BYTES)
        end = file.read(LOG_BYTES).partition(b"\n")[2]
    place = f"{log.parent.name}/{log.name} in the job's folder"
    return f"[the last {len(end):,} of {size:,} bytes; the whole log: {place}]\n".encode() + end
