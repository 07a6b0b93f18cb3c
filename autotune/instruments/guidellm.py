"""GuideLLM (0.8), from an environment of its own.

Open loop: its profile `replay` sends every row of a dataset at the row's time. Closed loop: its profile `concurrent`.
Prompts are text, and of a request's tokens it keeps the first time, the last time and their number.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from autotune.instruments.client import Client
from autotune.instruments.reading import Reading, Unusable
from autotune.instruments.text import prompt_text
from autotune.level_run import RequestRecord
from autotune.workload import LevelPlan, load_tokenizer

RESULT = "result.json"
LEAD_S = 2.0  # before the level's start: its workers take up to a second over their first request
NEVER_S = 86400.0
LEFT_OUT = "GuideLLM has no result of this request"

_DATASET, _SCENARIO = "requests.jsonl", "scenario.json"
_WORKERS = "1"  # its ten would take all cores of a small host while they start
_START_DELAY_S = "3"  # between the start of the workers and the schedule; its own second is too short for them


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Timings(_Lenient):
    targeted_start: float | None
    resolve_start: float | None
    request_start: float | None
    first_token_iteration: float | None
    last_token_iteration: float | None
    token_iterations: int
    request_end: float | None
    resolve_end: float | None


class _Settings(_Lenient):
    trace_duration: float | None  # see `_row`: the request's index


class _Info(_Lenient):
    timings: _Timings
    settings: _Settings
    error: str | None


class _Usage(_Lenient):
    text_tokens: int | None


class _Request(_Lenient):
    info: _Info
    input_metrics: _Usage
    output_metrics: _Usage


class _Requests(_Lenient):
    successful: list[_Request]
    errored: list[_Request]
    incomplete: list[_Request]


class _Benchmark(_Lenient):
    requests: _Requests


class Report(_Lenient):
    """What `--output kind=json` writes, as far as it is used. Times are Unix time (s)."""

    benchmarks: list[_Benchmark]


def arguments(plan: LevelPlan, client: Client, folder: Path) -> list[str]:
    """The command line; writes the requests and the scenario into the folder."""
    tokenizer = load_tokenizer(client.model_folder)
    rows = [_row(plan, index, prompt_text(tokenizer, request.prompt)) for index, request in enumerate(plan.requests)]
    if plan.is_open_loop:
        rows = [_uncounted(0.0), *rows, _uncounted(LEAD_S + plan.requests[-1].offset_s + NEVER_S)]
    (folder / _DATASET).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / _SCENARIO).write_text(json.dumps({"spec": _spec(plan, client, folder)}), encoding="utf-8")
    return ["run", "--config", str(folder / _SCENARIO), "--disable-console-interactive"]


def environment(client: Client) -> dict[str, str]:
    """Variables of the run: the key, and settings of its own that the caller's environment may override."""
    settings = {
        "GUIDELLM__MAX_WORKER_PROCESSES": _WORKERS,
        "GUIDELLM__SCHEDULER_START_DELAY_NON_DISTRIBUTED": _START_DELAY_S,
    }
    key = {"GUIDELLM__SPEC__BACKEND__API_KEY": client.api_key} if client.api_key else {}
    return settings | {name: client.environment[name] for name in settings if name in client.environment} | key


def progress(_output: str, _planned: int) -> int | None:
    """It tells none outside a terminal."""
    return None


def read(plan: LevelPlan, folder: Path) -> Reading:
    """Its results; a request that it does not tell of has failed. Raises Unusable when there are no results."""
    try:
        report = Report.model_validate_json((folder / RESULT).read_bytes())
    except FileNotFoundError as problem:
        raise Unusable("wrote no results") from problem
    except ValidationError as problem:
        raise Unusable(f"its results cannot be read: {problem}") from problem
    if len(report.benchmarks) != 1:
        raise Unusable(f"its results are of {len(report.benchmarks)} benchmarks, not of one")
    found = _by_index(report.benchmarks[0].requests)
    if not found:
        raise Unusable("its results name no request of the level")
    start_s = min(_start_s(plan, index, request.info.timings) for index, request in found.items())
    records = [_record(plan, index, found.get(index), start_s) for index in range(len(plan.requests))]
    return Reading(tuple(records), start_s, wall_clock=True)


