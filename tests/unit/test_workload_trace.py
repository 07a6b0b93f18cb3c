"""Traces: the columns that are known, what rows mean, and how they are replayed."""

import json
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import InputError
from autotune.results import Load
from autotune.workload import (
    LevelPlan,
    Trace,
    Vocabulary,
    Workload,
    file_summary,
    given_levels,
    open_source,
    plan_level,
    plan_warmup,
)
from autotune.workload.trace import TraceSource, stretch

VOCABULARY = Vocabulary(size=384, special_ids=frozenset({0, 1, 2}))
Row = dict[str, Any]


def plain(at_s: float, inputs: int = 5, outputs: int = 7) -> Row:
    return {"timestamp_s": at_s, "input_tokens": inputs, "output_tokens": outputs}


def mooncake(at_ms: int, inputs: int, hash_ids: list[int]) -> Row:
    return {"timestamp": at_ms, "input_length": inputs, "output_length": 7, "hash_ids": hash_ids}


def trace(folder: Path, text: str | list[Row], *, name: str = "t.jsonl", **changes: Any) -> Trace:
    file = folder / name
    file.write_text(text if isinstance(text, str) else "\n".join(map(json.dumps, text)))
    document = {"kind": "trace", "path": str(file), "max_input_tokens": 5000, "max_output_tokens": 5000}
    return Trace.model_validate(document | changes)


def workload(dataset: Trace, **changes: Any) -> Workload:
    document = {
        "version": 1,
        "name": "w",
        "dataset": dataset,
        "arrival": {"kind": "replay"},
        "levels": [1, 2],
        "requests_per_level": 3,
    }
    return Workload.model_validate(document | changes)


def plan(job: Workload, *, level: int = 0, devices: int = 1, seed: int | None = None) -> LevelPlan:
    """A level's plan; where no seed is given with one that begins at the first row."""
    source = open_source(job.dataset, VOCABULARY)
    assert isinstance(source, TraceSource)
    seed = next(found for found in count() if stretch(source, found).first == 0) if seed is None else seed
    return plan_level(job, given_levels(job)[level], devices=devices, seed=seed, source=source)


def offsets_s(found: LevelPlan) -> list[float]:
    return [request.offset_s for request in found.requests]


AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,374,44
2023-11-16 18:17:04.4799601,396,109
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("azure.csv", AZURE),
        ("azure.csv", AZURE.replace("\n", "\r\n")),
        ("azure.csv", "\ufeff" + AZURE),
        ("zone.csv", AZURE.replace("9600,", "9600+00:00,").replace("9601,", "9601+00:00,")),
        ("plain.csv", "note,timestamp_s,input_tokens,output_tokens\nx,7,374.0,44\ny,7.5,396,109\n"),
        ("plain.jsonl", [plain(7, 374, 44), plain(7.5, 396, 109)]),
        ("later-first.jsonl", [plain(7.5, 396, 109), plain(7, 374, 44)]),
        (
            "mooncake.jsonl",
            [
                {"timestamp": 100, "input_length": 374, "output_length": 44},
                {"timestamp": 600, "input_length": 396, "output_length": 109},
            ],
        ),
    ],
)
def test_known_columns_mean_the_same_requests(tmp_path, name, text):
    requests = plan(workload(trace(tmp_path, text, name=name), requests_per_level=2)).requests
    assert [(len(r.prompt), r.max_tokens) for r in requests] == [(374, 44), (396, 109)]
    assert [r.offset_s for r in requests] == pytest.approx([0.0, 0.5], abs=1e-5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([plain(0), plain(1, 0), plain(2, outputs=-1)], "2 of 3 rows are wrong: line 2: input_tokens must be a whole"),
        ([plain(0), plain(1, "7.5")], "line 2: input_tokens must be a whole number of at least 1, not '7.5'"),
        ([plain(0), plain(None)], "line 2: timestamp_s must be a number, not None"),
        ([plain(0), plain(float("nan"))], "line 2: timestamp_s must be a number, not nan"),
        ([plain(0), {"timestamp_s": 3}], "line 2: has no input_tokens"),
        ([plain(4), plain(4)], "needs rows of two different times"),
        ([], "needs rows of two different times"),
        ([{"when": 1, "input_tokens": 3}], "has the columns when, input_tokens; known are timestamp, input_length"),
        ([mooncake(0, 513, [1])], "line 1: has 1 hash_ids for 513 prompt tokens, not 2, one for each 512"),
        ([mooncake(0, 512, ["a"])], r"line 1: hash_ids must be a list of whole numbers, not \['a'\]"),
        ("timestamp_s,input_tokens", "line 1 is not JSON.*CSV files end with .csv"),
        ("[1, 2]", "line 1 is not a JSON object"),
    ],
)
def test_a_wrong_trace_is_refused_with_its_lines(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        open_source(trace(tmp_path, rows), VOCABULARY)


def test_only_the_first_wrong_rows_are_told(tmp_path):
    with pytest.raises(InputError) as refused:
        open_source(trace(tmp_path, [plain(at_s, 0) for at_s in range(50)]), VOCABULARY)
    assert "50 of 50 rows" in str(refused.value)
    assert "line 3" in str(refused.value)
    assert "line 4" not in str(refused.value)


def test_a_date_that_is_none_is_refused(tmp_path):
    wrong = trace(tmp_path, AZURE.replace("2023-11-16 18:17:04.4799601", "soon"), name="t.csv")
    with pytest.raises(InputError, match="line 3: TIMESTAMP must be a date with a time, not 'soon'"):
        open_source(wrong, VOCABULARY)


def test_longer_requests_are_cut_to_the_limits_and_none_is_dropped(tmp_path):
    dataset = trace(
        tmp_path, [plain(0, 90, 5), plain(1, 8, 70), plain(3, 8, 5)], max_input_tokens=20, max_output_tokens=10
    )
    assert [(len(r.prompt), r.max_tokens) for r in plan(workload(dataset)).requests] == [(20, 5), (8, 10), (8, 5)]
    assert open_source(dataset, VOCABULARY).longest_request_tokens == 25
    assert file_summary(dataset) == f"{tmp_path}/t.jsonl: 3 requests in 3 s, 2 of them cut to the limits"


# Blocks


def test_the_same_hash_id_is_the_same_512_tokens_within_a_level(tmp_path):
    rows = [mooncake(0, 700, [1, 2]), mooncake(10, 1300, [1, 3, 4]), mooncake(20, 512, [2])]
    first, second, third = plan(workload(trace(tmp_path, rows))).requests
    assert [len(r.prompt) for r in (first, second, third)] == [700, 1300, 512]
    assert first.prompt[:512] == second.prompt[:512]
    assert first.prompt[512:] == third.prompt[:188]
    assert second.prompt[512:700] != first.prompt[512:]


def test_blocks_may_have_another_size(tmp_path):
    dataset = trace(tmp_path, [mooncake(0, 20, [1, 2]), mooncake(10, 20, [1, 3])], block_tokens=16)
    first, second = plan(workload(dataset, requests_per_level=2)).requests
    assert first.prompt[:16] == second.prompt[:16]
    assert first.prompt[16:] != second.prompt[16:]


def test_a_cut_prompt_keeps_its_first_blocks(tmp_path):
    rows = [mooncake(0, 1024, [1, 2]), mooncake(10, 1024, [1, 3])]
    first, second = plan(workload(trace(tmp_path, rows, max_input_tokens=600), requests_per_level=2)).requests
    assert (len(first.prompt), first.prompt[:512]) == (600, second.prompt[:512])


def test_blocks_of_other_levels_seeds_laps_and_the_warm_up_are_other_tokens(tmp_path):
    job = workload(
        trace(tmp_path, [mooncake(0, 512, [1]), mooncake(10, 512, [1])]), requests_per_level=4, warmup_requests=1
    )
    plans = [plan(job, level=level, seed=seed) for level in (0, 1) for seed in (0, 1)]
    warmup = plan_warmup(job, devices=1, seed=0, source=open_source(job.dataset, VOCABULARY))
    prompts = [r.prompt for p in plans for r in p.requests] + [r.prompt for r in warmup.requests]
    assert len(set(prompts)) == 4 * 2 + 1


# Times


def rising(folder: Path, count: int) -> Trace:
    """Row n comes n² seconds after the first and has n + 1 prompt tokens."""
    return trace(folder, [plain(100 + n * n, n + 1) for n in range(count)])


def test_a_replay_sends_at_the_recorded_times_divided_by_speed_and_devices(tmp_path):
    job = workload(rising(tmp_path, 4), levels=[1, 2], requests_per_level=4)
    assert offsets_s(plan(job)) == [0, 1, 4, 9]
    fast = plan(job, level=1, devices=2)
    assert offsets_s(fast) == [0, 0.25, 1, 2.25]
    assert (fast.load, fast.is_open_loop, fast.max_concurrency) == (Load(kind="replay_speed", value=2), True, None)


def test_a_replay_may_limit_the_requests_in_flight_per_device(tmp_path):
    job = workload(rising(tmp_path, 4), arrival={"kind": "replay", "max_concurrency": 5})
    assert plan(job, devices=2).max_concurrency == 10


def test_a_replay_takes_rows_until_the_level_lasts_long_enough(tmp_path):
    job = workload(rising(tmp_path, 10), requests_per_level=2, min_level_duration_s=8)
    first = len(plan(job).requests[0].prompt) - 1  # the row that the seed begins with
    last = offsets_s(plan(job, level=1))[-1]
    assert offsets_s(plan(job))[-2] < 8 <= offsets_s(plan(job))[-1]
    assert offsets_s(plan(job))[1] == (first + 1) ** 2 - first**2
    assert last >= 8


def test_a_trace_that_is_too_short_begins_again_after_a_mean_gap(tmp_path):
    job = workload(rising(tmp_path, 3), requests_per_level=7)  # 4 s long, gaps of 2 s on average
    assert offsets_s(plan(job)) == [0, 1, 4, 6, 7, 10, 12]
    assert [len(r.prompt) for r in plan(job).requests] == [1, 2, 3, 1, 2, 3, 1]


def test_a_seed_chooses_the_stretch_of_a_longer_trace_and_all_levels_replay_it(tmp_path):
    job = workload(rising(tmp_path, 50), requests_per_level=10)
    starts = {seed: {len(plan(job, level=level, seed=seed).requests[0].prompt) for level in (0, 1)} for seed in (0, 1)}
    assert [len(found) for found in starts.values()] == [1, 1]
    assert starts[0] != starts[1]
    expected = [1 + (min(starts[0]) - 1 + n) % 50 for n in range(10)]
    assert [len(r.prompt) for r in plan(job, seed=0).requests] == expected


def test_a_trace_no_longer_than_a_level_begins_anywhere_and_goes_round(tmp_path):
    """16 s long, gaps of 4 s on average: from the fourth row on 9 and 16 s, then 20, 21 and 24 s."""
    job = workload(rising(tmp_path, 5), requests_per_level=5)
    plans = {len(found.requests[0].prompt): found for found in (plan(job, seed=seed) for seed in range(40))}
    assert set(plans) == {1, 2, 3, 4, 5}
    assert offsets_s(plans[4]) == [0, 7, 11, 12, 15]
    assert [len(r.prompt) for r in plans[4].requests] == [4, 5, 1, 2, 3]


def test_blocks_are_new_tokens_once_all_rows_were_sent_wherever_the_level_began(tmp_path):
    job = workload(trace(tmp_path, [mooncake(n, 512, [1]) for n in (0, 10, 20)]), requests_per_level=6)
    for seed in range(8):
        prompts = [r.prompt for r in plan(job, seed=seed).requests]
        assert [prompts.index(prompt) for prompt in prompts] == [0, 0, 0, 3, 3, 3]


def test_with_other_arrivals_only_the_lengths_of_a_trace_count(tmp_path):
    job = workload(rising(tmp_path, 4), arrival={"kind": "constant"}, levels=[2], requests_per_level=4)
    assert offsets_s(plan(job)) == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert [len(r.prompt) for r in plan(job).requests] == [1, 2, 3, 4]
    closed = plan(workload(rising(tmp_path, 4), arrival={"kind": "closed_loop"}, levels=[2], requests_per_level=3))
    assert (len(closed.requests), closed.max_concurrency) == (4, 2)


@settings(deadline=None, max_examples=50)  # a stalled machine is no counterexample
@given(
    gaps=st.lists(st.floats(0, 100), min_size=1, max_size=30).filter(lambda gaps: sum(gaps) > 1),
    requests=st.integers(1, 90),
    seed=st.integers(0, 2**31 - 1),
)
def test_replayed_offsets_begin_at_zero_and_never_go_back(tmp_path_factory, gaps, requests, seed):
    rows = [plain(sum(gaps[:n])) for n in range(len(gaps) + 1)]
    job = workload(trace(tmp_path_factory.getbasetemp(), rows, name="gaps.jsonl"), requests_per_level=requests)
    found = offsets_s(plan(job, seed=seed))
    assert len(found) == requests
    assert found[0] == 0
    assert all(after >= before - 1e-9 for before, after in pairwise(found))
