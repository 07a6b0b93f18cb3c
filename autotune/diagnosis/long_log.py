"""Reads a log of any size in bounded memory."""

from collections.abc import Callable, Iterator

BLOCK_BYTES = 1 << 20
LINE_BYTES = 1 << 16  # of a line without end (a progress bar that never breaks it), so much of both ends counts


def blocks(read: Callable[[int], bytes]) -> Iterator[str]:
    """The log in blocks of whole lines; `read` gives at most so many of the next bytes, and none at the end."""
    unfinished = b""
    while chunk := read(BLOCK_BYTES):
        whole, newline, rest = chunk.rpartition(b"\n")
        if newline:
            yield (unfinished + whole + newline).decode(errors="replace")
            unfinished = rest
        else:
            unfinished += rest
        if len(unfinished) > 2 * LINE_BYTES:
            unfinished = unfinished[:LINE_BYTES] + unfinished[-LINE_BYTES:]
    if unfinished:
        yield unfinished.decode(errors="replace")
