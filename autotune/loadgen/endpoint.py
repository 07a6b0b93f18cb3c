"""Where an engine listens, how it is reached, and what a request says."""

import asyncio
import contextlib
import json
import resource
from dataclasses import dataclass, field

import aiohttp

from autotune.errors import EnvironmentProblem
from autotune.loadgen.exchange import noting_reuse
from autotune.workload import PlannedRequest

KEEPALIVE_S = (
    2.0  # below the 5 s after which vLLM closes an idle connection: reusing a closing one looks like a failure
)
CONNECT_S = 5.0  # connections that are not there by then are made when they are needed
SPARE_FILES = 128  # descriptors besides one per request: logs, pipes, the actor's own connections


class TooFewFiles(EnvironmentProblem):
    """The process may not open a connection for each request of a level."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine listens, and under which name and key.

    `exact` answers have the planned length, whatever the model would say (`ignore_eos`); else they may be shorter.
    """

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)
    exact: bool = True


def open_session(endpoint: Endpoint) -> aiohttp.ClientSession:
    """A pool of connections to the endpoint, without a limit and without clocks of its own."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    return aiohttp.ClientSession(
        base_url=endpoint.base_url.rstrip("/") + "/",
        headers=headers,
        # No limit here: the plan says how many are in flight, and aiohttp's default of 100 would queue the rest unseen.
        trace_configs=[noting_reuse()],
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
        # One clock per request, in `exchange`: aiohttp's own rounds time-outs up to whole seconds.
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
    )


async def open_connections(session: aiohttp.ClientSession, count: int) -> None:
    """Have `count` connections ready, so that users who all start at once do not wait for each other's connects.

    Each asks for `/health`, all before any is answered. Whatever goes wrong is left for the level itself to meet.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CONNECT_S):
            await asyncio.gather(*(_ask_health(session) for _ in range(count)))


async def _ask_health(session: aiohttp.ClientSession) -> None:
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with session.get("health", allow_redirects=False) as response:
            await response.read()


def body(request: PlannedRequest, endpoint: Endpoint) -> bytes:
    """The JSON document that asks for the planned tokens, as a stream with usage."""
    document = {
        "model": endpoint.model,
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        **({"ignore_eos": True} if endpoint.exact else {}),
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def allow_connections(count: int) -> None:
    """Raise the soft limit of open files where needed: an overloaded open loop holds one connection per request.

    Raises TooFewFiles when the hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise TooFewFiles(
            f"the level may need {count} connections, but the process may open only {hard} files; "
            "raise the hard limit (ulimit -Hn, or LimitNOFILE of the service), or lower requests_per_level"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
