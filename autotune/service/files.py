"""Files below one folder, by name, and nothing else: no paths, no links, no devices."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import NotFound

CHUNK_BYTES = 65_536
_TYPES = {
    ".log": "text/plain",
    ".txt": "text/plain",
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".gz": "application/gzip",
}
UNKNOWN_TYPE = "application/octet-stream"
MEDIA_TYPES = (*dict.fromkeys(_TYPES.values()), UNKNOWN_TYPE)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a folder."""

    name: str
    size: int

    @property
    def media_type(self) -> str:
        """By the end of its name."""
        return _TYPES.get(Path(self.name).suffix, UNKNOWN_TYPE)


def entries(folder: Path) -> tuple[Entry, ...]:
    """The regular files of a folder by name; a folder that does not exist has none."""
    if folder.is_symlink() or not folder.is_dir():
        return ()
    with os.scandir(folder) as found:
        files = [entry for entry in found if entry.is_file(follow_symlinks=False)]
        return tuple(
            sorted((Entry(f.name, f.stat(follow_symlinks=False).st_size) for f in files), key=lambda e: e.name)
        )


def entry(folder: Path, name: str) -> Entry:
    """A file of the folder. Raises NotFound for a name that is not in its listing."""
    with _opened(folder, name) as file:
        return Entry(name, os.fstat(file).st_size)


def read(folder: Path, name: str, start: int, most: int) -> bytes:
    """At most so many bytes from a place in a file, which may be beyond its end. Raises NotFound."""
    with _opened(folder, name) as file:
        return os.pread(file, most, start)


def chunks(folder: Path, found: Entry) -> Iterator[bytes]:
    """The file as it was when its size was read: one that grows meanwhile is not sent further. Raises NotFound."""
    left = found.size
    with _opened(folder, found.name) as file:
        while left and (piece := os.read(file, min(left, CHUNK_BYTES))):
            left -= len(piece)
            yield piece


def start_of_last_lines(folder: Path, found: Entry, lines: int, most: int) -> int:
    """Where the last so many lines of a file begin, not further than `most` bytes from its end. Raises NotFound."""
    start = max(0, found.size - most)
    end = read(folder, found.name, start, found.size - start)
    place = len(end) - end.endswith(b"\n")
    for _ in range(lines):
        place = end.rfind(b"\n", 0, max(place, 0))
        if place < 0:
            return start
    return start + place + 1


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[int]:
    """A regular file directly in the folder, opened; neither of them may be a link."""
    missing = NotFound(f"there is no file {name!r}")
    if "/" in name or "\0" in name:
        raise missing
    try:
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
        finally:
            os.close(place)
    except OSError as exc:
        raise missing from exc
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise missing
        yield file
    finally:
        os.close(file)
