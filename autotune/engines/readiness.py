"""Waiting for an engine: until it has answered one real completion, or surely never will."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autotune.engines.loopback import Answer, Server, request

_HEALTH_TIMEOUT_S = 2.0
_OVERLAP_CHARACTERS = 4000  # read again with new text, so that a message over several lines is seen whole
_CHECK_PROMPT = list(range(10, 26))  # token ids every vocabulary has
_CHECK_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine has answered a completion, `seconds` after the wait began."""

    seconds: float
    kind: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class NotReady:
    """Why the wait ended without an engine; `detail` says what was seen."""

    kind: Literal["exited", "fatal", "timeout", "cancelled", "no_answer"]
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
    poll_s: float = 0.2
    clock: Callable[[], float] = time.monotonic


class _LogReader:
    """Follows a growing log by whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._seen = ""

    def news(self) -> str | None:
        """The new lines, preceded by some already seen; None when there are none."""
        try:
            with self._path.open("rb") as log:
                log.seek(self._position)
                raw = log.read()
        except FileNotFoundError:
            return None
        whole = raw[: raw.rfind(b"\n") + 1]
        if not whole:
            return None
        self._position += len(whole)
        text = self._seen + whole.decode(errors="replace")
        self._seen = text[-_OVERLAP_CHARACTERS:]
        return text


class _Completion:
    """The first completion, asked in a thread so that a cancel is heard meanwhile."""

    def __init__(self, server: Server, timeout_s: float) -> None:
        self.answer: Answer | None = None
        self._server = server
        self._timeout_s = timeout_s
        threading.Thread(target=self._ask, name="first-completion", daemon=True).start()

    def _ask(self) -> None:
        question = {
            "model": self._server.model,
            "prompt": _CHECK_PROMPT,
            "max_tokens": _CHECK_TOKENS,
            "ignore_eos": True,
            "temperature": 0,
        }
        self.answer = request(self._server, "/v1/completions", document=question, timeout_s=self._timeout_s)


def wait_ready(server: Server, watch: StartWatch) -> Ready | NotReady:
    """Poll `/health`, then ask for one completion, while the log, the process and the user may end the wait at once."""
    started = watch.clock()
    log = _LogReader(watch.log)
    completion: _Completion | None = None
    while True:
        seconds = watch.clock() - started
        failure = _failure(watch, log, seconds)
        if failure is not None:
            return failure
        if completion is None and request(server, "/health", timeout_s=_HEALTH_TIMEOUT_S).status == 200:
            completion = _Completion(server, watch.completion_timeout_s)
        if completion is not None and completion.answer is not None:
            return _judged(completion.answer, watch.clock() - started)
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


def _judged(answer: Answer, seconds: float) -> Ready | NotReady:
    if answer.status == 200:
        return Ready(seconds)
    said = f"HTTP {answer.status}: {answer.body[:300]}" if answer.status else answer.body
    return NotReady("no_answer", f"healthy, but its first completion failed: {said}", seconds)
