"""What a job is checked against before its first launch."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from autotune.engine_config import EngineConfig
from autotune.errors import EnvironmentProblem, InputError
from autotune.results import JobStatus, Trial
from autotune.search_space import SearchSpace
from autotune.settings import EngineProfile, Settings
from autotune.spec import Sla
from autotune.study import note
from autotune.tuner import context, sources
from autotune.tuner.context import JobContext, check_same_engine, restore, with_profile
from autotune.tuner.sources import load_job
from autotune.workload import Workload

MakeContext = Callable[..., JobContext]


def profile(**arguments: object) -> EngineProfile:
    return EngineProfile(
        executable=Path("vllm"), platform="cpu", arguments=arguments, environment={"HF_TOKEN": "secret"}
    )


def test_the_job_wins_over_the_profile() -> None:
    config = with_profile(EngineConfig(arguments={"max_num_seqs": 8}), profile(max_num_seqs=64, dtype="bfloat16"))
    assert config.arguments == {"max_num_seqs": 8, "dtype": "bfloat16"}


def test_mappings_of_profile_and_job_are_united() -> None:
    config = EngineConfig(arguments={"additional_config": {"a": 1, "b": 2}})
    merged = with_profile(config, profile(additional_config={"b": 9, "c": 3}))
    assert merged.arguments == {"additional_config": {"a": 1, "b": 2, "c": 3}}


def test_the_profiles_environment_stays_out_of_what_is_stored() -> None:
    assert with_profile(EngineConfig(), profile()).environment == {}


SPACE = {
    "version": 1,
    "name": "s",
    "parameters": {"max_num_seqs": {"type": "int", "values": [4, 8]}, "max_model_len": {"type": "fixed", "value": 32}},
    "starting_points": {"baseline": {"max_num_seqs": 8}},
}


def test_a_space_may_not_cut_off_the_workloads_longest_request() -> None:
    space = SearchSpace.model_validate(SPACE)
    with pytest.raises(InputError, match="max_model_len 32 is not a whole number of at least 56"):
        context._check_own_length(space, 56, "demo")


def test_a_space_may_not_ask_for_more_positions_than_the_model_has() -> None:
    space = SearchSpace.model_validate(SPACE)
    context._check_own_length(space, 16, "demo", positions=32)
    with pytest.raises(InputError, match="max_model_len 32 is more than the model's 31 positions"):
        context._check_own_length(space, 16, "demo", positions=31)


def test_a_job_file_in_another_encoding_is_a_clear_message(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes("name: größe".encode("latin-1"))
    with pytest.raises(InputError, match=r"job\.yaml: cannot be read as UTF-8"):
        load_job(file)


def test_problems_of_space_and_workload_are_told_together(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "{version: 1, name: j, model: m, devices: {resource: CPU}, sla: {p99_ttft_ms: 1}, "
        "search_space: cpuu, workload: chatt}"
    )
    with pytest.raises(InputError) as refused:
        load_job(file)
    assert ["cpuu" in p or "chatt" in p for p in refused.value.problems] == [True, True]


def test_a_damaged_probe_cache_is_asked_again(tmp_path: Path) -> None:
    """Killed while writing, or written by another version."""
    vllm = runpy.run_path("tests/data/fault_vllm.py")["install"](tmp_path)
    engine = EngineProfile(executable=vllm, platform="cpu")
    first = context.describe_engine(engine, tmp_path / "probes")
    (cached,) = (tmp_path / "probes").iterdir()
    cached.write_text('{"executable": ')
    assert context.describe_engine(engine, tmp_path / "probes") == first


def test_a_probe_that_asks_something_else_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what a newer probe tells would be missing until the engine changes."""
    vllm = runpy.run_path("tests/data/fault_vllm.py")["install"](tmp_path)
    engine = EngineProfile(executable=vllm, platform="cpu")
    context.describe_engine(engine, tmp_path / "probes")
    context.describe_engine(engine, tmp_path / "probes")
    assert len(list((tmp_path / "probes").iterdir())) == 1
    monkeypatch.setattr(context, "questions", lambda: "of a newer version")
    context.describe_engine(engine, tmp_path / "probes")
    assert len(list((tmp_path / "probes").iterdir())) == 2


