"""A server whose delays are known: it answers completions after drawn delays and stamps what it does.

`python benchmarks/delayed_server.py SEED SHORTEST_S LONGEST_S GAP_S` prints its port. A request is known by the first
token of its prompt. When its standard input closes it prints what it did as JSON and ends: by request, when the last
byte of it had come, and when each token was written, in seconds on its own monotonic clock.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
TOKEN = {
    "id": "cmpl-1a2b3c4d5e6f70819293a4b5c6d7e8f9",
    "object": "text_completion",
    "created": 1760000000,
    "model": "tiny",
    "choices": [{"index": 0, "text": " word", "logprobs": None, "finish_reason": None, "stop_reason": None}],
}


@dataclass(frozen=True, slots=True)
class Delays:
    """How long a request waits for its first token (drawn evenly between two bounds), and between two tokens."""

    shortest_s: float
    longest_s: float
    gap_s: float


class DelayedServer:
    """Answers every connection. `stamps_s` holds by request when it had come, then when each token was written."""

    def __init__(self, delays: Delays, seed: int) -> None:
        self.stamps_s: dict[int, list[float]] = {}
        self.delays = delays
        self.rng = random.Random(seed)


class Connection(asyncio.Protocol):
    """One connection: requests one after the other."""

    def __init__(self, server: DelayedServer) -> None:
        self._server = server
        self._rest = b""
        self._stamps_s: list[float] = []
        self._tokens_left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A request is stamped when its last byte is here."""
        now_s = time.monotonic()
        self._rest += data
        head, separator, body = self._rest.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        self._rest = b""
        if head.startswith(b"GET "):
            self._transport.write(HEALTHY)
        else:
            self._answer(now_s, json.loads(body))

    def _answer(self, now_s: float, document: dict[str, object]) -> None:
        prompt, self._tokens_left = document["prompt"], int(str(document["max_tokens"]))
        assert isinstance(prompt, list)
        self._stamps_s = self._server.stamps_s[prompt[0]] = [now_s]
        delays = self._server.delays
        self._write_at(now_s + self._server.rng.uniform(delays.shortest_s, delays.longest_s))

    def _write_at(self, due_s: float) -> None:
        asyncio.get_running_loop().call_at(due_s, self._write, due_s)

    def _write(self, due_s: float) -> None:
        if self._transport.is_closing():
            return
        first = len(self._stamps_s) == 1
        self._stamps_s.append(time.monotonic())
        self._transport.write(HEAD + TOKEN_CHUNK if first else TOKEN_CHUNK)
        self._tokens_left -= 1
        if self._tokens_left:
            self._write_at(due_s + self._server.delays.gap_s)
            return
        usage = {"prompt_tokens": 1, "completion_tokens": len(self._stamps_s) - 1}
        last = _chunk(json.dumps({"choices": [], "usage": usage}, separators=(",", ":"))) + _chunk("[DONE]")
        self._transport.write(last + b"0\r\n\r\n")


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _chunk(message: str) -> bytes:
    event = f"data: {message}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(event), event)


TOKEN_CHUNK = _chunk(json.dumps(TOKEN, separators=(",", ":")))


async def _serve(server: DelayedServer) -> None:
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: Connection(server), "127.0.0.1", 0, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    listening.close()


def main() -> None:
    """Serve until the standard input closes."""
    seed, shortest_s, longest_s, gap_s = map(float, sys.argv[1:])
    server = DelayedServer(Delays(shortest_s, longest_s, gap_s), int(seed))
    asyncio.run(_serve(server))
    json.dump(server.stamps_s, sys.stdout)


if __name__ == "__main__":
    main()
