"""The knob catalogue: what is known of a knob on an engine, and what becomes of a space that is checked against it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.engine_config import EngineConfig
from autotune.loading import bundled, find, load
from autotune.releases import ASCEND_RELEASES, parsed
from autotune.search_space import SearchSpace, broken_rules, levels, resolve, size, starting_point, tunable
from autotune.search_space.catalogue import (
    Installed,
    check,
    conflicts,
    habits,
    knobs,
    not_allowed,
    page,
    predicted,
)
from autotune.search_space.catalogue.installed import exists
from autotune.search_space.catalogue.knobs import Knob
from autotune.search_space.limits import refusal

ROOT = Path(__file__).parents[2]
DENSE = frozenset({"qwen3", "dense"})
MOE = frozenset({"qwen3_moe", "moe"})


def ascend(version: str, models: frozenset[str] = DENSE, **known: Any) -> Installed:
    """The engine of a row of the compatibility matrix."""
    row = next(row for row in ASCEND_RELEASES if row.vllm_ascend == version)
    versions = {"vllm": row.vllm, "vllm-ascend": version}
    return Installed(platform="ascend", versions=versions, models=models, name=f"vllm-ascend {version}", **known)


CPU = Installed(platform="cpu", versions={"vllm": "0.32.0+cpu"}, models=DENSE)
CUDA = Installed(platform="cuda", versions={"vllm": "0.32.0"}, models=DENSE)
STABLE, NEWEST = ascend("0.23.0.post1"), ascend("0.30.0rc2")


def space(parameters: dict[str, Any], baseline: dict[str, Any], **more: Any) -> SearchSpace:
    return SearchSpace.model_validate(
        {"version": 1, "name": "s", "parameters": parameters, "starting_points": {"baseline": baseline}, **more}
    )


def one(kind: str, name: str, *values: Any) -> SearchSpace:
    """A space of one knob beside max_num_seqs."""
    target = {"kind": kind, "name": name}
    return space(
        {
            "max_num_seqs": {"type": "int", "values": [4, 8]},
            "it": {"type": "categorical", "choices": list(values), "target": target},
        },
        {"max_num_seqs": 8, "it": values[0]},
    )


# The data


def test_every_name_is_there_once():
    text = (ROOT / "autotune/search_space/catalogue/knobs.yaml").read_text()
    assert text.count("\n- target: ") == len(knobs())


def test_what_a_job_may_never_set_is_not_in_the_catalogue():
    assert [knob.flat for knob in knobs().values() if refusal(knob.target, knob.name)] == []


def test_conditions_name_knobs_of_the_catalogue():
    named = {
        name
        for knob in knobs().values()
        for case in (*knob.overrides, *knob.conflicts)
        for conditions in (case.when, *case.unless)
        for name in conditions
    }
    assert named - {"devices"} <= knobs().keys()


def test_a_knob_that_is_gone_names_what_to_use_instead():
    with pytest.raises(ValueError, match="names its successor"):
        Knob(target="argument", name="old", type="int", effect="It did something.", gone={"vllm": "0.23.0"})


def test_the_page_of_the_documentation_is_the_catalogue():
    assert (ROOT / "docs" / "knobs.md").read_text() == page()


# By version


@pytest.mark.parametrize(
    ("flat", "there", "not_there"),
    [
        ("additional_config.torchair_graph_config.enabled", ["0.11.0"], ["0.13.0", "0.30.0rc2"]),
        ("additional_config.weight_prefetch_config.enabled", ["0.11.0", "0.23.0.post1"], ["0.26.0rc1", "0.30.0rc2"]),
        ("additional_config.weight_nz_mode", ["0.23.0", "0.30.0rc2"], ["0.18.0"]),
        ("VLLM_ASCEND_ENABLE_NZ", ["0.11.0", "0.26.0rc1"], ["0.9.1", "0.30.0rc1"]),
        ("VLLM_ASCEND_ENABLE_FLASHCOMM1", ["0.11.0", "0.30.0rc2"], ["0.9.1"]),
        ("additional_config.enable_reduce_sample", ["0.26.0rc1"], ["0.30.0rc1"]),
    ],
)
def test_a_knob_is_there_in_some_releases_only(flat: str, there: list[str], not_there: list[str]):
    assert [exists(knobs()[flat], ascend(version)) for version in (*there, *not_there)] == [
        *([True] * len(there)),
        *([False] * len(not_there)),
    ]


@pytest.mark.parametrize(
    "versions",
    [{}, {"vllm-ascend": "from source"}, {"vllm-ascend": "0.1.dev1+g0a1b2c3"}, {"vllm-ascend": "0.23.0rc1"}],
)
def test_without_a_version_nobody_knows(versions: dict[str, str]):
    assert exists(knobs()["additional_config.weight_nz_mode"], Installed("ascend", versions)) is None


# A space: what is wrong


def problems(found: SearchSpace, installed: Installed, allowed: tuple[str, ...] = ()) -> list[str]:
    told = check(found, installed, allowed=allowed).problems
    return [problem.removeprefix("search space 's': ") for problem in told]


def test_everything_wrong_is_told_at_once_with_what_was_meant():
    several = space(
        {
            "max_num_sequences": {"type": "int", "values": [4, 8]},
            "use_v2_block_manager": {"type": "bool"},
            "HCCL_BUFSIZE": {"type": "int", "values": [200, 400], "target": {"kind": "environment"}},
            "prefetch": {
                "type": "bool",
                "target": {"kind": "additional_config", "name": "weight_prefetch_config.enabled"},
            },
            "nz": {"type": "int", "values": [1, 2], "target": {"kind": "environment", "name": "VLLM_ASCEND_ENABLE_NZ"}},
            "binding": {"type": "bool", "target": {"kind": "additional_config", "name": "enable_cpu_bindings"}},
            "mode": {
                "type": "categorical",
                "choices": ["FULL", "PARTLY"],
                "target": {"kind": "compilation_config", "name": "cudagraph_mode"},
            },
        },
        {
            "max_num_sequences": 8,
            "use_v2_block_manager": False,
            "HCCL_BUFSIZE": 200,
            "prefetch": False,
            "nz": 1,
            "binding": True,
            "mode": "FULL",
        },
    )
    engine = ascend(
        "0.30.0rc2", arguments=frozenset({"max_num_seqs", "additional_config", "compilation_config", "block_size"})
    )
    assert problems(several, engine) == [
        "vllm-ascend 0.30.0rc2 has no argument 'max_num_sequences'; did you mean 'max_num_seqs'?",
        "vllm-ascend 0.30.0rc2 has no argument 'use_v2_block_manager': it is gone; vLLM has one block manager only; "
        "leave it out",
        "environment 'HCCL_BUFSIZE' is not in the knob catalogue; did you mean 'HCCL_BUFFSIZE'?; one who knows it may "
        "allow it with allowed_knobs: [HCCL_BUFSIZE] in the settings",
        "additional_config 'weight_prefetch_config.enabled' is gone since vllm-ascend 0.26.0rc1 (vllm-ascend 0.30.0rc2 "
        "is installed); there is none; leave it out (a tutorial of 0.30 still shows it)",
        "environment 'VLLM_ASCEND_ENABLE_NZ' is gone since vllm-ascend 0.30.0rc1 (vllm-ascend 0.30.0rc2 is installed); "
        "use additional_config weight_nz_mode",
        "additional_config 'enable_cpu_bindings' is not in the knob catalogue; did you mean 'enable_cpu_binding'?; one "
        "who knows it may allow it with allowed_knobs: [additional_config.enable_cpu_bindings] in the settings",
        "mode: PARTLY: must be one of NONE, PIECEWISE, FULL, FULL_DECODE_ONLY, FULL_AND_PIECEWISE",
    ]


def test_a_knob_that_this_release_does_not_have_yet_is_refused():
    """It would be ignored in silence, and a search would rank noise."""
    assert problems(one("additional_config", "weight_nz_mode", 0, 1), ascend("0.18.0")) == [
        "additional_config 'weight_nz_mode' is known from vllm-ascend 0.23.0 on (vllm-ascend 0.18.0 is installed)"
    ]


def test_an_argument_that_the_engine_knows_needs_no_entry():
    engine = Installed("cuda", {"vllm": "0.32.0"}, arguments=frozenset({"max_num_seqs", "dcp_comm_backend"}))
    assert problems(one("argument", "dcp_comm_backend", "a", "b"), engine) == []


def test_what_the_operator_allows_needs_no_entry():
    assert problems(one("environment", "NCCL_ALGO", "Ring", "Tree"), CUDA, ("NCCL_ALGO",)) == []
    key = one("additional_config", "brand_new", 0, 1)
    assert problems(key, STABLE, ("additional_config.brand_new",)) == []
    assert len(problems(key, STABLE, ("brand_new",))) == 1


# A space: what does nothing


def test_a_dimension_without_effect_is_dropped_with_its_reason():
    found = check(one("argument", "block_size", 16, 32, 128), STABLE)
    assert found.problems == ()
    assert tunable(found.space) == ("max_num_seqs",)
    assert found.space.dropped == {
        "it": "vllm-ascend makes every block size 128 while prefix caching or chunked prefill is on"
    }
    assert found.space.starting_points == {"baseline": {"max_num_seqs": 8}}
    assert size(found.space) == 2


@pytest.mark.parametrize(
    ("installed", "kept"),
    [
        (ascend("0.13.0"), False),
        (ascend("0.30.0rc2"), False),
        (ascend("0.11.0"), True),  # there it depended on a scheduler that is gone
        (ascend("0.30.0rc2", frozenset({"deepseek_v4", "moe"})), True),  # which takes 32, 64 and 128
        (ascend("0.30.0rc2", frozenset({"qwen3_next", "moe", "hybrid"})), False),  # where it can corrupt answers
        (Installed("ascend", {}, models=DENSE), True),
        (CPU, True),
        (CUDA, True),
    ],
)
def test_a_block_size_is_searched_only_where_it_is_not_forced(installed: Installed, kept: bool):
    assert ("it" in check(one("argument", "block_size", 32, 128), installed).space.parameters) is kept


def test_a_dimension_that_matters_in_some_configurations_is_kept():
    switches = {
        "enable_prefix_caching": {"type": "bool"},
        "enable_chunked_prefill": {"type": "bool"},
        "block_size": {"type": "int", "values": [128, 256]},
    }
    baseline = {"enable_prefix_caching": True, "enable_chunked_prefill": True, "block_size": 128}
    assert check(space(switches, baseline), STABLE).space.dropped == {}
    fixed = {**switches, "enable_prefix_caching": {"type": "fixed", "value": True}}
    del baseline["enable_prefix_caching"]
    assert list(check(space(fixed, baseline), STABLE).space.dropped) == ["block_size"]


def test_the_arguments_of_the_profile_count():
    both = one("argument", "block_size", 128, 256)
    off = {"enable_prefix_caching": False, "enable_chunked_prefill": False}
    assert check(both, STABLE, given=off).space.dropped == {}
    assert list(check(both, STABLE, given={"enable_prefix_caching": False}).space.dropped) == ["it"]


@pytest.mark.parametrize(
    ("kind", "name", "values", "installed", "why"),
    [
        ("environment", "HCCL_OP_EXPANSION_MODE", ("HOST", "AIV"), STABLE, "on one NPU nothing is communicated"),
        ("environment", "TASK_QUEUE_ENABLE", (0, 1), CUDA, "it does something on ascend only, and this is cuda"),
        ("environment", "TASK_QUEUE_ENABLE", ("default", 1), STABLE, "1 is what the engine does without it"),
        ("additional_config", "enable_fused_mc2", (0, 1), STABLE, "the model has no experts"),
        ("argument", "async_scheduling", (True, False), CPU, "the CPU platform switches it off whatever is asked"),
        ("argument", "enable_dbo", (False, True), NEWEST, "vllm-ascend resets it"),
        ("compilation_config", "cudagraph_mode", ("FULL", "NONE"), CPU, "a CPU captures no graphs"),
    ],
)
def test_what_an_engine_ignores_is_dropped(
    kind: str, name: str, values: tuple[Any, ...], installed: Installed, why: str
):
    assert check(one(kind, name, *values), installed).space.dropped == {"it": why}


def test_a_default_counts_where_the_environment_says_otherwise_or_there_is_another_value():
    inherits = Installed("ascend", STABLE.versions, models=DENSE, environment={"TASK_QUEUE_ENABLE": "0"})
    assert check(one("environment", "TASK_QUEUE_ENABLE", "default", 1), inherits).space.dropped == {}
    assert check(one("environment", "TASK_QUEUE_ENABLE", 0, 1), STABLE).space.dropped == {}


def test_experts_that_are_cut_do_not_go_with_split_activations():
    asked = {"tensor_parallel_size": 4, "additional_config": {"enable_flashcomm1": True}}
    stable = ascend("0.23.0.post1", MOE)
    (told,) = conflicts(EngineConfig(arguments=asked), habits(stable))
    assert told.endswith("models with experts need enable_expert_parallel for it")
    assert conflicts(EngineConfig(arguments={**asked, "enable_expert_parallel": True}), habits(stable)) == ()
    assert conflicts(EngineConfig(arguments=asked), habits(STABLE)) == ()


def test_on_several_devices_communication_counts():
    parameters = {
        "tensor_parallel_size": {"type": "int", "values": [1, 2]},
        "HCCL_BUFFSIZE": {"type": "int", "values": [200, 400], "target": {"kind": "environment"}},
    }
    both = space(parameters, {"tensor_parallel_size": 1, "HCCL_BUFFSIZE": 200})
    assert check(both, STABLE).space.dropped == {}


def test_what_depends_on_a_dropped_parameter_stands_where_the_baseline_has_it():
    parameters = {
        "max_num_seqs": {"type": "int", "values": [4, 8]},
        "block_size": {"type": "int", "values": [64, 128]},
        "seed": {"type": "int", "values": [1, 2], "when": {"block_size": 128}},
        "stream_interval": {"type": "int", "values": [1, 2], "when": {"block_size": 64}},
    }
    rules = [
        {"kind": "at_least", "left": "block_size", "right": "max_num_seqs", "reason": "gone with it"},
        {"kind": "at_most", "left": "max_num_seqs", "right": 4, "when": {"block_size": 64}, "reason": "never"},
        {"kind": "at_most", "left": "max_num_seqs", "right": 8, "when": {"block_size": 128}, "reason": "always"},
    ]
    baseline = {"max_num_seqs": 8, "block_size": 128, "seed": 1, "stream_interval": 1}
    found = check(space(parameters, baseline, rules=rules), STABLE).space
    assert found.parameters["seed"].when == {}
    assert found.dropped["stream_interval"] == "it is searched only with block_size, which was left out"
    assert [(rule.reason, rule.when) for rule in found.rules] == [("always", {})]


def test_a_space_in_which_nothing_has_an_effect_is_refused():
    alone = space({"block_size": {"type": "int", "values": [16, 128]}}, {"block_size": 128})
    (problem,) = problems(alone, STABLE)
    assert problem.startswith("nothing is left to search with vllm-ascend 0.23.0.post1: block_size: vllm-ascend makes")


# What an engine will do


def runs(arguments: dict[str, Any], installed: Installed, devices: int = 1, **environment: str) -> dict[str, Any]:
    config = EngineConfig(arguments=arguments, environment=environment, devices=devices)
    return predicted(config, habits(installed))


def test_defaults_are_filled_in_where_they_are_known():
    assert runs({}, STABLE)["block_size"] == 128
    assert runs({}, STABLE)["gpu_memory_utilization"] == 0.92
    assert "gpu_memory_utilization" not in runs({}, ascend("0.18.0"))
    assert "block_size" not in runs({}, CUDA)


def test_a_variable_that_engines_inherit_is_what_runs():
    inherits = Installed("ascend", STABLE.versions, models=DENSE, environment={"TASK_QUEUE_ENABLE": "0"})
    assert runs({}, STABLE)["TASK_QUEUE_ENABLE"] == 1
    assert runs({}, inherits)["TASK_QUEUE_ENABLE"] == "0"
    assert runs({}, inherits, TASK_QUEUE_ENABLE="2")["TASK_QUEUE_ENABLE"] == "2"


def test_what_is_ignored_is_left_out():
    assert "HCCL_BUFFSIZE" not in runs({}, STABLE, HCCL_BUFFSIZE="1024")
    assert runs({}, STABLE, devices=2, HCCL_BUFFSIZE="1024")["HCCL_BUFFSIZE"] == "1024"
    assert "TASK_QUEUE_ENABLE" not in runs({}, CPU, TASK_QUEUE_ENABLE="2")


def test_a_forced_value_replaces_the_one_asked_for():
    assert runs({"block_size": 16}, STABLE)["block_size"] == 128
    off = {"enable_prefix_caching": False, "enable_chunked_prefill": False}
    assert runs({"block_size": 256, **off}, STABLE)["block_size"] == 256


def test_a_timeout_below_that_of_a_collective_is_made_longer():
    asked = {"VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "600"}, {"VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "2000"}
    found = [predicted(EngineConfig(environment=one), habits(STABLE)) for one in asked]
    assert [one["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] for one in found] == [3000, "2000"]
    assert predicted(EngineConfig(), habits(STABLE))["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] == 3000
    both = one("environment", "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", 300, 600)
    assert tunable(check(both, STABLE).space) == ("max_num_seqs",)


def test_what_is_guessed_ahead_is_said_in_one_place_only():
    arguments = {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}, "spec_tokens": 2}
    (told,) = conflicts(EngineConfig(arguments=arguments), habits(CUDA))
    assert told == "spec_tokens 2: vLLM takes either these arguments or the keys of speculative_config"


@pytest.mark.parametrize(("build", "starts"), [("", False), ("A2", False), ("_310P", True)])
def test_a_310p_has_kernels_for_smaller_blocks(build: str, starts: bool):
    off = {"enable_prefix_caching": False, "enable_chunked_prefill": False}
    engine = habits(replace(STABLE, build=build))
    assert (not conflicts(EngineConfig(arguments={"block_size": 64, **off}), engine)) is starts
    assert conflicts(EngineConfig(arguments={"block_size": 32, **off}), engine)


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        ({}, {"TASK_QUEUE_ENABLE": "2"}, ["TASK_QUEUE_ENABLE 2: torch_npu captures no graphs with it"]),
        ({}, {"TASK_QUEUE_ENABLE": "1"}, []),
        ({"enforce_eager": True}, {"TASK_QUEUE_ENABLE": "2"}, []),
        ({"compilation_config": {"cudagraph_mode": "NONE"}}, {"TASK_QUEUE_ENABLE": "2"}, []),
        (
            {"enable_prefix_caching": False, "enable_chunked_prefill": False, "block_size": 16},
            {},
            [
                "block_size 16: with prefix caching and chunked prefill off the kernels take multiples of 128 (310P, "
                "of 64) only"
            ],
        ),
        ({"enable_expert_parallel": True}, {}, ["enable_expert_parallel True: the model has no experts"]),
    ],
)
def test_what_does_not_go_together_is_told(arguments: dict[str, Any], environment: dict[str, str], told: list[str]):
    config = EngineConfig(arguments=arguments, environment=environment)
    assert list(conflicts(config, habits(STABLE))) == told


# What a shared service allows


def test_only_what_the_catalogue_has_is_allowed_from_others():
    wild = space(
        {
            "max_num_seqs": {"type": "int", "values": [4, 8]},
            "NCCL_ALGO": {"type": "categorical", "choices": ["Ring", "Tree"], "target": {"kind": "environment"}},
            "mm_processor_cache_gb": {"type": "int", "values": [1, 4]},
        },
        {"max_num_seqs": 8, "NCCL_ALGO": "Ring", "mm_processor_cache_gb": 4},
    )
    assert not_allowed(wild) == (
        "search space 's': parameters.NCCL_ALGO: environment 'NCCL_ALGO' is not in the knob catalogue; the operator "
        "may allow it with allowed_knobs: [NCCL_ALGO] in the settings",
        "search space 's': parameters.mm_processor_cache_gb: argument 'mm_processor_cache_gb' is not in the knob "
        "catalogue; the operator may allow it with allowed_knobs: [mm_processor_cache_gb] in the settings",
    )
    assert not_allowed(wild, ("NCCL_ALGO", "mm_processor_cache_gb")) == ()


def test_what_a_job_may_never_set_stays_refused_whoever_allows_it():
    """A record that was made without its checks, as a defect elsewhere might."""
    preload = space({"max_num_seqs": {"type": "int", "values": [4, 8]}}, {"max_num_seqs": 8})
    target = {"kind": "environment", "name": "LD_PRELOAD"}
    other = (
        one("environment", "OMP_NUM_THREADS", 1, 2)
        .parameters["it"]
        .model_copy(update={"target": preload.parameters["max_num_seqs"].target.model_copy(update=target)})
    )
    smuggled = preload.model_copy(update={"parameters": {"it": other}})
    (problem,) = not_allowed(smuggled, ("LD_PRELOAD",))
    assert "'LD_PRELOAD' is not for a job to set" in problem


# The bundled spaces

PLATFORM = {"cpu": "cpu", "demo": "cpu", "cuda": "cuda"}  # the others are for Ascend
OLDEST = {"ascend-moe": "0.23.0rc1"}  # whose keys came then; the others name nothing that is not older than the matrix


def bundled_space(name: str) -> SearchSpace:
    return load(find(name, "search_spaces", relative_to=ROOT).read_text(), SearchSpace, source=name)


@pytest.mark.parametrize("name", bundled("search_spaces"))
@pytest.mark.parametrize("version", [row.vllm_ascend for row in ASCEND_RELEASES])
def test_a_bundled_space_fits_every_release_from_its_oldest_on(name: str, version: str):
    engine = ascend(version, MOE if name == "ascend-moe" else DENSE)
    platform = PLATFORM.get(name)
    if platform is not None:
        engine = Installed(platform, {"vllm": engine.versions["vllm"]}, models=DENSE)
    checked = check(bundled_space(name), engine)
    oldest, found = parsed(OLDEST.get(name, "0")), parsed(version)
    assert oldest is not None
    assert found is not None
    if found < oldest:
        assert all(" is known from vllm-ascend " in problem for problem in checked.problems)
        assert checked.problems
    else:
        assert checked.problems == ()
        assert len(tunable(checked.space)) >= 3


@pytest.mark.parametrize("name", bundled("search_spaces"))
def test_a_shared_service_takes_every_bundled_space(name: str):
    assert not_allowed(bundled_space(name)) == ()


@pytest.mark.parametrize("name", [name for name in bundled("search_spaces") if name not in ("demo", "seed-guide")])
def test_a_bundled_space_has_no_starting_point_that_cannot_start(name: str):
    """`demo` has one on purpose."""
    found = bundled_space(name)
    platform = PLATFORM.get(name)
    models = MOE if name == "ascend-moe" else DENSE
    engine = ascend("0.30.0rc2", models) if platform is None else Installed(platform, {"vllm": "0.32.0"}, models=models)
    for point in found.starting_points:
        config = resolve(found, starting_point(found, point), derived={"max_model_len": 1024})
        assert conflicts(config, habits(engine)) == ()


def test_the_guides_space_has_exactly_the_guides_knobs():
    guide = bundled_space("seed-guide")
    assert {name: levels(parameter) for name, parameter in guide.parameters.items()} == {
        "block_size": (16, 32, 64, 128),
        "max_num_seqs": (32, 64, 128, 256),
        "max_model_len": (4096,),
        "gpu_memory_utilization": (0.85, 0.86, 0.87, 0.88, 0.89, 0.9, 0.91, 0.92, 0.93, 0.94, 0.95),
        "TASK_QUEUE_ENABLE": (0, 1, 2),
        "enforce_eager": (False, True),
        "tensor_parallel_size": (1,),
    }


@pytest.mark.parametrize("size", [8, 256])
def test_the_guides_space_refuses_the_block_sizes_that_it_warns_of(size: int):
    document = bundled_space("seed-guide").model_dump()
    document["starting_points"]["mine"] = {"block_size": size}
    with pytest.raises(ValueError, match=rf"starting_points.mine.block_size: {size} is not one of the levels"):
        SearchSpace.model_validate(document)


def test_the_guides_task_queue_of_2_needs_eager_mode():
    guide = bundled_space("seed-guide")
    knobs = {**starting_point(guide, "baseline"), "TASK_QUEUE_ENABLE": 2}
    assert len(broken_rules(guide, knobs, {})) == 1
    assert broken_rules(guide, {**knobs, "enforce_eager": True}, {}) == ()


def test_todays_releases_drop_the_guides_block_size_from_all_its_starting_points():
    checked = check(bundled_space("seed-guide"), STABLE).space
    assert list(checked.dropped) == ["block_size"]
    assert [point for point, knobs in checked.starting_points.items() if "block_size" in knobs] == []
