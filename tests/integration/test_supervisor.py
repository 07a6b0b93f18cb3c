"""An engine never outlives its trial, and a device never has two engines."""

import contextlib
import errno
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import autotune
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
    SupervisorLost,
)
from autotune.engines.readiness import Ready, StartWatch, wait_ready
from autotune.engines.supervisor import OWNER_VARIABLE
from autotune.engines.sweep import sweep
from autotune.errors import EnvironmentProblem
from autotune.platforms import Platform, ascend, cuda

pytestmark = pytest.mark.process

FAKE = Path(__file__).parent.parent / "data" / "fault_vllm.py"
MODEL = str(Path(autotune.__file__).parent / "demo" / "tiny-llama")
KILLED = ExitStatus(code=None, signal=signal.SIGKILL)
ENDED = ExitStatus(code=0, signal=None)


def request(folder: Path, *candidates: str, count: int = 1, wait_s: float = 20.0) -> LockRequest:
    return LockRequest(folder / "locks", candidates or ("0",), count, wait_s)


def plan(folder: Path, fault: str = "", *options: str, **changes: object) -> LaunchPlan:
    executable = runpy.run_path(str(FAKE))["install"](folder)
    environment = {
        "PATH": os.environ["PATH"],
        "FAULT": fault,
        "FAKE_VLLM_RECORD": str(folder / "record.json"),
        "SPT_NOENV": "1",
    }
    settings: dict[str, object] = {"grace_s": 10.0, **changes}
    return LaunchPlan(
        argv=(str(executable), "serve", MODEL, "--host", "127.0.0.1", "--port", "{port}", *options),
        environment=environment,
        cwd=folder,
        log=folder / "engine.log",
        **settings,
    )


def until_ready(engine: EngineProcess, launched: Launched, folder: Path) -> None:
    server = Server(f"http://127.0.0.1:{launched.port}", MODEL, "")
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


def silent(engine: EngineProcess, within_s: float = 10.0) -> bool:
    """Whether the supervisor has ended and its handle knows."""
    with engine._changed:
        return engine._changed.wait_for(lambda: engine._silent, within_s)


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
        engine.launch(plan(tmp_path, "hang-before-ready"))
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
        launched = engine.launch(plan(tmp_path, "ignore-sigterm", grace_s=0.2))
        until_ready(engine, launched, tmp_path)
        assert engine.stop() == Stopped(KILLED, killed=1, left=(), idle=None)
    assert ends(launched.pid)


def test_the_actor_may_be_in_a_hurry(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "ignore-sigterm", grace_s=600))
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
    launched = engine.launch(tests["plan"](folder, sys.argv[3], grace_s=600.0))
    tests["until_ready"](engine, launched, folder)
    print(json.dumps([engine.pid, launched.pid]), flush=True)
    signal.pause()
