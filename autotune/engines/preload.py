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
    before = inherited.get("LD_PRELOAD", "")
    found = next((place for folder in _FOLDERS for place in sorted(root.glob(f"{folder}/{_LIBRARY}"))), None)
    if found is None or "jemalloc" in before:
        return {}
    return {"LD_PRELOAD": f"{found}:{before}" if before else str(found)}
