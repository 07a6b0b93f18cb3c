"""One streamed answer: its server-sent events, timed as they arrive."""

import json
from collections.abc import Callable
from typing import Any, Protocol

BODY_EXCERPT = 200  # characters of an error answer that are kept

# Quotes inside generated text are escaped, so these cannot come from there.
_COMPACT_MARK, _SPACED_MARK = b'"choices":[{', b'"choices": [{'
_COMPACT_USAGE, _SPACED_USAGE = b'"usage":{', b'"usage": {'  # vLLM says "usage":null beside tokens, or leaves it out


class Listener(Protocol):
    """Who is told of tokens while they arrive."""

    def token(self, index: int, at_s: float, *, first: bool) -> None:
        """One or several chunks with tokens are here."""


class Stream:
    """The events of one answer. Chunks with tokens are recognised by their bytes, not decoded."""

    __slots__ = (
        "_error",
        "_index",
        "_listener",
        "_now_s",
        "_rest",
        "done_s",
        "has_begun",
        "input_tokens",
        "output_tokens",
        "token_times_s",
        "usage_seen",
    )

    def __init__(self, index: int, now_s: Callable[[], float], listener: Listener) -> None:
        self.token_times_s: list[float] = []
        self.input_tokens = 0
        self.output_tokens = 0
        self.usage_seen = False
        self.has_begun = False  # whether anything of the answer has arrived
        self.done_s: float | None = None
        self._error: str | None = None
        self._index = index
        self._now_s = now_s
        self._listener = listener
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what arrived now: any number of events, the last one perhaps incomplete."""
        now_s = self._now_s()
        self.has_begun = True
        times_s = self.token_times_s
        before = len(times_s)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # blank lines and comments (pings)
            if _COMPACT_MARK in line or _SPACED_MARK in line:
                times_s.append(now_s)
                if _COMPACT_USAGE in line or _SPACED_USAGE in line:
                    self._take_message(line[5:])
            elif line[5:].strip() == b"[DONE]":
                self.done_s = now_s
            elif self._take_message(line[5:]):
                times_s.append(now_s)
        if len(times_s) > before:
            self._listener.token(self._index, now_s, first=not before)

    def end(self) -> None:
        """Nothing more arrives: what is left is a line, though none says so."""
        if self._rest:
            self.feed(b"\n")

    def problem(self, requested_tokens: int, *, exact: bool = True) -> str | None:
        """Why the finished answer does not count, or None. Not `exact`: it may be shorter than was asked for."""
        if self._error is not None:
            return self._error
        if self.done_s is None:
            return f"the stream ended without [DONE] after {len(self.token_times_s)} chunks"
        if not self.usage_seen:
            return "the stream ended without usage; the server must honour stream_options.include_usage"
        if self.output_tokens != requested_tokens and (exact or not 0 < self.output_tokens < requested_tokens):
            return f"asked for {requested_tokens} tokens, got {self.output_tokens}"
        return None if self.token_times_s else "usage counts tokens, but no chunk carried any"

    def _take_message(self, payload: bytes) -> bool:
        """Read a chunk in whole; whether it has tokens."""
        try:
            message: Any = json.loads(payload)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self._error = f"unreadable chunk: {excerpt(payload)}"
            return False
        if message.get("error") is not None:
            self._error = f"error in the stream: {excerpt(payload)}"
        if isinstance(usage := message.get("usage"), dict):
            self._take_usage(usage, payload)
        return bool(message.get("choices"))

    def _take_usage(self, usage: dict[str, Any], payload: bytes) -> None:
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        if any(not isinstance(count, int) or count < 0 for count in counts if count is not None):
            self._error = f"usage without whole numbers: {excerpt(payload)}"
            return
        self.usage_seen = True
        self.input_tokens, self.output_tokens = (count or 0 for count in counts)


def excerpt(data: bytes) -> str:
    """The beginning of what a server said."""
    return data.decode(errors="replace").strip()[:BODY_EXCERPT]
