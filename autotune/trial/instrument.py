"""Another load client in place of our own."""

import os
from collections.abc import Callable

from autotune.engines import vllm
from autotune.engines.loopback import Server
from autotune.instruments import Client, InstrumentFailed, InstrumentOverdue, send
from autotune.level_run import LevelRun, LevelWatch
from autotune.loadgen import EngineStalled
from autotune.trial.ladder import Send
from autotune.trial.request import TrialRequest
from autotune.workload import LevelPlan


def tool_sender(request: TrialRequest, server: Server, settle: Callable[[], None]) -> Send:
    """Sends levels with the request's instrument.

    After failed requests `settle` is called, which waits for the end of an engine that dies: then that is what
    happened, and not that the tool failed. What is sent raises what `settle` raises, InstrumentFailed when the tool
    fails beside a healthy engine, and EngineStalled when no request has ended for too long.
    """
    client = _client(request, server)

    def send_level(plan: LevelPlan, watch: LevelWatch) -> LevelRun:
        try:
            run = send(client, plan, watch)
        except InstrumentOverdue as problem:
            raise EngineStalled(str(problem)) from problem
        except InstrumentFailed:
            settle()
            if watch.stopped():
                return LevelRun((), planned=len(plan.requests))
            raise
        if any(record.error is not None for record in run.records):
            settle()
        return run

    return send_level


def _client(request: TrialRequest, server: Server) -> Client:
    assert request.instrument != "autotune"
    profile = request.profile
    own = profile.environment if request.instrument == "vllm-bench" else {}  # it is that of the engine's environment
    executable = profile.executable if request.instrument == "vllm-bench" else request.guidellm
    assert executable is not None, "a job with GuideLLM is refused where there is none"
    return Client(
        instrument=request.instrument,
        executable=executable,
        base_url=server.base_url,
        model=server.model,
        model_folder=request.model.path,
        folder=request.artifacts,
        environment=vllm.environment(os.environ, own, model=server.model, api_key=server.api_key),
        api_key=server.api_key,
        trust_remote_code=bool(request.config.arguments.get("trust_remote_code")),
    )
