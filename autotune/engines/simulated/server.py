"""The HTTP server: what a client of `vllm serve` uses, answered at the pace of the simulated device."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from autotune.engines.simulated import launch as launching
from autotune.engines.simulated import transcript
from autotune.engines.simulated.core import Core
from autotune.engines.simulated.exchange import BadRequest, Exchange
from autotune.engines.simulated.model import Model
from autotune.engines.simulated.options import Options
from autotune.engines.simulated.paced import PacedEngine

ENGINE: web.AppKey[PacedEngine] = web.AppKey("engine", PacedEngine)
"""Where an application keeps its engine."""


def application(options: Options, key: str | None, model: Model) -> web.Application:
    """The server's application; requests below /v1 must carry `key` when there is one.

    Raises Refused when vLLM would not start with these options.
    """
    app = web.Application(middlewares=[_authorized(key)] if key else [], client_max_size=64 * 2**20)
    app[ENGINE] = PacedEngine(Core(launching.prepare(options, model)))
    app.router.add_get("/health", _health)
    app.router.add_get("/ping", _health)
    app.router.add_get("/version", _version)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/v1/models", _models)
    app.router.add_post("/v1/completions", _completions)
    app.router.add_post("/v1/chat/completions", _chat_completions)
    app.cleanup_ctx.append(_running)
    return app


def serve(app: web.Application, options: Options) -> None:
    """Listen on the options' host and port until SIGTERM or SIGINT."""
    asyncio.run(_serve(app, options))


def runner(app: web.Application) -> web.AppRunner:
    """What serves the application. A client that goes away ends its request at once, as it does in vLLM."""
    return web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)


async def _serve(app: web.Application, options: Options) -> None:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as vLLM: the supervisor holds the port until now
    listener.bind((options.host, options.port))
    serving = runner(app)
    await serving.setup()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await web.SockSite(serving, listener, backlog=2048).start()
    line = transcript.now().line("APIServer", "INFO", "launcher.py:46", "Application startup complete.")
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    await stop.wait()
    await serving.cleanup()


async def _running(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(app[ENGINE].run())
    task.add_done_callback(_end_with_engine)
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _end_with_engine(task: asyncio.Task[None]) -> None:
    """A server whose engine has died must not look healthy."""
    if not task.cancelled() and (problem := task.exception()) is not None:
        traceback.print_exception(problem)
        signal.raise_signal(signal.SIGTERM)


def _authorized(key: str) -> Any:
    @web.middleware
    async def authorize(request: web.Request, handler: Any) -> Any:
        if request.path.startswith("/v1") and request.headers.get("Authorization") != f"Bearer {key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    return authorize


async def _health(_: web.Request) -> web.Response:
    return web.Response()


async def _version(_: web.Request) -> web.Response:
    return web.json_response({"version": transcript.VERSION})


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(text=request.app[ENGINE].metrics.exposition(), content_type="text/plain")


async def _models(request: web.Request) -> web.Response:
    launch = request.app[ENGINE].core.launch
    entry = {
        "id": launch.options.name,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "vllm",
        "root": launch.options.model,
        "parent": None,
        "max_model_len": launch.max_model_len,
    }
    return web.json_response({"object": "list", "data": [entry]})


async def _completions(request: web.Request) -> web.StreamResponse:
    return await _answer(request, chat=False)


async def _chat_completions(request: web.Request) -> web.StreamResponse:
    return await _answer(request, chat=True)


async def _answer(request: web.Request, *, chat: bool) -> web.StreamResponse:
    engine = request.app[ENGINE]
    try:
        exchange = Exchange(await request.json(), engine.core.launch, chat=chat)
    except BadRequest as refused:
        return web.json_response(refused.document, status=refused.status)
    except ValueError as exc:
        return web.json_response(BadRequest(f"The request is not JSON: {exc}").document, status=400)
    if exchange.streamed:
        return await _stream(request, exchange)
    async with contextlib.aclosing(engine.answer(exchange.prompt, exchange.max_tokens)) as tokens:
        async for _ in tokens:
            pass
    return web.json_response(exchange.whole())


async def _stream(request: web.Request, exchange: Exchange) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    token = _event(exchange.chunk(last=False))  # all alike but the last: what is said does not matter
    left = exchange.max_tokens
    async with contextlib.aclosing(request.app[ENGINE].answer(exchange.prompt, exchange.max_tokens)) as tokens:
        async for _ in tokens:
            left -= 1
            await response.write(token if left else _event(exchange.chunk(last=True)))
    if exchange.with_usage:
        await response.write(_event(exchange.usage_chunk()))
    await response.write(b"data: [DONE]\n\n")
    return response


def _event(document: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