"""


def kill_an_actor(folder: Path, fault: str) -> tuple[int, int]:
    """Start an engine from a process of its own and kill that; the pids of supervisor and engine."""
    command = [sys.executable, "-c", textwrap.dedent(ACTOR), __file__, str(folder), fault]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as actor:
        assert actor.stdout is not None
        supervisor, engine = json.loads(actor.stdout.readline())
        actor.kill()
    return supervisor, engine


def test_nothing_is_left_after_the_actor_was_killed(tmp_path: Path):
    supervisor, engine = kill_an_actor(tmp_path, "orphan")
    assert ends(engine)
    assert ends(record(tmp_path)["orphan"])
    assert ends(supervisor)
    assert list((tmp_path / "locks").glob("*.json")) == []


def test_nobody_waits_for_the_grace_of_an_engine_whose_actor_was_killed(tmp_path: Path):
    """Ten minutes of grace become two seconds."""
    supervisor, engine = kill_an_actor(tmp_path, "ignore-sigterm")
    assert ends(engine, within_s=30.0)
    assert ends(supervisor)


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
        launched = engine.launch(plan(tmp_path, "hang-before-ready"))
        os.kill(engine.pid, signal.SIGTERM)
        assert ends(launched.pid)
        assert silent(engine)
        assert engine.lost


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
            assert second._changed.wait_for(lambda: len(second._events) > 1, 10.0)
        assert second._events[1:] == [{"event": "waiting", "holder_pid": first.pid}]
        first.stop()
        assert pending.result() == Locked(("0",))


def test_a_wait_that_is_too_short_ends_busy_and_names_the_holder(tmp_path: Path):
    with EngineProcess() as first, EngineProcess() as second:
        first.lock(request(tmp_path))
        assert second.lock(request(tmp_path, wait_s=0.0)) == Busy(holder_pid=first.pid)


def test_a_cancelled_wait_ends_at_once(tmp_path: Path):
    with EngineProcess() as first, EngineProcess(cancelled=lambda: True) as second:
        first.lock(request(tmp_path))
        found = second.lock(request(tmp_path, wait_s=600.0))
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
        launched = engine.launch(plan(tmp_path, "hang-before-ready"))
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
        engine.launch(plan(tmp_path, "hang-before-ready", idle_command=twice))
        assert engine.stop().idle is True


def test_devices_rest_after_an_engine_that_was_killed_before_they_are_looked_at(tmp_path: Path):
    rested = plan(tmp_path, "ignore-sigterm", grace_s=0.1, idle_command=("/bin/true",), rest_s=2.0)
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        until_ready(engine, engine.launch(rested), tmp_path)
        began_s = time.monotonic()
        stopped = engine.stop()
        assert (stopped.killed, stopped.idle) == (1, True)
    assert time.monotonic() - began_s >= 2.0


def test_devices_do_not_rest_after_an_engine_that_ended_well(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        until_ready(engine, engine.launch(plan(tmp_path, idle_command=("/bin/true",), rest_s=60.0)), tmp_path)
        began_s = time.monotonic()
        assert engine.stop().idle is True
    assert time.monotonic() - began_s < 30.0


def test_devices_that_do_not_become_idle_in_time_are_reported_and_stay_locked(tmp_path: Path):
    """The supervisor looks every few seconds; a person may end it."""
    never = plan(tmp_path, "hang-before-ready", idle_command=("/bin/false",), idle_timeout_s=0.0)
    with EngineProcess() as engine, EngineProcess() as following:
        engine.lock(request(tmp_path))
        launched = engine.launch(never)
        assert engine.stop().idle is False
        assert ends(launched.pid)
        assert following.lock(request(tmp_path, wait_s=0.0)) == Busy(holder_pid=engine.pid)
        os.kill(engine.pid, signal.SIGTERM)
        assert ends(engine.pid)
        assert silent(engine)


def test_a_device_is_free_once_it_is_idle_though_later_than_its_trial_waited(tmp_path: Path):
    late = ("/bin/sh", "-c", f"test -e {tmp_path}/asked || {{ touch {tmp_path}/asked; exit 1; }}")
    with EngineProcess() as engine, EngineProcess() as following:
        engine.lock(request(tmp_path))
        engine.launch(plan(tmp_path, "hang-before-ready", idle_command=late, idle_timeout_s=0.0))
        assert engine.stop().idle is False
        assert following.lock(request(tmp_path)) == Locked(("0",))
        assert ends(engine.pid)
        assert silent(engine)


def test_a_killed_supervisor_leaves_its_device_locked_until_a_sweep_has_ended_the_engine(tmp_path: Path):
    with contextlib.ExitStack() as stack:
        lost = stack.enter_context(EngineProcess())
        lost.lock(request(tmp_path))
        launched = lost.launch(plan(tmp_path, "orphan"))
        until_ready(lost, launched, tmp_path)
        orphan = record(tmp_path)["orphan"]
        os.kill(lost.pid, signal.SIGKILL)
        assert silent(lost)
        following = stack.enter_context(EngineProcess())
        assert following.lock(request(tmp_path, wait_s=0.0)) == Busy(holder_pid=lost.pid)
        assert set(sweep(tmp_path / "locks")) == {launched.pid, orphan}
        assert ends(orphan)
        after = stack.enter_context(EngineProcess())
        assert after.lock(request(tmp_path)) == Locked(("0",))


def test_a_sweep_leaves_supervised_engines_alone(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "hang-before-ready"))
        assert sweep(tmp_path / "locks") == ()
        assert procfs.is_running(launched.pid, launched.start_time)


def test_a_lost_supervisor_counts_as_exited_and_stop_does_its_work(tmp_path: Path):
    idle = ("/bin/sh", "-c", f"touch {tmp_path}/asked")
    with EngineProcess() as engine, EngineProcess() as following:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "hang-before-ready", idle_command=idle))
        os.kill(engine.pid, signal.SIGKILL)
        assert silent(engine)
        assert engine.exited == ExitStatus(None, None)
        assert engine.lost
        assert engine.stop() == Stopped(ExitStatus(None, None), killed=1, left=(), idle=True)
        assert (tmp_path / "asked").exists()
        assert following.lock(request(tmp_path, wait_s=0.0)) == Locked(("0",))
    assert ends(launched.pid)


def test_an_engine_whose_supervisor_was_lost_is_ended_though_its_trial_was_cancelled(tmp_path: Path):
    cancelled = threading.Event()
    with EngineProcess(cancelled.is_set) as engine, EngineProcess() as following:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "hang-before-ready"))
        os.kill(engine.pid, signal.SIGKILL)
        assert silent(engine)
        cancelled.set()
        engine.stop()
        assert ends(launched.pid)
        assert following.lock(request(tmp_path)) == Locked(("0",))


def test_a_sweep_that_was_given_up_counts_only_what_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A process in a driver call does not hear SIGKILL: here none is sent."""
    with subprocess.Popen(["/bin/sleep", "600"]) as stuck:
        found = procfs.stat(stuck.pid)
        engine = {"pid": stuck.pid, "start_time": found.start_time}
        entry = {"pid": 4194305, "start_time": 1, "owner": "nobody", "engine": engine}
        (tmp_path / "4194305.json").write_text(json.dumps(entry))
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", lambda _pid, _signal: None)
            assert sweep(tmp_path, lambda: True) == ()
        assert (tmp_path / "4194305.json").exists()
        assert sweep(tmp_path) == (stuck.pid,)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EAGAIN, errno.ENOSPC])
