"""One socket, two processes that answer: counted together, started again, and gone with the first."""

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = pytest.mark.process

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Served:
    """A server without a worker."""

    address: str
    first: "subprocess.Popen[str]"

    def siblings(self) -> list[psutil.Process]:
        """The processes that answer beside the first."""
        return [child for child in psutil.Process(self.first.pid).children() if "--descriptor" in words_of(child)]


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; nothing of one that has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def serving(cli: Any) -> Iterator[Served]:
    command = cli.command("serve", "--port", "0", "--no-worker", "--processes", "2")
    environment = {**cli.environment, "TMPDIR": str(cli.home)}
    with subprocess.Popen(command, env=environment, cwd=cli.home, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        family: list[psutil.Process] = []
        try:
            found = re.search(r"http://\S+[^/\s]", process.stdout.readline())
            assert found is not None
            served = Served(found[0], process)
            wait_for(served.siblings)
            yield served
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


def wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def answers(address: str, path: str = "/healthz") -> str:
    """On a connection of its own, which either process may take."""
    return httpx.get(address + path, timeout=PATIENCE_S).raise_for_status().text


def health_checks(address: str) -> float:
    line = r'autotune_http_requests_total\{method="GET",route="/healthz",status="200"\} (\S+)'
    return sum(float(count) for count in re.findall(line, answers(address, "/metrics")))


@pytest.fixture
def served(make_cli: Callable[..., Any], tmp_path: Path) -> Iterator[Served]:
    with serving(make_cli(tmp_path)) as found:
        yield found


def test_two_processes_count_together_and_end_with_the_first(served: Served, tmp_path: Path):
    (sibling,) = served.siblings()
    os.kill(served.first.pid, signal.SIGSTOP)  # then only the other one answers
    try:
        wait_for(lambda: [answers(served.address) for _ in range(5)])
    finally:
        os.kill(served.first.pid, signal.SIGCONT)
    for _ in range(5):
        answers(served.address)
    assert health_checks(served.address) >= 10
    served.first.terminate()
    assert served.first.wait(PATIENCE_S) == 0
    psutil.wait_procs([sibling], PATIENCE_S)
    assert not sibling.is_running()
    assert list(tmp_path.glob("autotune-metrics-*")) == []


def test_a_process_that_died_is_started_again(served: Served):
    (sibling,) = served.siblings()
    sibling.kill()
    (another,) = wait_for(lambda: [one for one in served.siblings() if one.pid != sibling.pid])
    assert another.pid != sibling.pid
    assert answers(served.address)


def test_no_process_stays_when_the_first_is_killed(served: Served):
    (sibling,) = served.siblings()
    wait_for(lambda: sibling.net_connections() or sibling.num_threads() > 2)  # it watches its parent by now
    served.first.kill()
    served.first.wait(PATIENCE_S)
    psutil.wait_procs([sibling], PATIENCE_S)
    assert not sibling.is_running()
