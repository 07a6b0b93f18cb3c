"""Conversations of several turns: what each prompt repeats, how turns follow, and what the load levels count."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.workload import LevelPlan, Vocabulary, Workload, given_levels, open_source, plan_level, plan_warmup

VOCABULARY = Vocabulary(size=384, special_ids=frozenset({0, 1, 2}))


def fixed(tokens: int) -> dict[str, Any]:
    return {"kind": "fixed", "tokens": tokens}


def workload(*, conversation: dict[str, Any] | None = None, **changes: Any) -> Workload:
    document = {
        "version": 1,
        "name": "w",
        "dataset": {
            "kind": "multi_turn",
            "turns": {"kind": "fixed", "turns": 3},
            "input_tokens": fixed(10),
            "output_tokens": fixed(20),
            "shared_prefix_tokens": 5,
        }
        | (conversation or {}),
        "arrival": {"kind": "poisson"},
        "levels": [2, 4],
        "requests_per_level": 30,
    }
    return Workload.model_validate(document | changes)


def plan(job: Workload, *, level: int = 0, devices: int = 1, seed: int = 0) -> LevelPlan:
    source = open_source(job.dataset, VOCABULARY)
    return plan_level(job, given_levels(job)[level], devices=devices, seed=seed, source=source)


def test_a_turns_prompt_is_the_prefix_all_questions_and_answers_before_and_the_new_question():
    first, second, third, other = plan(workload()).requests[:4]
    assert [len(r.prompt) for r in (first, second, third, other)] == [15, 45, 75, 15]
    assert second.prompt[:15] == first.prompt
    assert third.prompt[:45] == second.prompt
    assert other.prompt[:5] == first.prompt[:5]
    assert other.prompt[5:] != first.prompt[5:]


def test_a_later_turn_follows_the_one_before_after_a_pause():
    pause = {"kind": "constant", "value": 1.5}
    requests = plan(workload(conversation={"think_time_s": pause})).requests
    assert [(r.index, r.follows, r.pause_s) for r in requests[:4]] == [
        (0, None, 0.0),
        (1, 0, 1.5),
        (2, 1, 1.5),
        (3, None, 0.0),
    ]


def test_a_level_counts_requests_and_the_last_conversation_is_cut_short():
    requests = plan(workload(requests_per_level=8)).requests
    assert [r.index for r in requests] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [r.follows for r in requests] == [None, 0, 1, None, 3, 4, None, 6]


def test_conversations_arrive_at_the_rate_of_requests_over_the_mean_number_of_turns():
    requests = plan(workload(arrival={"kind": "constant"}), devices=2).requests  # 4 requests/s: 10 conversations
    starts_s = [r.offset_s for r in requests if r.follows is None]
    assert starts_s == pytest.approx([0.75 * number for number in range(1, 11)])
    assert [r.offset_s for r in requests[:3]] == [starts_s[0]] * 3


def test_think_times_vary_around_their_mean():
    pause = {"kind": "exponential", "mean": 4.0}
    requests = plan(workload(conversation={"think_time_s": pause}, requests_per_level=3000)).requests
    pauses_s = [r.pause_s for r in requests if r.follows is not None]
    assert np.mean(pauses_s) == pytest.approx(4.0, rel=0.1)
    assert np.std(pauses_s) == pytest.approx(4.0, rel=0.1)


def test_a_closed_loop_has_two_whole_conversations_per_user_at_least():
    job = workload(arrival={"kind": "closed_loop"}, levels=[8], requests_per_level=20)
    requests = plan(job, devices=2).requests
    assert len(requests) == 2 * 8 * 2 * 3
    assert {r.offset_s for r in requests} == {0.0}


def test_the_warm_up_does_not_think():
    job = workload(conversation={"think_time_s": {"kind": "constant", "value": 9}}, warmup_requests=7)
    warmup = plan_warmup(job, devices=1, seed=0, source=open_source(job.dataset, VOCABULARY))
    assert [(r.follows, r.pause_s) for r in warmup.requests[:3]] == [(None, 0.0), (0, 0.0), (1, 0.0)]


def test_a_longer_level_begins_with_the_same_turns():
    turns = {"turns": {"kind": "uniform", "min": 1, "max": 6}, "input_tokens": {"kind": "uniform", "min": 2, "max": 9}}
    short = plan(workload(conversation=turns)).requests
    long = plan(workload(conversation=turns, requests_per_level=100)).requests
    assert [(r.prompt, r.max_tokens, r.follows) for r in long[:30]] == [
        (r.prompt, r.max_tokens, r.follows) for r in short
    ]


def test_the_longest_request_is_the_last_turn_of_the_longest_conversation():
    job = workload(conversation={"turns": {"kind": "uniform", "min": 1, "max": 4}}, requests_per_level=60)
    longest = max(len(r.prompt) + r.max_tokens for r in plan(job).requests)
    assert open_source(job.dataset, VOCABULARY).longest_request_tokens == longest == 5 + 4 * 30


@settings(deadline=None, max_examples=50)  # a stalled machine is no counterexample
@given(turns=st.integers(1, 7), count=st.integers(1, 60), users=st.integers(1, 9), seed=st.integers(0, 2**31 - 1))
def test_indices_follow_each_other_and_every_follower_extends_its_prompt(turns, count, users, seed):
    conversation = {"turns": {"kind": "uniform", "min": 1, "max": turns}}
    job = workload(conversation=conversation, arrival={"kind": "closed_loop"}, levels=[users], requests_per_level=count)
    requests = plan(job, seed=seed).requests
    assert [r.index for r in requests] == list(range(len(requests)))
    assert len(requests) >= count
    assert sum(r.follows is None for r in requests) >= 2 * users
    for before, request in pairwise(requests):
        assert request.follows in (None, before.index)
        extends = request.prompt[: len(before.prompt)] == before.prompt
        assert extends == (request.follows is not None)
