"""One level, sent by a tool: the plan is written down for it, it runs, and its results are read as our records."""

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.instruments import guidellm, vllm_bench
from autotune.instruments.client import Client, InstrumentFailed, InstrumentOverdue, OtherInstrument
from autotune.instruments.process import Command, Ended, Patience, busiest_share, run, tail
from autotune.instruments.reading import Reading, Unusable
from autotune.level_run import ClientUse, LevelRun, LevelWatch, RequestRecord
from autotune.workload import LevelPlan

START_S = 300.0  # for a tool to import its libraries and read the requests, on a busy host

_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy"})
_QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}


@dataclass(frozen=True, slots=True)
class _Tool:
    """How one tool is called, heard and read; the files are in a folder that lives as long as the run."""

    arguments: Callable[[LevelPlan, Client, Path], list[str]]
    environment: Callable[[Client], dict[str, str]]
    progress: Callable[[str, int], int | None]  # from the end of its output and the number of requests
    read: Callable[[LevelPlan, Path], Reading]


_TOOLS: Mapping[OtherInstrument, _Tool] = {
    "vllm-bench": _Tool(vllm_bench.arguments, vllm_bench.environment, vllm_bench.progress, vllm_bench.read),
    "guidellm": _Tool(guidellm.arguments, guidellm.environment, guidellm.progress, guidellm.read),
}


def send(client: Client, plan: LevelPlan, watch: LevelWatch) -> LevelRun:
    """Have a tool send a level, and return one record per request, in the plan's order.

    A stopped level comes back within some seconds and without records. `watch.hopeless` is not obeyed: no tool can be
    told. Raises InstrumentFailed when the tool fails or completes nothing, InstrumentOverdue when no request has ended
    for longer than the plan allows.
    """
    if not plan.requests:
        return LevelRun(())
    tool, log = _TOOLS[client.instrument], _fresh_log(client)
    with tempfile.TemporaryDirectory(prefix="autotune-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        argv = [str(client.executable), *tool.arguments(plan, client, folder)]
        command = Command(argv, _environment(client.environment) | tool.environment(client), folder, log)
        ended = _run(command, plan, watch, tool)
        if ended.exit_code is None and not ended.overdue:
            return LevelRun((), planned=len(plan.requests))
        _check_end(client, ended, log)
        try:
            reading = tool.read(plan, folder)
        except Unusable as problem:
            raise InstrumentFailed(f"{client.instrument} ended well, but {problem}", log, tail(log)) from problem
    return _level_run(client, plan, _with_time_outs(reading, plan.request_timeout_s), ended, log)


def quiet_s(plan: LevelPlan, *, tells_progress: bool) -> float:
    """Seconds without progress after which a tool is overdue: by then every request in flight has timed out.

    A tool that tells no progress is given the time that the whole level may take.
    """
    offsets_s = [0.0, *(request.offset_s for request in plan.requests)]
    if tells_progress:
        longest_gap_s = max(later - earlier for earlier, later in itertools.pairwise(offsets_s))
        return START_S + longest_gap_s + plan.request_timeout_s
    rounds = math.ceil(len(plan.requests) / plan.max_concurrency) if plan.max_concurrency else 1
    return START_S + max(offsets_s) + rounds * plan.request_timeout_s


def _run(command: Command, plan: LevelPlan, watch: LevelWatch, tool: _Tool) -> Ended:
    planned = len(plan.requests)

    def progress() -> int | None:
        done = tool.progress(tail(command.log), planned)
        if done is not None:
            watch.report(done, planned)
        return done

    tells = tool.progress("", planned) is not None
    try:
        return run(command, Patience(watch.stopped, progress, quiet_s(plan, tells_progress=tells)))
    except OSError as problem:
        raise InstrumentFailed(f"{command.argv[0]} cannot be started: {problem}", command.log) from problem


def _check_end(client: Client, ended: Ended, log: Path) -> None:
    if ended.overdue:
        raise InstrumentOverdue(f"{client.instrument} waited for answers in vain and was ended", log, tail(log))
    if ended.exit_code:
        raise InstrumentFailed(f"{client.instrument} ended with exit code {ended.exit_code}", log, tail(log))


def _level_run(client: Client, plan: LevelPlan, reading: Reading, ended: Ended, log: Path) -> LevelRun:
    good = [record for record in reading.records if record.error is None]
    if not good:
        first = reading.records[0].error
        raise InstrumentFailed(f"{client.instrument} completed no request; the first failed with: {first}", log)
    start_s = reading.start_s - (time.time() - time.monotonic() if reading.wall_clock else 0.0)
    share = busiest_share(ended.busy, start_s, start_s + max(record.end_s for record in reading.records))
    return LevelRun(reading.records, ClientUse(cpu_share=share), planned=len(plan.requests))


def _with_time_outs(reading: Reading, timeout_s: float) -> Reading:
    """No tool bounds a whole request: one that took longer than the workload allows counts as failed, as with ours."""

    def bounded(record: RequestRecord) -> RequestRecord:
        if record.error is not None or record.end_s - record.sent_s <= timeout_s:
            return record
        return replace(record, error=f"timed out after {timeout_s:g} s")

    return replace(reading, records=tuple(map(bounded, reading.records)))


def _environment(base: Mapping[str, str]) -> dict[str, str]:
    """The tool's environment: the engine is on this host, so no proxy, no hub, and nothing of a Ray it might join."""
    kept = {k: v for k, v in base.items() if k.lower() not in _PROXIES and not k.startswith("RAY_")}
    return kept | _QUIET


def _fresh_log(client: Client) -> Path:
    paths = (client.folder / f"{client.instrument}-{number}.log" for number in itertools.count(1))
    return next(path for path in paths if not path.exists())
