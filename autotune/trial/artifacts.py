"""What a trial leaves on disk: the engine's log and every request as the client saw it."""

import dataclasses
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from autotune.results import RequestRecord

ENGINE_LOG = "engine.log"


def write_records(folder: Path, level: int, seed: int, records: Sequence[RequestRecord]) -> Path:
    """Write a level's raw request records as gzipped JSON lines; times in seconds from the level's start."""
    path = folder / f"requests-level-{level}-seed-{seed}.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(dataclasses.asdict(record), separators=(",", ":")) + "\n")
    return path


def listing(folder: Path, root: Path) -> dict[str, str]:
    """The files of a trial: name -> path below the job's artifact folder."""
    if not folder.is_dir():
        return {}
    return {path.name: str(path.relative_to(root)) for path in sorted(folder.iterdir()) if path.is_file()}
