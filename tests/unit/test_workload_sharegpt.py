"""Files of conversations: which of them count, how they are tokenized, and how a level draws from them."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.errors import InputError
from autotune.workload import (
    LevelPlan,
    ShareGpt,
    Source,
    Vocabulary,
    Workload,
    file_summary,
    given_levels,
    open_source,
    plan_level,
    sharegpt,
)

TINY = Path(autotune.__file__).parent / "demo" / "tiny-llama"  # every digit is a token of its own, 0 is number 18
VOCABULARY = Vocabulary(size=384, special_ids=frozenset({0, 1, 2}))


def talk(*turns: str) -> dict[str, Any]:
    """A conversation whose turns alternate, the human first."""
    return {"conversations": [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)]}


def dataset(folder: Path, entries: Sequence[Any], **changes: Any) -> ShareGpt:
    file = folder / "talks.json"
    file.write_text(json.dumps(entries))
    document = {"kind": "sharegpt", "path": str(file), "max_input_tokens": 8, "max_output_tokens": 6}
    return ShareGpt.model_validate(document | changes)


def source(folder: Path, entries: Sequence[Any], **changes: Any) -> Source:
    return open_source(dataset(folder, entries, **changes), VOCABULARY, model=TINY)


def plan(opened: Source, *, count: int = 4, level: int = 0, seed: int = 0) -> LevelPlan:
    job = Workload.model_validate(
        {
            "version": 1,
            "name": "w",
            "dataset": opened.dataset,
            "arrival": {"kind": "poisson"},
            "levels": [1, 2],
            "requests_per_level": count,
        }
    )
    return plan_level(job, given_levels(job)[level], devices=1, seed=seed, source=opened)


def lengths(opened: Source) -> list[tuple[int, int]]:
    return [(len(found.prompt), found.output_tokens) for found in opened.conversations]


def test_the_first_question_is_the_prompt_and_the_first_answer_its_length(tmp_path):
    opened = source(tmp_path, [talk("01234", "012345", "99999999", "9999")])
    (found,) = opened.conversations
    assert (found.prompt, found.output_tokens) == ((18, 19, 20, 21, 22), 6)


def test_what_is_said_before_the_first_question_is_left_out(tmp_path):
    entry = {
        "conversations": [
            {"from": "system", "value": "8888"},
            {"from": "gpt", "value": "777777"},
            {"from": "user", "value": "01234"},
            {"from": "assistant", "value": "0000"},
        ]
    }
    assert lengths(source(tmp_path, [entry])) == [(5, 4)]


def test_of_two_questions_in_a_row_the_first_is_sent(tmp_path):
    values = (("human", "01234"), ("human", "999999"), ("gpt", "0000"))
    entry = {"conversations": [{"from": who, "value": text} for who, text in values]}
    assert lengths(source(tmp_path, [entry])) == [(5, 4)]


def test_conversations_that_are_too_short_too_long_or_unanswered_are_left_out(tmp_path):
    entries = [
        talk("0123", "0123"),
        talk("012", "0123"),
        talk("0123", "012"),
        talk("01234567", "012345"),
        talk("012345678", "0123"),
        talk("0123", "0123456"),
        talk("0123"),
        {"id": "no conversation"},
    ]
    assert lengths(source(tmp_path, entries)) == [(4, 4), (8, 6)]


def test_json_lines_are_read_as_a_list_is(tmp_path):
    file = tmp_path / "talks.jsonl"
    file.write_text("\n".join(json.dumps(talk(text, "0000"), ensure_ascii=False) for text in ("01234", "0\u2028123")))
    opened = open_source(dataset(tmp_path, [], path=str(file)), VOCABULARY, model=TINY)
    assert len(opened.conversations) == 2  # a line separator inside a text ends no line


def test_special_tokens_in_a_text_are_not_sent(tmp_path):
    (found,) = source(tmp_path, [talk("<s>0123</s>", "0000")]).conversations
    assert found.prompt == (18, 19, 20, 21)


def test_the_longest_request_is_that_of_the_longest_conversation_that_counts(tmp_path):
    entries = [talk("01234567", "0000"), talk("0123", "012345"), talk("0" * 9, "0" * 6)]
    assert source(tmp_path, entries, shared_prefix_tokens=3).longest_request_tokens == 3 + 8 + 4


def test_every_conversation_comes_once_before_any_comes_again(tmp_path):
    opened = source(tmp_path, [talk(f"0000{digit}", "0000") for digit in range(5)])
    last = [r.prompt[-1] - 18 for r in plan(opened, count=12).requests]
    assert sorted(last[:5]) == sorted(last[5:10]) == [0, 1, 2, 3, 4]
    assert last[:5] != last[5:10]
    assert set(Counter(last).values()) == {2, 3}


def test_prompts_keep_their_length_and_text_but_for_the_first_four_tokens(tmp_path):
    opened = source(tmp_path, [talk("01234567", "0000")], shared_prefix_tokens=2)
    (request,) = plan(opened, count=1).requests
    assert len(request.prompt) == 2 + 8
    assert request.prompt[6:] == (22, 23, 24, 25)


def test_nothing_is_left_in_the_prefix_cache_by_another_level_seed_or_round(tmp_path):
    opened = source(tmp_path, [talk("0123456", "0000"), talk("0123457", "0000")])
    plans = [plan(opened, level=level, seed=seed) for level in (0, 1) for seed in (0, 1)]
    beginnings = [tuple(r.prompt[:4] for r in p.requests) for p in plans]
    assert all(a == b and c == d and a != c for a, b, c, d in beginnings)
    assert len({each for found in beginnings for each in found}) == 8


def test_of_a_large_file_always_the_same_conversations_are_used(tmp_path, monkeypatch):
    monkeypatch.setattr(sharegpt, "MAX_CONVERSATIONS", 3)
    entries = [talk(f"0000{digit}", "0000") for digit in range(9)]
    first, second = source(tmp_path, entries), source(tmp_path, entries)
    assert len(first.conversations) == 3
    assert first == second


def test_a_model_without_a_fast_tokenizer_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"has no tokenizer\.json.*save_pretrained"):
        open_source(dataset(tmp_path, [talk("0000", "0000")]), VOCABULARY, model=tmp_path)


def test_a_tokenizer_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be read by the tokenizers library"):
        open_source(dataset(tmp_path, [talk("0000", "0000")]), VOCABULARY, model=tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([talk("000", "0000")], "no conversation has 4 to 8 tokens"),
        ([talk("0000")], "no conversation has a question and an answer"),
        ([], "no conversation has a question and an answer"),
        ([talk("0000", "0000"), 7], "1 conversations cannot be used: entry 2: is not an object"),
        ([{"conversations": {"from": "human"}}], "entry 1: `conversations` is not a list"),
        ([{"conversations": [{"from": "human", "value": None}]}], "entry 1: a turn has no text `value`"),
    ],
)
def test_a_file_that_holds_no_conversations_is_refused(tmp_path, entries, message):
    with pytest.raises(InputError, match=message):
        source(tmp_path, entries)


def test_a_file_that_is_not_json_is_refused(tmp_path):
    wrong = dataset(tmp_path, [])
    wrong.path.write_text("conversations: none")
    with pytest.raises(InputError, match="neither a JSON list nor one JSON object a line"):
        open_source(wrong, VOCABULARY, model=TINY)


def test_the_summary_counts_the_conversations_without_a_model(tmp_path):
    found = dataset(tmp_path, [talk("0000", "0000"), talk("0", "0"), talk("0")])
    assert file_summary(found) == f"{tmp_path}/talks.json: 2 conversations"
