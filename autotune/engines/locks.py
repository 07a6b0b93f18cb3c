"""One lock file per device: who holds it may use the device."""

import fcntl
import os
import re
from collections.abc import Sequence
from pathlib import Path

_DEVICE_NAME = re.compile(r"[A-Za-z0-9_.:-]+")


class DeviceLocks:
    """Exclusive locks on devices, held until `close` by this process and by every process that inherits `files`.

    The engine inherits them on purpose: should the supervisor be killed, the devices stay taken while the engine lives.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.files: tuple[int, ...] = ()
        self.holder_pid: int | None = None  # of the first device that was taken at the last attempt

    def acquire(self, candidates: Sequence[str], count: int) -> tuple[str, ...] | None:
        """Lock the first `count` free ones of `candidates`, or none at all (None). Never waits.

        Raises ValueError for a name that is no plain file name or too few candidates, OSError where the folder refuses.
        """
        if count > len(candidates) or not all(map(_DEVICE_NAME.fullmatch, candidates)):
            raise ValueError(f"cannot lock {count} of the devices {list(candidates)}")
        self.holder_pid = None
        taken: dict[str, int] = {}
        for device in candidates:
            if len(taken) == count:
                break
            file = self._lock(device)
            if file is not None:
                taken[device] = file
        self.files = tuple(taken.values())
        if len(taken) < count:
            self.close()
            return None
        return tuple(taken)

    def _lock(self, device: str) -> int | None:
        file = os.open(self.folder / f"{device}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.holder_pid = self.holder_pid or _read_pid(file)
            os.close(file)
            return None
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        return file

    def close(self) -> None:
        """Let go. A device stays locked while an engine process that inherited its file lives."""
        for file in self.files:
            os.close(file)
        self.files = ()


def _read_pid(file: int) -> int | None:
    text = os.pread(file, 32, 0).decode(errors="replace").strip()
    return int(text) if text.isdigit() else None
