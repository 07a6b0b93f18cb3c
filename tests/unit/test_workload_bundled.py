"""The workloads that ship: each loads, is named after its file, and can be planned for an ordinary model."""

import runpy
from pathlib import Path

import pytest

import autotune
from autotune.loading import bundled, find, load
from autotune.workload import Vocabulary, Workload, given_levels, open_source, plan_level, plan_warmup, with_data_file

TINY = Path(autotune.__file__).parent / "demo" / "tiny-llama"
LARGE = Vocabulary(size=128_000, special_ids=frozenset({0, 1, 2}))
DATA = Path(__file__).parents[2] / "workloads" / "data"

NAMES = (
    "bursty-trace",
    "chat",
    "code-completion",
    "demo",
    "guide-128x128",
    "multi-turn",
    "rag",
    "summarization",
)


def read(name: str) -> Workload:
    place = find(name, "workloads", relative_to=Path())
    return with_data_file(load(place.read_text(), Workload, source=str(place)), place.parent)


def test_these_workloads_are_bundled():
    assert bundled("workloads") == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_workload_is_named_after_its_file_and_described(name):
    job = read(name)
    assert job.name == name
    assert job.description


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_workload_fits_a_model_of_8192_positions_and_a_p99_with_bounds(name):
    job = read(name)
    source = open_source(job.dataset, LARGE, model=TINY)
    assert source.longest_request_tokens <= 8192
    for level in (given_levels(job)[0], given_levels(job)[-1]):
        requests = plan_level(job, level, devices=2, seed=0, source=source).requests
        assert len(requests) >= 300
        assert max(len(r.prompt) + r.max_tokens for r in requests) <= source.longest_request_tokens
        assert [r.index for r in requests] == list(range(len(requests)))


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_workload_warms_up_with_what_it_sends_later(name):
    job = read(name)
    source = open_source(job.dataset, LARGE, model=TINY)
    warmup = plan_warmup(job, devices=1, seed=0, source=source)
    assert len(warmup.requests) == job.warmup_requests
    assert max(len(r.prompt) + r.max_tokens for r in warmup.requests) <= source.longest_request_tokens


def test_chat_runs_on_the_tiny_model_too():
    assert open_source(read("chat").dataset, Vocabulary(384), model=TINY).longest_request_tokens <= 2048


@pytest.mark.parametrize(("name", "maker"), [("chat.json", "chat"), ("bursts.jsonl", "bursts")])
def test_the_data_files_are_what_their_script_makes(name, maker):
    assert (DATA / name).read_text() == runpy.run_path(str(DATA / "make.py"))[maker]()
