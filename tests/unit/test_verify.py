"""What `autotune verify` launches: the file's configuration, the measured traffic, and what is told of differences."""

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from autotune.engine_config import EngineConfig
from autotune.errors import InputError
from autotune.export import Exported, ExportSource, export, read_export
from autotune.report.verification import verification_table
from autotune.results import JudgedLine, LoadPoint, Trial
from autotune.settings import EngineProfile, Settings
from autotune.spec import Sla
from autotune.tuner.sources import load_workload
from autotune.tuner.verify import Traffic, fresh_seed, named_traffic, own_traffic, prepare_verification
from autotune.workload import Level, document_digest

JOB = Path(__file__).parents[1] / "data" / "job"
MODEL = Path(__file__).parents[2] / "autotune" / "demo" / "tiny-llama"
SETTINGS = Settings(profiles={})

MakeExported = Callable[..., Exported]


@pytest.fixture
def make_exported(make_trial: Callable[..., Trial], make_point: Callable[..., LoadPoint]) -> MakeExported:
    """The file of a trial on simulated NPUs, measured with the tiny workload at sixteen concurrent requests."""
    workload = load_workload("workload.yaml", JOB)

    def make(arguments: dict[str, Any] | None = None, **changes: Any) -> Exported:
        whole = {
            "job_id": "tiny-1",
            "job_name": "tiny",
            "model": str(MODEL),
            "workload": "workload.yaml",
            "workload_digest": document_digest(workload.model_dump(mode="json")),
            "engine": "simulated",
            "engine_version": "vllm-simulated 0.0.1",
            "devices": {"resource": "NPU", "max_per_trial": 2},
            "instrument": "autotune",
            "confirm_runs": 3,
            "sla": Sla(p99_ttft_ms=400),
            "trial": make_trial(7, {}).model_copy(update={"config": EngineConfig(arguments=arguments or {})}),
            "point": make_point(level=1, value=16),
            "exported_at": datetime(2026, 3, 1, tzinfo=UTC),
        }
        return read_export(export(ExportSource.model_validate(whole | changes), "vllm"), "best.yaml")

    return make


def traffic(exported: Exported) -> Traffic:
    return own_traffic(exported, None, JOB)


def test_the_launch_is_that_of_a_confirmation_with_other_seeds(make_exported: MakeExported) -> None:
    exported = make_exported({"max_num_seqs": 8})
    request = prepare_verification(exported, traffic(exported), SETTINGS, engine=None, seed=100).request
    assert request.config == EngineConfig(arguments={"max_num_seqs": 8})
    assert request.levels == (Level(1, 16.0, trace=1),)
    assert request.confirm_seeds == (100, 101, 102)
    assert request.sla == Sla(p99_ttft_ms=400)
    assert (request.job, request.number, request.resource) == ("tiny-1", 7, "NPU")
    assert request.folder.parent == SETTINGS.home / "verifications"


def test_two_verifications_have_different_seeds_and_folders(make_exported: MakeExported) -> None:
    exported = make_exported()
    first, second = (
        prepare_verification(exported, traffic(exported), SETTINGS, engine=None, seed=fresh_seed()).request
        for _ in range(2)
    )
    assert first.confirm_seeds[0] != second.confirm_seeds[0]
    assert first.folder != second.folder


def test_another_engine_version_and_another_platform_are_told(make_exported: MakeExported, fake_vllm: Path) -> None:
    exported = make_exported()
    cpus = Settings(profiles={"cpus": EngineProfile(executable=fake_vllm, platform="cpu")})
    ready = prepare_verification(exported, traffic(exported), cpus, engine="cpus", seed=1)
    assert ready.devices.resource == "CPU"
    assert [note.partition(",")[0] for note in ready.notes] == [
        "measured with vllm-simulated 0.0.1",
        "measured on NPU devices",
    ]


def test_the_database_has_the_last_word_about_the_workload(make_exported: MakeExported, tmp_path: Path) -> None:
    """The file of that name is another one by now; the job's own document is what was measured."""
    measured = load_workload("workload.yaml", JOB)
    changed = {**yaml.safe_load((JOB / "workload.yaml").read_text()), "requests_per_level": 41}
    (tmp_path / "workload.yaml").write_text(yaml.safe_dump(changed))
    assert own_traffic(make_exported(), measured.model_dump(mode="json"), tmp_path).workload == measured


def test_a_workload_that_has_changed_is_used_only_when_it_is_asked_for(
    make_exported: MakeExported, tmp_path: Path
) -> None:
    changed = {**yaml.safe_load((JOB / "workload.yaml").read_text()), "requests_per_level": 41}
    (tmp_path / "workload.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(InputError, match=r"accept this one: --workload workload\.yaml"):
        own_traffic(make_exported(), None, tmp_path)
    accepted = named_traffic(make_exported(), "workload.yaml", tmp_path)
    assert accepted.workload.requests_per_level == 41
    assert accepted.notes == ("the workload 'tiny' is not the one that was measured",)


def test_a_workload_that_is_nowhere_is_asked_for(make_exported: MakeExported, tmp_path: Path) -> None:
    with pytest.raises(InputError) as told:
        own_traffic(make_exported(), None, tmp_path)
    assert told.value.problems[-1] == "give the workload that job tiny-1 was measured with: --workload FILE"


def test_a_load_that_the_workload_does_not_list_is_a_level_of_its_own(make_exported: MakeExported) -> None:
    workload = load_workload("workload.yaml", JOB).model_copy(update={"levels": (4.0, 8.0)})
    request = prepare_verification(make_exported(), Traffic(workload), SETTINGS, engine=None, seed=1).request
    assert [(level.number, level.value) for level in request.levels] == [(1, 16.0)]


def test_traffic_that_cannot_be_compared_or_served_is_refused(make_exported: MakeExported) -> None:
    exported = make_exported({"max_model_len": 32})
    with pytest.raises(InputError) as told:
        prepare_verification(exported, named_traffic(exported, "chat", JOB), SETTINGS, engine=None, seed=1)
    counted, long = told.value.problems
    assert counted.startswith("the workload 'chat' counts its load as request_rate, what was measured at 16 concurrent")
    assert long.endswith("the file's max-model-len is 32")


def test_the_table_says_line_by_line_what_holds() -> None:
    lines = (
        JudgedLine(name="p99_ttft_ms", limit=400, mean=380, decides=410, lower=350, upper=440, holds=False),
        JudgedLine(name="error_rate", limit=0.01, mean=0, decides=0, lower=None, upper=None, holds=True),
        JudgedLine(name="p99_tpot_ms", limit=16, mean=None, decides=None, lower=None, upper=None, holds=False),
    )
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(verification_table(lines))
    rows = [" ".join(row.replace("│", " ").split()) for row in console.export_text().splitlines()]
    assert "p99_ttft_ms 380 ms 350 ms … 440 ms 410 ms 400 ms does not hold" in rows
    assert "error_rate 0.00% – 0.00% 1.00% holds" in rows
    assert "p99_tpot_ms – – – 16 ms does not hold" in rows
