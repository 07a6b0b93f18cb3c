"""`vllm bench serve` of the engine's own environment.

Its dataset `timed_trace` sends token ids of exact lengths at given times. The ids themselves cannot be given: it draws
some for every `hash_id`. Here a hash id stands for one token and is that token's id, so what is sent is the plan with
every token id replaced by another, the same one everywhere: equal prefixes stay equal, whatever the dataset.
"""

import itertools
import json
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from autotune.instruments.client import Client
from autotune.instruments.reading import Reading, Unusable
from autotune.level_run import RequestRecord
from autotune.workload import LevelPlan

RESULT = "result.json"
_TRACE = "trace.jsonl"
_BAR = re.compile(r"\s(\d+)/(\d+) \[")  # tqdm: " 40%|████      | 8/20 [00:01<00:02,  6.00it/s]"


class Result(BaseModel):
    """What `--save-result --save-detailed` writes, as far as it is used; one entry per request, in the trace's order.

    Seconds; `start_times` on the clock of `time.perf_counter`. A failed request has an error or no output.
    """

    model_config = ConfigDict(frozen=True)

    input_lens: list[int]
    output_lens: list[int]
    start_times: list[float]
    ttfts: list[float]
    itls: list[list[float]]
    errors: list[str]
    duration: float


def arguments(plan: LevelPlan, client: Client, folder: Path) -> list[str]:
    """The command line; writes the requests into the folder."""
    trace = folder / _TRACE
    with trace.open("w", encoding="utf-8") as file:
        for request in plan.requests:
            row = {
                "timestamp": request.offset_s,
                "input_length": len(request.prompt),
                "output_length": request.max_tokens,
                "hash_ids": request.prompt,
            }
            file.write(json.dumps(row) + "\n")
    words = ["bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions", "--base-url", client.base_url]
    words += ["--model", client.model, "--tokenizer", str(client.model_folder)]
    words += ["--dataset-name", "timed_trace", "--dataset-path", str(trace), "--timed-trace-chunk-hash-size", "1"]
    words += ["--num-prompts", str(len(plan.requests)), "--extra-body", '{"temperature": 0}']
    words += ["--ready-check-timeout-sec", "0"]  # it would send the first prompt once more, into the prefix cache
    words += ["--save-result", "--save-detailed", "--result-dir", str(folder), "--result-filename", RESULT]
    if plan.max_concurrency is not None:
        words += ["--max-concurrency", str(plan.max_concurrency)]
    return [*words, "--trust-remote-code"] if client.trust_remote_code else words


def environment(client: Client) -> dict[str, str]:
    """Variables of the run: the key, and a fixed seed for the tokens that it draws, which come from Python's hash."""
    key = {"OPENAI_API_KEY": client.api_key} if client.api_key else {}
    return {"PYTHONHASHSEED": "0"} | key


def progress(output: str, planned: int) -> int | None:
    """Requests that have ended, from its progress bar."""
    counts = [int(done) for done, of in _BAR.findall(output) if int(of) == planned]
    return counts[-1] if counts else 0


def read(plan: LevelPlan, folder: Path) -> Reading:
    """Its results. Raises Unusable when there are none, or not one for every request."""
    try:
        result = Result.model_validate_json((folder / RESULT).read_bytes())
    except FileNotFoundError as problem:
        raise Unusable("wrote no results") from problem
    except ValidationError as problem:
        raise Unusable(f"its results cannot be read: {problem}") from problem
    columns = (result.input_lens, result.output_lens, result.start_times, result.ttfts, result.itls, result.errors)
    lengths = {len(column) for column in columns}
    if lengths != {len(plan.requests)}:
        raise Unusable(f"its results are of {sorted(lengths)} requests, not of {len(plan.requests)}")
    # The level's start is not told. No request is sent before its time, so the most punctual one comes closest.
    start_s = min(at_s - request.offset_s for at_s, request in zip(result.start_times, plan.requests, strict=True))
    records = tuple(_record(plan, result, index, start_s) for index in range(len(plan.requests)))
    return Reading(records, start_s, wall_clock=False)


def _record(plan: LevelPlan, result: Result, index: int, start_s: float) -> RequestRecord:
    request = plan.requests[index]
    sent_s = result.start_times[index] - start_s
    last_s = sent_s + result.ttfts[index] + sum(result.itls[index])
    failed = bool(result.errors[index]) or not result.output_lens[index]
    times_s = itertools.accumulate(result.itls[index], initial=sent_s + result.ttfts[index])
    return RequestRecord(
        index=index,
        scheduled_s=request.offset_s if plan.is_open_loop else sent_s,
        sent_s=sent_s,
        token_times_s=tuple(times_s) if result.ttfts[index] else (),
        end_s=max(last_s, result.duration) if failed else last_s,  # when a failed one ended is not told
        input_tokens=result.input_lens[index],
        output_tokens=result.output_lens[index],
        requested_tokens=request.max_tokens,
        error=_last_line(result.errors[index]) if failed else None,
        free_s=sent_s if plan.is_open_loop and plan.max_concurrency else None,  # it tells its own delay from the wait
    )


def _last_line(error: str) -> str:
    """Of a traceback the exception, else the reason of the HTTP status."""
    return error.strip().rpartition("\n")[2] or "failed, and vllm bench serve does not say why"