def test_what_is_wrong_with_a_space_is_told_together_before_a_launch(make_context: MakeContext, tmp_path: Path) -> None:
    parameters = {
        "omp": {"type": "int", "values": [1, 2], "target": {"kind": "environment", "name": "OMP_NUM_THREAD"}},
        "gpu_memory_utilization": {"type": "float", "low": 0.5, "high": 1.1, "step": 0.2},
    }
    baseline = {"omp": 1, "gpu_memory_utilization": 0.5}
    space = {"version": 1, "name": "wrong", "parameters": parameters, "starting_points": {"baseline": baseline}}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(space))
    with pytest.raises(InputError) as refused:
        make_context(tmp_path, f"search_space={tmp_path / 'wrong.yaml'}")
    assert sorted(problem.removeprefix("search space 'wrong': ") for problem in refused.value.problems) == [
        "environment 'OMP_NUM_THREAD' is not in the knob catalogue; did you mean 'OMP_NUM_THREADS'?; one who knows it "
        "may allow it with allowed_knobs: [OMP_NUM_THREAD] in the settings",
        "gpu_memory_utilization: 1.1: must be above 0, at most 1",
    ]


def test_the_space_of_a_job_is_the_one_that_is_searched(make_context: MakeContext, tmp_path: Path) -> None:
    """What does nothing here is left out, with the reason, and stays so when the job goes on."""
    parameters = {
        "max_num_seqs": {"type": "int", "values": [4, 8]},
        "TASK_QUEUE_ENABLE": {"type": "int", "values": [0, 1], "target": {"kind": "environment"}},
    }
    baseline = {"max_num_seqs": 8, "TASK_QUEUE_ENABLE": 1}
    space = {"version": 1, "name": "idle", "parameters": parameters, "starting_points": {"baseline": baseline}}
    (tmp_path / "idle.yaml").write_text(yaml.safe_dump(space))
    job = make_context(tmp_path, f"search_space={tmp_path / 'idle.yaml'}")
    assert list(job.space.parameters) == ["max_num_seqs"]
    assert job.space.dropped == {"TASK_QUEUE_ENABLE": "it does something on ascend only, and this is cpu"}
    assert job.job.space == job.space.model_dump(mode="json")
    text = note.text(job.spec, job.workload, job.space, job="demo-1", engine_version="vllm 0.32.0")
    assert "- `TASK_QUEUE_ENABLE`: it does something on ascend only" in text
    assert restore(job.job, Settings(home=tmp_path, profiles={"fake": job.profile})) == job


def test_a_job_from_the_queue_gets_its_space_when_the_engine_is_known(
    make_context: MakeContext, tmp_path: Path
) -> None:
    job = make_context(tmp_path)
    settings = Settings(home=tmp_path, profiles={"fake": job.profile.model_copy(update={"platform": "cpu"})})
    wide = job.space.model_dump(mode="json")
    wide["parameters"]["OMP_NUM_THREADS"] = {"type": "int", "values": [1, 2], "target": {"kind": "environment"}}
    wide["starting_points"]["baseline"]["OMP_NUM_THREADS"] = 1
    queued = job.job.model_copy(update={"space": wide})
    narrowed = restore(queued, settings)
    assert "OMP_NUM_THREADS" in narrowed.space.dropped
    assert narrowed.job.space == narrowed.space.model_dump(mode="json")
    running = queued.model_copy(update={"status": JobStatus.RUNNING})
    assert "OMP_NUM_THREADS" in restore(running, settings).space.parameters


# What so few requests can show


