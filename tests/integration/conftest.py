"""A Ray cluster of two pretended NPUs."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from autotune.fleet import Fleet
from autotune.spec import Devices

NPUS = Devices(resource="NPU")


@pytest.fixture(scope="module")
def npu_tools(install_npu_smi: Callable[[Path, str], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the `npu-smi` that the cluster's trials ask."""
    tools = tmp_path_factory.mktemp("tools")
    install_npu_smi(tools, "info_a2_idle")
    return tools


@pytest.fixture(scope="module")
def two_npus(npu_tools: Path) -> Iterator[Devices]:
    """A local Ray that counts two NPUs; `npu-smi` on PATH shows a machine with eight.

    Ray's processes inherit the environment as it is when Ray starts. Their temporary folder is short, because the
    path of a socket has at most 107 bytes.
    """
    short = tempfile.mkdtemp(prefix="at-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{npu_tools}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("TMPDIR", short)
        patch.setenv("RAY_TMPDIR", short)
        with Fleet(NPUS, address=None, local_devices=2):
            yield NPUS
    shutil.rmtree(short)


@pytest.fixture(scope="session")
def actor_behind() -> Callable[[psutil.Process], psutil.Process]:
    """Finds the actor of a supervisor: the process at the other end of the pipe that is its stdin."""

    def find(supervisor: psutil.Process) -> psutil.Process:
        pipe = Path(f"/proc/{supervisor.pid}/fd/0").readlink()
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                files = Path(f"/proc/{process.pid}/fd").iterdir()
                if process != supervisor and any(file.readlink() == pipe for file in files):
                    return process
        raise AssertionError(f"nobody holds {pipe}")

    return find
