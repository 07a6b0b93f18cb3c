"""One request and its answer over HTTP."""

import asyncio
from dataclasses import dataclass

import aiohttp

from autotune.loadgen.stream import BODY_EXCERPT, Stream, excerpt

MOST_SENDINGS = 3  # of one request


class TimedOut(Exception):
    """There was no complete answer in time: by our own clock, so it is no sign of life."""


@dataclass(slots=True)
class Way:
    """How a request went out."""

    reused: bool = False  # on a connection that had served another one


def noting_reuse() -> aiohttp.TraceConfig:
    """Tells a request's `Way` about its connection."""

    async def reused(_session: object, context: object, _params: object) -> None:
        if isinstance(way := getattr(context, "trace_request_ctx", None), Way):
            way.reused = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(reused)
    return trace


async def exchange(session: aiohttp.ClientSession, body: bytes, stream: Stream, timeout_s: float) -> str | None:
    """Post one request and feed its answer to the stream; what went wrong on the way, or None. Raises TimedOut.

    A server may close an idle connection in the moment in which a request goes out on it; such a request is sent again.
    """
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(MOST_SENDINGS - 1):
                way = Way()
                try:
                    return await _post(session, body, stream, way)
                except (aiohttp.ClientConnectionError, OSError):
                    if not way.reused or stream.has_begun:
                        raise
            return await _post(session, body, stream, Way())
    except TimeoutError as exc:
        raise TimedOut(f"no complete answer within {timeout_s:g} s") from exc
    except (aiohttp.ClientError, OSError) as exc:
        return f"{type(exc).__name__}: {exc}"


async def _post(session: aiohttp.ClientSession, body: bytes, stream: Stream, way: Way) -> str | None:
    # A redirect is an answer like others: who follows one measures another server, and takes the key there.
    question = session.post("v1/completions", data=body, allow_redirects=False, trace_request_ctx=way)
    async with question as response:
        if response.status != 200:
            return f"HTTP {response.status}: {excerpt(await response.content.read(4 * BODY_EXCERPT))}"
        content, feed = response.content, stream.feed
        while data := await content.readany():
            feed(data)
    stream.end()
    return None