def test_what_the_supervisors_host_runs_out_of_is_no_broken_environment(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What the supervisor would say is put into its mouth; it never hears of the launch."""
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        engine._events.append({"event": "failed", "reason": "too many", "errno": number})
        with monkeypatch.context() as patch:
            patch.setattr(engine, "_send", lambda **_: None)
            with pytest.raises(OSError, match="too many") as raised:
                engine.launch(plan(tmp_path))
        assert raised.value.errno == number


def test_a_supervisor_without_a_free_file_says_so(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        used = len(list(Path(f"/proc/{engine.pid}/fd").iterdir()))
        resource.prlimit(engine.pid, resource.RLIMIT_NOFILE, (used + 1, used + 1))
        with pytest.raises(OSError, match="Too many open files") as raised:
            engine.launch(plan(tmp_path))
        assert raised.value.errno == errno.EMFILE


def test_a_file_in_the_working_folder_is_no_module_of_the_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "select.py").write_text("raise SystemExit('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    with EngineProcess() as engine:
        assert engine.lock(request(tmp_path)) == Locked(("0",))


@pytest.mark.parametrize("platform", [ascend, cuda])
def test_a_file_in_the_working_folder_is_no_module_of_the_idle_check(platform: Platform, tmp_path: Path):
    """It fails for want of a device tool, 2, and not for a broken import, 1."""
    (tmp_path / "subprocess.py").write_text("raise SystemExit(1)\n")
    found = subprocess.run(platform.idle_command(["0"]), check=False, cwd=tmp_path, env={"PATH": ""})
    assert found.returncode == 2


def test_a_supervisor_that_is_lost_while_it_waits_for_devices_is_told_from_busy_devices(tmp_path: Path):
    with EngineProcess() as first, EngineProcess() as second, ThreadPoolExecutor() as pool:
        first.lock(request(tmp_path))
        pending = pool.submit(second.lock, request(tmp_path, wait_s=600.0))
        with second._changed:
            assert second._changed.wait_for(lambda: bool(second._events), 10.0)
        os.kill(second.pid, signal.SIGKILL)
        with pytest.raises(SupervisorLost, match=str(second.pid)):
            pending.result()


def test_who_waits_for_a_device_ends_the_engine_whose_supervisor_was_lost_meanwhile(tmp_path: Path):
    """Nobody else may come: the actor of the lost one was killed with it."""
    with EngineProcess() as lost, EngineProcess() as following, ThreadPoolExecutor() as pool:
        lost.lock(request(tmp_path))
        launched = lost.launch(plan(tmp_path, "hang-before-ready"))
        pending = pool.submit(following.lock, request(tmp_path, wait_s=600.0))
        with following._changed:
            assert following._changed.wait_for(lambda: bool(following._events), 10.0)
        os.kill(lost.pid, signal.SIGKILL)
        assert pending.result(30.0) == Locked(("0",))
        assert ends(launched.pid)


def test_a_supervisor_that_is_lost_before_the_launch_is_told_from_a_broken_environment(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        os.kill(engine.pid, signal.SIGKILL)
        assert silent(engine)
        with pytest.raises(SupervisorLost):
            engine.launch(plan(tmp_path))


def test_an_engine_that_ended_by_itself_is_no_lost_supervisor(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        engine.launch(plan(tmp_path, "log:npu_oom"))
        assert wait_for(engine) == ExitStatus(code=1, signal=None)
        engine.stop()
        assert not engine.lost


def test_a_cancel_ends_the_grace_of_an_engine_that_ignores_sigterm(tmp_path: Path):
    cancelled = threading.Event()
    with EngineProcess(cancelled=cancelled.is_set) as engine, ThreadPoolExecutor() as pool:
        engine.lock(request(tmp_path))
        launched = engine.launch(plan(tmp_path, "ignore-sigterm", grace_s=600.0))
        until_ready(engine, launched, tmp_path)
        stopping = pool.submit(engine.stop)
        cancelled.set()
        assert stopping.result(5.0) == Stopped(KILLED, killed=1, left=(), idle=None)


def test_a_device_that_never_becomes_idle_stays_locked_in_the_background_after_a_cancel(tmp_path: Path):
    cancelled = threading.Event()
    with EngineProcess(cancelled=cancelled.is_set) as engine, EngineProcess() as following:
        engine.lock(request(tmp_path))
        launched = engine.launch(
            plan(tmp_path, "hang-before-ready", idle_command=("/bin/false",), idle_timeout_s=600.0)
        )
        cancelled.set()
        assert engine.stop() is None
        assert ends(launched.pid)
        assert following.lock(request(tmp_path, wait_s=0.0)) == Busy(holder_pid=engine.pid)
        os.kill(engine.pid, signal.SIGKILL)
        assert silent(engine)


def test_an_engine_never_writes_into_the_log_of_another(tmp_path: Path):
    (tmp_path / "engine.log").write_text("of a killed tuner\n")
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        with pytest.raises(EnvironmentProblem, match="File exists"):
            engine.launch(plan(tmp_path))


@pytest.mark.parametrize("text", ["", '{"pid": 1, "sta', "[]", "null", '{"pid": 1}', '{"pid": "x", "engine": null}'])
def test_a_record_that_cannot_be_read_is_removed_by_a_sweep(text: str, tmp_path: Path):
    """Its supervisor has the largest pid that Linux may ever give, and one more."""
    (tmp_path / "4194305.json").write_text(text)
    (tmp_path / "4194305.partial").write_text(text)
    assert sweep(tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_a_running_supervisor_may_be_writing_is_left_alone(tmp_path: Path):
    (tmp_path / f"{os.getpid()}.partial").write_text("{")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{os.getpid()}.partial"]


def test_a_sweep_of_a_folder_that_does_not_exist_finds_nothing(tmp_path: Path):
    assert sweep(tmp_path / "nowhere") == ()


def test_the_engine_is_marked_from_the_moment_it_is_forked(tmp_path: Path):
    """The supervisor is started with the mark: so its child has it before it becomes the engine."""
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
        engine.launch(plan(tmp_path, "hang-before-ready"))
        (entry,) = (json.loads(path.read_text()) for path in (tmp_path / "locks").glob("*.json"))
        marked = procfs.with_environment(f"{OWNER_VARIABLE}={entry['owner']}")
        assert {engine.pid, entry["engine"]["pid"]} <= {process.pid for process in marked}


def test_the_events_of_one_engine_are_read_in_a_thread_that_ends_with_it(tmp_path: Path):
    with EngineProcess() as engine:
        engine.lock(request(tmp_path))
    assert "engine-events" not in {thread.name for thread in threading.enumerate()}
