"""An engine never outlives its trial, and a device never has two engines."""

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from autotune.engines import procfs
from autotune.engines.loopback import Server
from autotune.engines.process import (
    Busy,
    EngineProcess,
    ExitStatus,
    Launched,
    LaunchPlan,
    Locked,
    LockRequest,
    Stopped,
)
from autotune.engines.readiness import Ready, StartWatch, wait_ready
from autotune.engines.sweep import sweep
from autotune.errors import EnvironmentProblem

FAKE = Path(__file__).parent.parent / "data" / "fake_vllm.py"
KILLED = ExitStatus(code=None, signal=signal.SIGKILL)
ENDED = ExitStatus(code=0, signal=None)


def request(folder: Path, *candidates: str, count: int = 1, wait_s: float = 20.0) -> LockRequest:
    return LockRequest(folder / "locks", candidates or ("0",), count, wait_s)


def plan(folder: Path, mode: str = "", *options: str, **changes: object) -> LaunchPlan:
    executable = runpy.run_path(str(FAKE))["install"](folder)
    environment = {
        "PATH": os.environ["PATH"],
        "FAKE_VLLM_MODE": mode,
        "FAKE_VLLM_RECORD": str(folder / "record.json"),
        "SPT_NOENV": "1",
    }
    settings: dict[str, object] = {"grace_s": 10.0, **changes}
    return LaunchPlan(
        argv=(str(executable), "serve", "m", "--host", "127.0.0.1", "--port", "{port}", *options),
        environment=environment,
        cwd=folder,
        log=folder / "engine.log",
        **settings,
    )


def until_ready(engine: EngineProcess, launched: Launched, folder: Path) -> None:
    server = Server(f"http://127.0.0.1:{launched.port}", "m", "")
    log = folder / "engine.log"
    watch = StartWatch(log, 30.0, lambda: engine.exited is not None, lambda _: None, lambda: False, poll_s=0.02)
    found = wait_ready(server, watch)
    assert isinstance(found, Ready), log.read_text()


def record(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def ends(pid: int, within_s: float = 15.0) -> bool:
    """Whether the process ends in time, without asking again and again."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], within_s)[0])
    finally:
        os.close(handle)


def wait_for(engine: EngineProcess, within_s: float = 15.0) -> ExitStatus | None:
    """The engine's own end, as its handle reports it."""
    with engine._changed:
        engine._changed.wait_for(lambda: any(event["event"] == "exited" for event in engine._events), within_s)
    return engine.exited


def test_nothing_is_left_after_stop(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path))
        until_ready(engine, launched, tmp_path)
        assert engine.exited is None
        assert engine.stop() == Stopped(ENDED, killed=0, left=(), idle=None)
    assert ends(launched.pid)
    assert ends(engine.pid)
    assert list((tmp_path / "locks").glob("*.json")) == []


def test_stop_is_answered_again_the_same(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        engine.launch(plan(tmp_path, "hang"))
        assert engine.stop() is engine.stop()


def test_a_grandchild_in_a_session_of_its_own_that_ignores_sigterm_is_ended(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        until_ready(engine, engine.launch(plan(tmp_path, "orphan")), tmp_path)
        orphan = record(tmp_path)["orphan"]
        assert os.getsid(orphan) == orphan
        assert engine.stop() == Stopped(ENDED, killed=1, left=(), idle=None)
    assert ends(orphan)


def test_an_engine_that_ignores_sigterm_is_killed_after_its_grace(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "stubborn", grace_s=0.2))
        until_ready(engine, launched, tmp_path)
        assert engine.stop() == Stopped(KILLED, killed=1, left=(), idle=None)
    assert ends(launched.pid)


def test_the_actor_may_be_in_a_hurry(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "stubborn", grace_s=600))
        until_ready(engine, launched, tmp_path)
        assert engine.stop(grace_s=0.1) == Stopped(KILLED, killed=1, left=(), idle=None)
    assert ends(launched.pid)


ACTOR = """
    import json, runpy, signal, sys
    from pathlib import Path
    from autotune.engines.process import EngineProcess

    tests = runpy.run_path(sys.argv[1])
    folder = Path(sys.argv[2])
    engine = EngineProcess().__enter__()
    engine.lock(tests["request"](folder))
    launched = engine.launch(tests["plan"](folder, "orphan"))
    tests["until_ready"](engine, launched, folder)
    print(json.dumps([engine.pid, launched.pid]), flush=True)
    signal.pause()
"""


def test_nothing_is_left_after_the_actor_was_killed(tmp_path: Path):
    command = [sys.executable, "-c", textwrap.dedent(ACTOR), __file__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as actor:
        assert actor.stdout is not None
        supervisor, engine = json.loads(actor.stdout.readline())
        actor.kill()
    assert ends(engine)
    assert ends(record(tmp_path)["orphan"])
    assert ends(supervisor)
    assert list((tmp_path / "locks").glob("*.json")) == []


def test_ctrl_c_in_the_supervisors_group_changes_nothing(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path))
        os.killpg(engine.pid, signal.SIGINT)
        until_ready(engine, launched, tmp_path)
        assert os.getsid(launched.pid) == launched.pid


def test_sigterm_to_the_supervisor_stops_the_engine(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "hang"))
        os.kill(engine.pid, signal.SIGTERM)
        assert ends(launched.pid)


