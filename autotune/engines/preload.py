"""jemalloc for engines on this node, where the operator wants it: another allocator for the host's side of serving."""

from collections.abc import Mapping
from pathlib import Path

_LIBRARY = "libjemalloc.so.2"
_FOLDERS = (
    "usr/lib/*-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/local/lib",
    "usr/local/lib64",
)  # Debian's, openEuler's …


def environment(inherited: Mapping[str, str], *, root: Path = Path("/")) -> dict[str, str]:
    """`LD_PRELOAD` with the node's jemalloc before what is preloaded already; nothing where it is not installed.

    The official Ascend image preloads it in `~/.bashrc`, which only an interactive shell reads.
    """
    before, there = inherited.get("LD_PRELOAD", ""), installed(root)
    if not there or "jemalloc" in before:
        return {}
    library = f"/{there[0].relative_to(root)}"
    return {"LD_PRELOAD": f"{library}:{before}" if before else library}


def installed(root: Path = Path("/")) -> tuple[Path, ...]:
    """The jemalloc libraries of a node, the one that is taken first."""
    return tuple(place for folder in _FOLDERS for place in sorted(root.glob(f"{folder}/{_LIBRARY}")))
