"""One request and its answer over HTTP."""

import asyncio

import aiohttp

from autotune.loadgen.stream import BODY_EXCERPT, Stream, excerpt


class TimedOut(Exception):
    """There was no complete answer in time: by our own clock, so it is no sign of life."""


async def exchange(session: aiohttp.ClientSession, body: bytes, stream: Stream, timeout_s: float) -> str | None:
    """Post one request and feed its answer to the stream; what went wrong on the way, or None. Raises TimedOut."""
    try:
        async with asyncio.timeout(timeout_s), session.post("/v1/completions", data=body) as response:
            if response.status != 200:
                return f"HTTP {response.status}: {excerpt(await response.content.read(4 * BODY_EXCERPT))}"
            content, feed = response.content, stream.feed
            while data := await content.readany():
                feed(data)
    except TimeoutError as exc:
        raise TimedOut(f"no complete answer within {timeout_s:g} s") from exc
    except (aiohttp.ClientError, OSError) as exc:
        return f"{type(exc).__name__}: {exc}"
    return None
