"""Waiting for an engine: until it has answered one real completion, or surely never will."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autotune.engines.loopback import Answer, Server, request

_HEALTH_TIMEOUT_S = 2.0
_CHECKS = 5  # so many failed answers in a row are no accident any more
_OVERLAP_CHARACTERS = 4000  # read again with new text, so that a message over several lines is seen whole
_CHECK_PROMPT = list(range(10, 26))  # token ids every vocabulary has
_CHECK_TOKENS = 4
_LOOK_S = 1.0  # between looks at the CPU: they read all of /proc
_CPU_SHARE = 0.01  # of a core: who waits polls a little, who reads or compiles takes far more


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine has answered a completion, `seconds` after the wait began."""

    seconds: float
    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class NotReady:
    """Why the wait ended without an engine; `detail` says what was seen."""

    kind: Literal["exited", "fatal", "timeout", "stalled", "cancelled", "no_answer"]
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StartWatch:
    """What is watched while an engine starts. The functions are called several times a second and must not wait."""

    log: Path
    timeout_s: float
    exited: Callable[[], bool]
    fatal: Callable[[str], str | None]  # given new lines of the log: the reason why the start has surely failed
    cancelled: Callable[[], bool]
    completion_timeout_s: float = 120.0
    stall_timeout_s: float = math.inf  # so long an engine may start without a log line and without CPU time
    cpu_s: Callable[[], float] = lambda: 0.0  # CPU time of all its processes so far
    waits: Callable[[str], bool] = lambda _line: False  # whether a log line says only that the engine waits
    poll_s: float = 0.2
    clock: Callable[[], float] = time.monotonic


class _LogReader:
    """Follows a growing log by whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._seen = ""
        self.size = 0  # bytes so far, an unfinished line included: a progress bar is one
        self.fresh = ""  # the whole lines that came last

    def news(self) -> str | None:
        """The new lines, preceded by some already seen; None when there are none."""
        try:
            with self._path.open("rb") as log:
                log.seek(self._position)
                raw = log.read()
        except FileNotFoundError:
            return None
        whole = raw[: raw.rfind(b"\n") + 1]
        self.size = self._position + len(raw)
        self.fresh = whole.decode(errors="replace")
        if not whole:
            return None
        self._position += len(whole)
        text = self._seen + self.fresh
        self._seen = text[-_OVERLAP_CHARACTERS:]
        return text


class _Progress:
    """Since when a starting engine has neither said nor done anything."""

    def __init__(self, watch: StartWatch) -> None:
        self._watch = watch
        self._since_s = self._looked_s = 0.0
        self._size = 0
        self._cpu_s = watch.cpu_s()

    def stalled(self, log: _LogReader, seconds: float) -> bool:
        """Whether that is too long by now; to be asked after every look at the log."""
        limit_s = self._watch.stall_timeout_s
        if self._has_spoken(log):
            self._since_s = seconds
        if seconds - self._looked_s >= min(_LOOK_S, limit_s / 2):
            self._looked_s, cpu_s = seconds, self._watch.cpu_s()
            # Less than before: a process has ended, which is an event too.
            if abs(cpu_s - self._cpu_s) >= _CPU_SHARE * limit_s:
                self._since_s, self._cpu_s = seconds, cpu_s
        return seconds - self._since_s >= limit_s

    def _has_spoken(self, log: _LogReader) -> bool:
        grown, self._size = log.size != self._size, log.size
        lines = log.fresh.splitlines()
        return grown and not (lines and all(map(self._watch.waits, lines)))


class _Question:
    """One request, asked in a thread so that a cancel is heard meanwhile."""

    def __init__(self, ask: Callable[[], Answer]) -> None:
        self.answer: Answer | None = None
        self._ask = ask
        threading.Thread(target=self._run, name="readiness-question", daemon=True).start()

    def _run(self) -> None:
        self.answer = self._ask()


def _health(server: Server) -> _Question:
    return _Question(lambda: request(server, "/health", timeout_s=_HEALTH_TIMEOUT_S))


def _completion(server: Server, timeout_s: float) -> _Question:
    document = {
        "model": server.model,
        "prompt": _CHECK_PROMPT,
        "max_tokens": _CHECK_TOKENS,
        "ignore_eos": True,
        "temperature": 0,
    }
    return _Question(lambda: request(server, "/v1/completions", document=document, timeout_s=timeout_s))


def wait_ready(server: Server, watch: StartWatch) -> Ready | NotReady:
    """Poll `/health`, then ask for one completion, while the log, the process and the user may end the wait at once.

    An engine that fails some requests is ready; one that fails the first few in a row is not.
    """
    started = watch.clock()
    log, progress = _LogReader(watch.log), _Progress(watch)
    question, healthy, failed, asked_s = _health(server), False, 0, 0.0
    while True:
        seconds = watch.clock() - started
        failure = _failure(watch, log, seconds) or _stall(watch, log, progress, seconds)
        if failure is not None:
            return failure
        answer = question.answer
        if answer is not None:
            if healthy and answer.status == 200:
                return Ready(seconds)
            failed += healthy
            if failed == _CHECKS or (healthy and seconds - asked_s >= watch.completion_timeout_s):
                return NotReady("no_answer", _refusal(answer), seconds)
            healthy, asked_s = healthy or answer.status == 200, seconds
            question = _completion(server, watch.completion_timeout_s) if healthy else _health(server)
        time.sleep(watch.poll_s)


def _failure(watch: StartWatch, log: _LogReader, seconds: float) -> NotReady | None:
    if watch.cancelled():
        return NotReady("cancelled", "cancelled while the engine started", seconds)
    exited = watch.exited()  # before the log is read: then the last words of a dead engine are in it
    news = log.news()
    reason = watch.fatal(news) if news else None
    if reason is not None:
        return NotReady("fatal", reason, seconds)
    if exited:
        return NotReady("exited", "the engine ended while it started", seconds)
    if seconds >= watch.timeout_s:
        return NotReady("timeout", f"the engine was not ready after {watch.timeout_s:g} s", seconds)
    return None


def _stall(watch: StartWatch, log: _LogReader, progress: _Progress, seconds: float) -> NotReady | None:
    if not progress.stalled(log, seconds):
        return None
    detail = f"while it started, it wrote nothing to its log and took no CPU time for {watch.stall_timeout_s:g} s"
    return NotReady("stalled", detail, seconds)


def _refusal(answer: Answer) -> str:
    said = f"HTTP {answer.status}: {answer.body[:300]}" if answer.status else answer.body
    return f"healthy, but its first completions failed: {said}"