def test_an_engine_that_ends_by_itself_is_reported_at_once(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        engine.launch(plan(tmp_path, "", "--block-size", "16"))
        assert wait_for(engine) == ExitStatus(code=1, signal=None)
    assert "No common block size for 16" in (tmp_path / "engine.log").read_text()


def test_what_a_dead_engine_leaves_is_ended_before_anybody_asks(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "orphan"))
        until_ready(engine, launched, tmp_path)
        os.kill(launched.pid, signal.SIGKILL)
        assert wait_for(engine) == KILLED
        assert ends(record(tmp_path)["orphan"])


def test_an_executable_that_does_not_exist_is_a_problem_for_the_user(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        missing = LaunchPlan(("/nowhere/vllm",), {}, tmp_path, tmp_path / "engine.log")
        with pytest.raises(EnvironmentProblem, match="/nowhere/vllm"):
            engine.launch(missing)


def test_a_second_supervisor_waits_for_the_device(tmp_path: Path):
    with EngineProcess() as first, EngineProcess() as second, ThreadPoolExecutor() as pool:
        first.lock(request(tmp_path))
        pending = pool.submit(second.lock, request(tmp_path))
        with second._changed:
            assert second._changed.wait_for(lambda: bool(second._events), 10.0)
        assert second._events == [{"event": "waiting", "holder_pid": first.pid}]
        first.stop()
        assert pending.result() == Locked(("0",))


def test_a_wait_that_is_too_short_ends_busy_and_names_the_holder(tmp_path: Path):
    with EngineProcess() as first, EngineProcess() as second:
        first.lock(request(tmp_path))
        assert second.lock(request(tmp_path, wait_s=0.0)) == Busy(holder_pid=first.pid)


def test_a_cancelled_wait_ends_at_once(tmp_path: Path):
    with EngineProcess() as first, EngineProcess() as second:
        first.lock(request(tmp_path))
        found = second.lock(request(tmp_path, wait_s=600.0), cancelled=lambda: True)
        assert isinstance(found, Busy)
        assert found.cancelled


def test_the_free_ones_of_the_candidates_are_taken(tmp_path: Path):
    with EngineProcess() as first, EngineProcess() as second:
        first.lock(request(tmp_path, "1"))
        assert second.lock(request(tmp_path, "0", "1", "2", count=2)) == Locked(("0", "2"))


def test_a_device_name_is_no_path(tmp_path: Path):
    with EngineProcess() as engine, pytest.raises(EnvironmentProblem, match=r"\.\./x"):
        engine.lock(request(tmp_path, "../x"))


def test_the_port_is_held_before_the_engine_listens(tmp_path: Path):
    with EngineProcess() as engine, socket.socket() as stranger:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "hang"))
        with pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", launched.port))


def test_the_engine_alone_listens_on_the_held_port(tmp_path: Path):
    with EngineProcess() as engine, socket.socket() as stranger:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path))
        until_ready(engine, launched, tmp_path)
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", launched.port))


def test_the_idle_check_is_repeated_until_it_succeeds(tmp_path: Path):
    twice = ("/bin/sh", "-c", f"test -e {tmp_path}/asked || {{ touch {tmp_path}/asked; exit 1; }}")
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        engine.launch(plan(tmp_path, "hang", idle_command=twice))
        assert engine.stop().idle is True


def test_devices_that_do_not_become_idle_in_time_are_reported(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        engine.launch(plan(tmp_path, "hang", idle_command=("/bin/false",), idle_timeout_s=0.0))
        assert engine.stop().idle is False


def test_a_killed_supervisor_leaves_its_device_locked_until_a_sweep_has_ended_the_engine(tmp_path: Path):
    with contextlib.ExitStack() as stack:
        lost = stack.enter_context(EngineProcess())
        lost.lock(request(tmp_path))
        launched = lost.launch(plan(tmp_path, "orphan"))
        until_ready(lost, launched, tmp_path)
        orphan = record(tmp_path)["orphan"]
        os.kill(lost.pid, signal.SIGKILL)
        assert ends(lost.pid)
        following = stack.enter_context(EngineProcess())
        assert following.lock(request(tmp_path, wait_s=0.0)) == Busy(holder_pid=lost.pid)
        assert set(sweep(tmp_path / "locks")) == {launched.pid, orphan}
        assert ends(orphan)
        after = stack.enter_context(EngineProcess())
        assert after.lock(request(tmp_path)) == Locked(("0",))


def test_a_sweep_leaves_supervised_engines_alone(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "hang"))
        assert sweep(tmp_path / "locks") == ()
        assert procfs.is_running(launched.pid, launched.start_time)


def test_a_lost_supervisor_counts_as_exited_and_stop_sweeps_after_it(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "hang"))
        os.kill(engine.pid, signal.SIGKILL)
        with engine._changed:
            assert engine._changed.wait_for(lambda: engine._silent, 10.0)
        assert engine.exited == ExitStatus(None, None)
        assert engine.stop() == Stopped(ExitStatus(None, None), killed=1, left=(), idle=None)
    assert ends(launched.pid)


def test_the_events_of_one_engine_are_read_in_a_thread_that_ends_with_it(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
    assert "engine-events" not in {thread.name for thread in threading.enumerate()}