def too_few(sla: dict[str, float], **workload: object) -> list[str]:
    demo = (Path(__file__).parents[2] / "workloads" / "demo.yaml").read_text()
    document = yaml.safe_load(demo) | {"arrival": {"kind": "poisson"}, "requests_per_level": 298, "levels": [1, 2]}
    return sources._too_few_requests(Workload.model_validate(document | workload), Sla(**sla))


def test_a_confidence_that_no_level_can_ever_reach_is_refused_with_the_number_needed() -> None:
    (problem,) = too_few({"p99_ttft_ms": 200, "p95_e2el_ms": 900, "p99_itl_ms": 50, "confidence": 0.95})
    assert problem.startswith(
        "sla.p99_ttft_ms with 0.95 confidence needs at least 299 requests per level, workload 'demo' sends 298 at its "
        "lowest one"
    )
    assert too_few({"p99_ttft_ms": 200, "confidence": 0.95}, requests_per_level=299) == []
    assert too_few({"p99_ttft_ms": 200}) == []


@pytest.mark.parametrize(
    ("enough", "too_little"),
    [
        ({"min_level_duration_s": 299}, {"min_level_duration_s": 298}),
        (
            {"arrival": {"kind": "closed_loop"}, "levels": [150]},
            {"arrival": {"kind": "closed_loop"}, "levels": [149, 500]},
        ),
        ({"levels": {"start": 2}, "min_level_duration_s": 150}, {"levels": {"start": 2}, "min_level_duration_s": 149}),
    ],
)
def test_what_the_lowest_level_really_sends_counts(enough: dict[str, object], too_little: dict[str, object]) -> None:
    sla = {"p99_ttft_ms": 200, "confidence": 0.95}
    assert too_few(sla, **enough) == []
    assert len(too_few(sla, **too_little)) == 1


def test_a_replay_may_have_no_more_than_the_requests_of_a_level_however_long_it_lasts() -> None:
    trace = {"kind": "trace", "path": "/t.jsonl", "max_input_tokens": 64, "max_output_tokens": 32}
    replay = {"dataset": trace, "arrival": {"kind": "replay"}, "min_level_duration_s": 3600}
    sla = {"p99_ttft_ms": 200, "confidence": 0.95}
    assert len(too_few(sla, **replay)) == 1
    assert too_few(sla, **replay, requests_per_level=299) == []


# A job that goes on


def test_a_stored_job_goes_on_as_it_was_started(make_context: MakeContext, tmp_path: Path) -> None:
    """From its documents, wherever the files of the job are by then."""
    first = make_context(tmp_path, "budget.trials=7", "seed=11")
    settings = Settings(home=tmp_path, profiles={"fake": first.profile})
    assert restore(first.job, settings) == first


def measured_with(version: str, make_trial: Callable[..., Trial], point: object) -> Trial:
    trial = make_trial(0, {}, point)
    assert trial.result is not None
    return trial.model_copy(update={"result": trial.result.model_copy(update={"engine_version": version})})


def test_a_job_does_not_go_on_with_another_engine(
    make_trial: Callable[..., Trial], make_point: Callable[..., object], tmp_path: Path
) -> None:
    """Its numbers could not be compared."""
    job = runpy.run_path("tests/data/tiny_job.py")["job_context"](tmp_path, {})
    check_same_engine(job, [measured_with(job.engine.version, make_trial, make_point())])
    with pytest.raises(EnvironmentProblem, match=r"was measured with vllm 9\.9"):
        check_same_engine(job, [measured_with("vllm 9.9", make_trial, make_point())])


def test_trials_that_never_ran_are_of_no_engine(make_trial: Callable[..., Trial], tmp_path: Path) -> None:
    job = runpy.run_path("tests/data/tiny_job.py")["job_context"](tmp_path, {})
    check_same_engine(job, [make_trial(0, {}), make_trial(1, {}, oom=True)])
