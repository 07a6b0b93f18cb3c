"""Other instruments: which jobs they can measure, what they are told, and how their results are read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from autotune.errors import EnvironmentProblem, InputError
from autotune.instruments import Client, guidellm, problems, version_problem, vllm_bench
from autotune.instruments.level import _environment, _with_time_outs, quiet_s
from autotune.instruments.process import busiest_share
from autotune.instruments.reading import Reading, Unusable
from autotune.instruments.text import prompt_text
from autotune.level_run import LevelRun, RequestRecord
from autotune.measurement import load_point
from autotune.results import Load
from autotune.settings import Settings, built_in_profiles
from autotune.settings import guidellm as find_guidellm
from autotune.spec import Sla
from autotune.trial import TrialRequest
from autotune.trial.virtual import run_virtual
from autotune.tuner.context import JobContext, prepare
from autotune.tuner.sources import load_job
from autotune.workload import LevelPlan, PlannedRequest, Workload, load_tokenizer

DATA = Path(__file__).parent.parent / "data"
RECORDED = DATA / "instruments"
TINY = Path(__file__).parents[2] / "autotune" / "demo" / "tiny-llama"
TTFT = Sla.model_validate({"p99_ttft_ms": 200})
FIXED = {"kind": "fixed", "tokens": 8}


def workload(dataset: dict[str, Any] | None = None, **arrival: Any) -> Workload:
    synthetic = {"kind": "synthetic", "input_tokens": FIXED, "output_tokens": FIXED}
    return Workload.model_validate(
        {
            "version": 1,
            "name": "w",
            "dataset": dataset or synthetic,
            "arrival": arrival or {"kind": "poisson"},
            "levels": [4],
            "requests_per_level": 10,
        }
    )


def plan(*requests: tuple[float, int, int], users: int | None = None, kind: Any = "request_rate") -> LevelPlan:
    """Requests of (offset, prompt tokens, output tokens)."""
    planned = (
        PlannedRequest(index, at_s, tuple(range(50, 50 + length)), output)
        for index, (at_s, length, output) in enumerate(requests)
    )
    return LevelPlan(Load(kind=kind, value=4), tuple(planned), users, 30.0, 0)


RECORDED_PLAN = plan((0.0, 8, 4), (0.25, 8, 3), (0.5, 100, 4))


def client(folder: Path, instrument: Any = "vllm-bench", **environment: str) -> Client:
    return Client(
        instrument=instrument,
        executable=Path("/opt/tool"),
        base_url="http://127.0.0.1:8000",
        model="tiny",
        model_folder=TINY,
        folder=folder,
        environment=environment,
        api_key="secret-key",
    )


# Which jobs an instrument can measure


MULTI_TURN = {"kind": "multi_turn", "turns": {"kind": "fixed", "turns": 2}}


@pytest.mark.parametrize("kind", ["poisson", "constant", "closed_loop"])
@pytest.mark.parametrize("instrument", ["autotune", "vllm-bench", "guidellm"])
def test_every_instrument_can_send_plain_open_and_closed_loops(instrument, kind):
    assert problems(instrument, workload(kind=kind), TTFT) == []


def test_only_our_own_instrument_can_hold_conversations():
    talk = workload(MULTI_TURN | {"input_tokens": FIXED, "output_tokens": FIXED})
    assert problems("autotune", talk, TTFT) == []
    for instrument in ("vllm-bench", "guidellm"):
        assert problems(instrument, talk, TTFT) == [
            f"instrument {instrument}: workload 'w' has a multi_turn dataset, whose turns wait for the ones before; "
            "use instrument: autotune"
        ]


def test_guidellm_has_arrival_times_or_a_concurrency_but_not_both():
    both = workload(kind="poisson", max_concurrency=8)
    assert problems("vllm-bench", both, TTFT) == []
    assert problems("guidellm", both, TTFT) == [
        "instrument guidellm: workload 'w' has arrivals with max_concurrency; GuideLLM has either arrival times or a "
        "concurrency; use instrument: autotune or vllm-bench"
    ]


def test_guidellm_cannot_judge_an_itl_line():
    sla = Sla.model_validate({"p99_ttft_ms": 200, "p95_itl_ms": 30})
    assert problems("vllm-bench", workload(), sla) == []
    assert problems("guidellm", workload(), sla) == [
        "instrument guidellm: the SLA has p95_itl_ms, but GuideLLM keeps no time of single tokens; use a tpot line, or "
        "instrument: autotune or vllm-bench"
    ]


@pytest.mark.parametrize("version", ["0.23.0", "0.32.0+cpu", "1.0", "0.100.1"])
def test_vllm_can_be_the_instrument_from_0_23_on(version):
    assert version_problem("vllm-bench", version) is None


def test_an_older_vllm_cannot_be_the_instrument():
    told = version_problem("vllm-bench", "0.22.1")
    assert told is not None
    assert "the engine's vLLM 0.22.1 cannot send requests at given times" in told
    assert version_problem("autotune", "0.22.1") is None


def test_a_job_with_an_instrument_that_cannot_measure_it_is_refused_when_it_is_loaded(tmp_path):
    for file in (DATA / "job").iterdir():
        shutil.copy(file, tmp_path)
    with pytest.raises(InputError, match="instrument guidellm: the SLA has p95_itl_ms"):
        load_job(tmp_path / "job.yaml", ["instrument=guidellm", "sla.p95_itl_ms=30"])


def test_a_job_with_guidellm_is_refused_where_there_is_none(tmp_path, make_context: Callable[..., JobContext]):
    with pytest.raises(EnvironmentProblem, match="no GuideLLM is known; install it in an environment of its own"):
        make_context(tmp_path, "instrument=guidellm")


def test_a_guidellm_that_is_no_executable_is_named():
    with pytest.raises(EnvironmentProblem, match="/nowhere/guidellm is no executable"):
        find_guidellm(Settings(guidellm=Path("/nowhere/guidellm")))


def test_virtual_time_has_no_room_for_a_tool(tmp_path, make_context: Callable[..., JobContext]):
    context = make_context(tmp_path)
    request = TrialRequest(
        job=context.job.id,
        number=1,
        config=context.baseline,
        profile=built_in_profiles()["simulated"],
        resource="CPU",
        model=context.model,
        engine_version="",
        workload=context.workload,
        sla=context.spec.sla,
        levels=(),
        search_seed=0,
        confirm_seeds=(),
        folder=tmp_path,
        instrument="guidellm",
    )
    with pytest.raises(InputError, match="instrument guidellm: cannot run in virtual time"):
        run_virtual(request)


def test_a_simulated_engine_has_no_vllm_bench(tmp_path):
    for file in (DATA / "job").iterdir():
        shutil.copy(file, tmp_path)
    sources = load_job(
        tmp_path / "job.yaml", ["instrument=vllm-bench", "engine=simulated", f"model={TINY}", "devices.max_per_trial=1"]
    )
    with pytest.raises(InputError, match="'simulated' is simulated and has no `vllm bench serve`"):
        prepare(sources, Settings(home=tmp_path))


# What vllm bench serve is told


def test_vllm_bench_is_given_every_length_and_time_of_the_plan(tmp_path):
    vllm_bench.arguments(plan((0.0, 2, 4), (0.25, 3, 7)), client(tmp_path), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert rows == [
        {"timestamp": 0.0, "input_length": 2, "output_length": 4, "hash_ids": [50, 51]},
        {"timestamp": 0.25, "input_length": 3, "output_length": 7, "hash_ids": [50, 51, 52]},
    ]


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_vllm_bench_counts_every_hash_id_as_one_token_and_sends_no_probe(tmp_path):
    words = vllm_bench.arguments(RECORDED_PLAN, client(tmp_path), tmp_path)
    assert value(words, "--timed-trace-chunk-hash-size") == "1"
    assert value(words, "--ready-check-timeout-sec") == "0"
    assert value(words, "--num-prompts") == "3"
    assert "--max-concurrency" not in words


def test_vllm_bench_holds_the_plans_concurrency(tmp_path):
    closed = plan((0.0, 2, 4), users=6, kind="max_concurrency")
    assert value(vllm_bench.arguments(closed, client(tmp_path), tmp_path), "--max-concurrency") == "6"


@pytest.mark.parametrize(
    ("tool", "variable"), [(vllm_bench, "OPENAI_API_KEY"), (guidellm, "GUIDELLM__SPEC__BACKEND__API_KEY")]
)
def test_the_key_is_in_the_environment_and_never_in_argv_or_in_a_file(tool, variable, tmp_path):
    words = tool.arguments(RECORDED_PLAN, client(tmp_path), tmp_path)
    written = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "secret-key" not in " ".join(words) + written
    assert tool.environment(client(tmp_path))[variable] == "secret-key"


def test_a_tool_sees_no_proxy_and_no_ray():
    kept = _environment({"HTTPS_PROXY": "http://p", "no_proxy": "x", "RAY_ADDRESS": "auto", "PATH": "/bin"})
    assert {"PATH"} == kept.keys() & {"HTTPS_PROXY", "no_proxy", "RAY_ADDRESS", "PATH"}


def test_vllm_bench_tells_its_progress_by_its_bar():
    output = "  0%|          | 0/20 [00:00<?, ?it/s]\r 40%|####      | 8/20 [00:01<00:02,  6.00it/s]"
    assert vllm_bench.progress(output, 20) == 8
    assert vllm_bench.progress("Loading: 3/7 [00:01<", 20) == 0


# What GuideLLM is told


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]


def test_guidellm_has_an_uncounted_request_before_an_open_loop_and_one_that_is_never_due(tmp_path):
    """The first opens the client; the last is there because GuideLLM at times loses the last one."""
    guidellm.arguments(plan((0.0, 8, 4), (0.25, 8, 3)), client(tmp_path), tmp_path)
    sent = [(row["relative_timestamp"], row["duration"], row["output_tokens_count"]) for row in rows_of(tmp_path)]
    assert sent == [(0.0, None, 1), (2.0, 0, 4), (2.25, 1, 3), (86402.25, None, 1)]
    scenario = json.loads((tmp_path / "scenario.json").read_text())
    assert scenario["spec"]["constraints"] == [{"kind": "min_requests", "count": 3}]


def test_guidellm_sends_a_closed_loop_with_as_many_streams_as_users(tmp_path):
    guidellm.arguments(plan((0.0, 8, 4), users=6, kind="max_concurrency"), client(tmp_path), tmp_path)
    scenario = json.loads((tmp_path / "scenario.json").read_text())
    assert scenario["spec"]["profile"] == {"kind": "concurrent", "streams": [6]}
    assert [row.get("relative_timestamp") for row in rows_of(tmp_path)] == [None]


def test_the_caller_may_give_guidellm_more_workers(tmp_path):
    name = "GUIDELLM__MAX_WORKER_PROCESSES"
    assert guidellm.environment(client(tmp_path))[name] == "1"
    assert guidellm.environment(client(tmp_path, **{name: "8"}))[name] == "8"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(TINY)


@settings(max_examples=50, deadline=None)
@given(prompt=st.lists(st.integers(0, 340), min_size=1, max_size=60).map(tuple))
def test_a_prompt_as_text_is_never_empty_and_never_longer(tokenizer, prompt):
    text = prompt_text(tokenizer, prompt)
    # Half a character alone becomes a mark of three bytes: a prompt of less cannot be told.
    assert 1 <= len(tokenizer.encode(text, add_special_tokens=False).ids) <= max(3, len(prompt))


def test_plain_text_keeps_its_tokens(tokenizer):
    ids = tuple(tokenizer.encode("the quick brown fox", add_special_tokens=False).ids)
    assert prompt_text(tokenizer, ids) == "the quick brown fox"


def test_a_text_that_melts_into_fewer_tokens_is_filled_up(tokenizer):
    the = tokenizer.encode("the", add_special_tokens=False).ids[0]
    text = prompt_text(tokenizer, (the,) * 12)
    assert len(tokenizer.encode(text, add_special_tokens=False).ids) == 12


def test_a_model_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match=f"model {tmp_path}: has no tokenizer.json"):
        load_tokenizer(tmp_path)


# How results are read


def recorded(name: str, folder: Path) -> Path:
    shutil.copy(RECORDED / f"{name}.json", folder / "result.json")
    return folder


def test_a_recorded_result_of_vllm_bench_becomes_records(tmp_path):
    reading = vllm_bench.read(RECORDED_PLAN, recorded("vllm-bench", tmp_path))
    first, second, third = reading.records
    assert (first.scheduled_s, first.sent_s, first.error) == (0.0, 0.0, None)
    assert first.token_times_s == pytest.approx((0.0091595, 0.0144152, 0.0188055, 0.0230953), abs=1e-6)
    assert (first.input_tokens, first.output_tokens, first.requested_tokens) == (8, 4, 4)
    assert second.scheduled_s == 0.25
    assert second.lag_s == pytest.approx(0.000793, abs=1e-6)
    assert second.end_s == second.token_times_s[-1]
    assert (third.error, third.output_tokens, third.token_times_s) == ("Bad Request", 0, ())
    assert reading.start_s == pytest.approx(26981.665483, abs=1e-6)


def test_a_recorded_result_of_guidellm_becomes_records(tmp_path):
    reading = guidellm.read(RECORDED_PLAN, recorded("guidellm", tmp_path))
    first, second, third = reading.records
    assert (first.scheduled_s, first.error) == (0.0, None)
    assert first.lag_s == pytest.approx(0.002382, abs=1e-5)
    assert first.token_times_s == pytest.approx((0.011530, 0.015739, 0.019948, 0.024157), abs=1e-5)
    assert (first.input_tokens, first.output_tokens, first.requested_tokens) == (2, 4, 4)
    assert (second.scheduled_s, second.output_tokens) == (0.25, 3)
    assert third.error is not None
    assert "400 Bad Request" in third.error
    assert third.token_times_s == ()


@pytest.mark.parametrize(("name", "tool"), [("vllm-bench", vllm_bench), ("guidellm", guidellm)])
def test_the_same_load_point_comes_out_of_every_tool(name, tool, tmp_path):
    reading = tool.read(RECORDED_PLAN, recorded(name, tmp_path))
    point = load_point(
        LevelRun(reading.records, planned=3), level=0, load=RECORDED_PLAN.load, devices=1, seed=0, sla=TTFT
    )
    assert (point.completed, point.failed) == (2, 1)
    assert point.output_throughput * point.duration_s == pytest.approx(7)
    assert point.ttft.at(99).value_ms is None  # one of three failed: vLLM itself would leave it out
    assert point.ttft.at(50).value_ms == pytest.approx(10.5, abs=1.5)
    assert point.tpot.at(50).value_ms == pytest.approx(4.6, abs=0.6)


def result(**changes: Any) -> dict[str, Any]:
    """What vllm bench serve writes of two requests."""
    return {
        "input_lens": [8, 8],
        "output_lens": [3, 3],
        "start_times": [100.0, 100.5],
        "ttfts": [0.1, 0.1],
        "itls": [[0.02, 0.02], [0.02, 0.02]],
        "errors": ["", ""],
        "duration": 0.64,
    } | changes


TWO = plan((0.0, 8, 3), (0.25, 8, 3))


def test_a_request_that_failed_lasts_until_the_tools_end(tmp_path):
    """When it failed is not told; without it the level would seem shorter, and its throughput higher."""
    (tmp_path / "result.json").write_text(json.dumps(result(errors=["", "timed out"], ttfts=[0.1, 0.0], duration=30.0)))
    good, failed = vllm_bench.read(TWO, tmp_path).records
    assert (good.end_s, failed.end_s) == (pytest.approx(0.14), 30.0)


def test_the_level_starts_when_the_most_punctual_request_says_so(tmp_path):
    late_first = result(start_times=[100.5, 100.25])
    (tmp_path / "result.json").write_text(json.dumps(late_first))
    reading = vllm_bench.read(TWO, tmp_path)
    assert reading.start_s == 100.0
    assert [record.lag_s for record in reading.records] == [0.5, 0.0]


def test_in_a_closed_loop_a_request_is_scheduled_when_it_is_sent(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(result()))
    closed = plan((0.0, 8, 3), (0.0, 8, 3), users=1, kind="max_concurrency")
    assert [(r.scheduled_s, r.sent_s) for r in vllm_bench.read(closed, tmp_path).records] == [(0.0, 0.0), (0.5, 0.5)]


def test_waiting_for_a_place_counts_in_the_latency_and_not_as_lag(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(result()))
    second = vllm_bench.read(plan((0.0, 8, 3), (0.25, 8, 3), users=1), tmp_path).records[1]
    assert (second.scheduled_s, second.free_s, second.lag_s) == (0.25, 0.5, 0.0)


def test_of_a_traceback_the_exception_is_kept(tmp_path):
    broken = result(
        output_lens=[3, 0], errors=["", 'Traceback (most recent call last):\n  File "x"\nTimeoutError: 9\n']
    )
    (tmp_path / "result.json").write_text(json.dumps(broken))
    assert vllm_bench.read(TWO, tmp_path).records[1].error == "TimeoutError: 9"


def test_a_request_without_output_has_failed_even_when_no_reason_is_given(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(result(output_lens=[3, 0])))
    errors = [record.error for record in vllm_bench.read(TWO, tmp_path).records]
    assert errors == [None, "failed, and vllm bench serve does not say why"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "wrote no results"),
        ("{", "cannot be read"),
        ('{"completed": 2}', "cannot be read"),
        (json.dumps(result(errors=[""])), r"of \[1, 2\] requests, not of 2"),
    ],
)
def test_results_of_vllm_bench_that_cannot_be_used_are_explained(text, told, tmp_path):
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(Unusable, match=told):
        vllm_bench.read(TWO, tmp_path)


def test_a_request_that_guidellm_lost_has_failed(tmp_path):
    document = json.loads((RECORDED / "guidellm.json").read_text())
    successful = document["benchmarks"][0]["requests"]["successful"]
    document["benchmarks"][0]["requests"]["successful"] = [
        request for request in successful if request["info"]["settings"]["trace_duration"] != 1.0
    ]
    (tmp_path / "result.json").write_text(json.dumps(document))
    lost = guidellm.read(RECORDED_PLAN, tmp_path).records[1]
    assert (lost.index, lost.scheduled_s, lost.error) == (1, 0.25, "GuideLLM has no result of this request")


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"benchmarks": []}, "of 0 benchmarks, not of one"),
        ({"benchmarks": [{"requests": {"successful": [], "errored": [], "incomplete": []}}]}, "name no request"),
        ({"benchmarks": [{}]}, "cannot be read"),
    ],
)
def test_results_of_guidellm_that_cannot_be_used_are_explained(document, told, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(document))
    with pytest.raises(Unusable, match=told):
        guidellm.read(RECORDED_PLAN, tmp_path)


def record(index: int, sent_s: float, end_s: float, error: str | None = None) -> RequestRecord:
    return RequestRecord(index, sent_s, sent_s, (end_s,), end_s, 8, 3, 3, error)


def test_an_answer_that_took_longer_than_the_workload_allows_has_failed():
    read = Reading((record(0, 0.0, 5.0), record(1, 1.0, 6.5), record(2, 0.0, 9.0, "gone")), 0.0, wall_clock=False)
    assert [r.error for r in _with_time_outs(read, 5.0).records] == [None, "timed out after 5 s", "gone"]


# How long a tool may take


def test_a_tool_that_tells_its_progress_is_overdue_when_every_request_has_timed_out():
    assert quiet_s(plan((0.0, 1, 1), (4.0, 1, 1), (5.0, 1, 1)), tells_progress=True) == 300 + 4 + 30


def test_a_tool_that_tells_nothing_gets_the_time_of_the_whole_level():
    assert quiet_s(plan((0.0, 1, 1), (4.0, 1, 1)), tells_progress=False) == 300 + 4 + 30
    three = plan((0.0, 1, 1), (0.0, 1, 1), (0.0, 1, 1), users=2, kind="max_concurrency")
    assert quiet_s(three, tells_progress=False) == 300 + 2 * 30


def test_the_share_of_the_cpu_is_that_of_the_busiest_process_while_the_level_ran():
    busy = [(0.0, {1: 0.0}), (10.0, {1: 9.0, 2: 0.0}), (12.0, {1: 9.5, 2: 1.0}), (14.0, {1: 10.0, 2: 2.0})]
    assert busiest_share(busy, 10.5, 13.5) == 0.5
    assert busiest_share(busy, 0.0, 1.0) == 0.9  # the start-up, were it the level
    assert busiest_share(busy[:1], 0.0, 1.0) == 0.0
