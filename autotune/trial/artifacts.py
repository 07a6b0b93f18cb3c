"""What a trial leaves on disk: the engine's log and every request as the client saw it."""

import dataclasses
import gzip
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from autotune.level_run import RequestRecord

ENGINE_LOG = "engine.log"
FAILURES = "failed-requests.txt"


def trial_folder(job: Path, number: int, *, attempt: int = 1, label: str = "") -> Path:
    """Where a launch keeps its log and records, below its job's folder; a second attempt keeps the first one's."""
    beside = f"-{label}" if label else ""
    again = f"-attempt-{attempt}" if attempt > 1 else ""
    return job / f"trial-{number:04d}{beside}{again}"


def fresh_folder(folder: Path) -> None:
    """Make the folder of a launch, empty; what a killed tuner left there is moved aside, so that logs never mix.

    Raises OSError where the disk refuses.
    """
    if folder.is_dir() and any(folder.iterdir()):
        aside = (folder.with_name(f"{folder.name}-left-{number}") for number in itertools.count(1))
        folder.rename(next(path for path in aside if not path.exists()))
    folder.mkdir(parents=True, exist_ok=True)


def write_records(folder: Path, level: int, seed: int, records: Sequence[RequestRecord]) -> Path:
    """Write a level's raw request records as gzipped JSON lines; times in seconds from the level's start."""
    path = folder / f"requests-level-{level}-seed-{seed}.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(dataclasses.asdict(record), separators=(",", ":")) + "\n")
    return path


def renumber_records(folder: Path, order: Sequence[int]) -> None:
    """Give the request records of level order[i] the number i."""
    numbers = {level: number for number, level in enumerate(order)}
    for path in list(folder.glob("requests-level-*-seed-*.jsonl.gz")):
        _, _, level, rest = path.name.split("-", 3)
        path.rename(folder / f"renumbered-{numbers[int(level)]}-{rest}")  # aside: its new name may still be taken
    for path in list(folder.glob("renumbered-*")):
        path.rename(folder / path.name.replace("renumbered-", "requests-level-", 1))


def note_failures(folder: Path, load: str, records: Sequence[RequestRecord]) -> str | None:
    """Say in a file why requests of a level failed, the most frequent reason first; the first line, None if none did.

    A load point only counts them.
    """
    reasons = Counter(r.error for r in records if r.error is not None and not r.unfinished)
    if not reasons:
        return None
    first = f"{load}: {reasons.total()} of {len(records)} requests failed"
    lines = [first, *(f"{count:8d} x {reason}" for reason, count in reasons.most_common())]
    with (folder / FAILURES).open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return first


def listing(folder: Path, root: Path) -> dict[str, str]:
    """The files of a trial: name -> path below the job's artifact folder."""
    if not folder.is_dir():
        return {}
    return {path.name: str(path.relative_to(root)) for path in sorted(folder.iterdir()) if path.is_file()}
