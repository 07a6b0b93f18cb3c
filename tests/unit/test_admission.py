"""What a service takes from others: search spaces of knobs that are known or allowed, for an engine it may not have."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.access import Principal, Role
from autotune.errors import InputError
from autotune.service.admission import SubmitRequest, submit
from autotune.service.app import create_app
from autotune.settings import Settings
from autotune.store import SharedStore

JOB = {
    "version": 1,
    "name": "theirs",
    "model": "tiny-llama",
    "engine": "simulated-ascend-910b",
    "devices": {"resource": "NPU"},
    "search_space": "theirs",
    "workload": "demo",
    "sla": {"p99_ttft_ms": 60000},
}

WHO = Principal(tenant="others", role=Role.SUBMITTER, name="someone")

Submit = Callable[..., dict[str, Any]]


@pytest.fixture
def take(tmp_path: Path) -> Iterator[Submit]:
    """Submits a space to a service with these settings, and tells what the queue then holds of it."""
    with SharedStore.open(f"sqlite:///{tmp_path / 'jobs.db'}") as store:

        def submit_space(parameters: dict[str, Any], baseline: dict[str, Any], **settings: Any) -> dict[str, Any]:
            state = create_app(Settings(home=tmp_path, **settings), store).state.autotune
            space = {
                "version": 1,
                "name": "theirs",
                "parameters": {"max_num_seqs": {"type": "int", "values": [4, 8]}, **parameters},
                "starting_points": {"baseline": {"max_num_seqs": 8, **baseline}},
            }
            asked = SubmitRequest.model_validate({"job": JOB, "search_space": space})
            return store.job(submit(state, WHO, asked, None).id).space

        yield submit_space


ALGORITHM = {"NCCL_ALGO": {"type": "categorical", "choices": ["Ring", "Tree"], "target": {"kind": "environment"}}}


def test_a_knob_that_nobody_knows_is_refused_unless_the_operator_allows_it(take: Submit):
    with pytest.raises(InputError, match="'NCCL_ALGO' is not in the knob catalogue; the operator may allow it"):
        take(ALGORITHM, {"NCCL_ALGO": "Ring"})
    assert "NCCL_ALGO" in take(ALGORITHM, {"NCCL_ALGO": "Ring"}, allowed_knobs=("NCCL_ALGO",))["parameters"]


def test_what_does_nothing_with_the_model_or_platform_does_not_come_into_the_queue(take: Submit):
    """The worker that takes the job knows the engine, and may leave out more."""
    overlap = {"type": "bool", "target": {"kind": "additional_config"}}
    queued = take({"multistream_overlap_shared_expert": overlap}, {"multistream_overlap_shared_expert": False})
    assert list(queued["parameters"]) == ["max_num_seqs"]
    assert queued["dropped"] == {"multistream_overlap_shared_expert": "the model has no experts"}