def _row(plan: LevelPlan, index: int, prompt: str) -> dict[str, Any]:
    request = plan.requests[index]
    row = {"prompt": prompt, "output_tokens_count": request.max_tokens}
    # The results come in the order of their ends and without a name. A row's `duration`, which these profiles do not
    # use, comes back with its result: it carries the index.
    row["duration"] = index
    return row | ({"relative_timestamp": LEAD_S + request.offset_s} if plan.is_open_loop else {})


def _uncounted(at_s: float) -> dict[str, Any]:
    """A request around the level.

    The one before it opens the client and its connection. The one after it is never sent: GuideLLM 0.8.1 sometimes
    loses the last request of its dataset, or waits for it for ever, and so ends when all the others are done.
    """
    return {"prompt": ".", "output_tokens_count": 1, "duration": None, "relative_timestamp": at_s}


def _spec(plan: LevelPlan, client: Client, folder: Path) -> dict[str, Any]:
    if plan.is_open_loop:
        profile: dict[str, Any] = {"kind": "replay", "schedule_turn": "timestamp"}
    else:
        profile = {"kind": "concurrent", "streams": [plan.max_concurrency]}
    ends = [{"kind": "min_requests", "count": len(plan.requests) + 1}] if plan.is_open_loop else []
    return {
        "backend": {
            "kind": "openai_http",
            "target": client.base_url,
            "model": client.model,
            "request_format": "/v1/completions",
            "http2": False,
            "timeout": plan.request_timeout_s,
            "validate_backend": False,
            "extras": {"body": {"temperature": 0, "add_special_tokens": False}},
        },
        "profile": profile,
        "constraints": ends,
        "tokenizer": {"kind": "huggingface_auto", "model": str(client.model_folder)},
        "data": [{"kind": "json_file", "path": str(folder / _DATASET)}],
        "outputs": [{"kind": "json", "path": str(folder / RESULT)}],
        "metrics": {"kind": "generative", "sample_size": 0},  # no texts
    }


def _by_index(requests: _Requests) -> dict[int, _Request]:
    known = [
        *requests.successful,
        *(_failed(request, LEFT_OUT) for request in requests.incomplete),
        *(_failed(request, "failed, and GuideLLM does not say why") for request in requests.errored),
    ]
    marked = {r.info.settings.trace_duration: r for r in known if _sent(r.info.timings) is not None}
    return {int(mark): request for mark, request in marked.items() if mark is not None}


def _failed(request: _Request, reason: str) -> _Request:
    error = (request.info.error or "").strip().partition("\n")[0] or reason
    return request.model_copy(update={"info": request.info.model_copy(update={"error": error})})


def _sent(timings: _Timings) -> float | None:
    return timings.request_start or timings.resolve_start


def _start_s(plan: LevelPlan, index: int, timings: _Timings) -> float:
    """When the level began, from one request: its target is exact, or else no request is sent before its time."""
    at_s = timings.targeted_start if plan.is_open_loop and timings.targeted_start else _sent(timings)
    assert at_s is not None
    return at_s - plan.requests[index].offset_s


def _record(plan: LevelPlan, index: int, found: _Request | None, start_s: float) -> RequestRecord:
    request = plan.requests[index]
    if found is None:
        at_s = request.offset_s
        return RequestRecord(index, at_s, at_s, (), at_s, len(request.prompt), 0, request.max_tokens, LEFT_OUT)
    timings = found.info.timings
    sent_s = (_sent(timings) or start_s) - start_s
    times_s = _token_times_s(timings, start_s)
    end_s = (timings.request_end or timings.resolve_end or start_s + sent_s) - start_s
    return RequestRecord(
        index=index,
        scheduled_s=request.offset_s if plan.is_open_loop else sent_s,
        sent_s=sent_s,
        token_times_s=times_s,
        end_s=end_s,
        input_tokens=found.input_metrics.text_tokens or 0,
        output_tokens=found.output_metrics.text_tokens or 0,
        requested_tokens=request.max_tokens,
        error=found.info.error if times_s else found.info.error or "no token came",
    )


def _token_times_s(timings: _Timings, start_s: float) -> tuple[float, ...]:
    """The first and the last are measured, those between are evenly spread: TTFT and TPOT are true, the ITL is not."""
    first, last, count = timings.first_token_iteration, timings.last_token_iteration, timings.token_iterations
    if first is None or last is None:
        return ()
    step_s = (last - first) / max(1, count - 1)
    return tuple(first - start_s + step_s * position for position in range(max(1, count)))
