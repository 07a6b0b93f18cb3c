"""Search spaces: levels, conditions, rules, starting points, and what a choice launches."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from autotune.engine_config import EngineConfig
from autotune.errors import InputError
from autotune.loading import bundled, find, load
from autotune.search_space import (
    MAX_LEVELS,
    Parameter,
    SearchSpace,
    active,
    baseline_config,
    broken_rules,
    is_ordered,
    levels,
    resolve,
    size,
    starting_point,
    tunable,
)

SPACE = {
    "version": 1,
    "name": "test",
    "parameters": {
        "load_format": {"type": "fixed", "value": "dummy"},
        "tensor_parallel_size": {"type": "int", "values": [1, 2, 4]},
        "max_num_seqs": {"type": "int", "low": 8, "high": 64, "log": True},
        "max_num_batched_tokens": {"type": "int", "values": [32, 512, 2048]},
        "enable_chunked_prefill": {"type": "bool"},
        "async_scheduling": {"type": "categorical", "choices": ["auto", False]},
        "mode": {
            "type": "categorical",
            "choices": ["default", "AIV"],
            "target": {"kind": "environment", "name": "HCCL_OP_EXPANSION_MODE"},
            "when": {"tensor_parallel_size": [2, 4]},
        },
        "weight_nz": {"type": "bool", "target": {"kind": "additional_config", "name": "graph.nz"}},
        "cudagraph_mode": {
            "type": "categorical",
            "choices": ["FULL", "PIECEWISE"],
            "target": {"kind": "compilation_config"},
        },
    },
    "starting_points": {
        "baseline": {
            "tensor_parallel_size": 1,
            "max_num_seqs": 64,
            "max_num_batched_tokens": 2048,
            "enable_chunked_prefill": True,
            "async_scheduling": "auto",
            "mode": "default",
            "weight_nz": True,
            "cudagraph_mode": "FULL",
        },
        "recipe": {"tensor_parallel_size": 2, "mode": "AIV", "max_num_seqs": 32},
    },
}
BASELINE = SPACE["starting_points"]["baseline"]


def space(**changes):
    """The space above with top-level keys replaced, read as a file is."""
    return load(json.dumps(SPACE | changes), SearchSpace, source="space.yaml")


def with_parameter(name, **fields):
    return SPACE["parameters"] | {name: fields}


def problems(**changes):
    with pytest.raises(InputError) as caught:
        space(**changes)
    return tuple(problem.removeprefix("space.yaml:1: ") for problem in caught.value.problems)


def parameter(**fields) -> Parameter:
    return TypeAdapter(Parameter).validate_python(fields)


LEVELS = [
    ({"type": "int", "values": [1, 10]}, (1, 10)),
    ({"type": "int", "low": 1, "high": 4}, (1, 2, 3, 4)),
    ({"type": "int", "low": 10, "high": 35, "step": 10}, (10, 20, 30)),
    ({"type": "int", "low": 8, "high": 64, "log": True}, (8, 16, 32, 64)),
    (
        {"type": "int", "low": 1, "high": 2**17, "log": True},
        (1, 2, 4, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384, 32768, 65536, 131072),
    ),
    ({"type": "int", "low": 8, "high": 16, "log": True, "special": ["auto"]}, ("auto", 8, 16)),
    ({"type": "int", "low": 0, "high": 30}, (0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)),
    ({"type": "int", "low": 1, "high": 3, "log": True}, (1, 2, 3)),
    ({"type": "float", "low": 0.85, "high": 0.9, "step": 0.01}, (0.85, 0.86, 0.87, 0.88, 0.89, 0.9)),
    ({"type": "float", "low": 0, "high": 15}, (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, *map(float, range(8, 16)))),
    ({"type": "bool"}, (False, True)),
    ({"type": "categorical", "choices": ["auto", False, 1]}, ("auto", False, 1)),
    ({"type": "fixed", "value": "dummy"}, ("dummy",)),
]


@pytest.mark.parametrize(("fields", "expected"), LEVELS)
def test_levels_are_the_real_values_in_order(fields, expected):
    assert [(type(level), level) for level in levels(parameter(**fields))] == [(type(e), e) for e in expected]


ranges = st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)).filter(lambda pair: pair[0] < pair[1])


@given(ranges, st.one_of(st.just({}), st.just({"log": True}), st.builds(dict, step=st.integers(1, 1000))))
def test_an_integer_range_has_at_most_16_rising_levels_and_keeps_its_ends(pair, form):
    low, high = pair
    grid = levels(parameter(type="int", low=low, high=high, **form))
    assert 1 <= len(grid) <= MAX_LEVELS
    assert list(grid) == sorted(set(grid))
    assert grid[0] == low
    assert high - form.get("step", 1) < grid[-1] <= high


@pytest.mark.parametrize(
    ("fields", "ordered"),
    [
        ({"type": "int", "values": [1, 2]}, True),
        ({"type": "float", "low": 0, "high": 1}, True),
        ({"type": "categorical", "choices": ["a", "b"]}, False),
        ({"type": "categorical", "choices": ["a", "b"], "ordered": True}, True),
        ({"type": "bool"}, False),
    ],
)
def test_only_numbers_and_ordered_choices_have_an_order(fields, ordered):
    assert is_ordered(parameter(**fields)) is ordered


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"type": "int"}, "needs values, or low and high"),
        ({"type": "int", "values": [1], "low": 1}, "give either values, or low and high with step or log, not both"),
        ({"type": "int", "values": [2, 1]}, "must rise, not [2, 1]"),
        ({"type": "int", "low": 2, "high": 2}, "low 2 must be below high 2"),
        ({"type": "int", "low": 0, "high": 2, "log": True}, "a log grid starts at 1 or above and has no step"),
        ({"type": "float", "low": 2, "high": 1}, "low 2 must be below high 1"),
        ({"type": "categorical", "choices": ["a", "a"]}, "'a' is listed twice"),
        ({"type": "categorical", "choices": ["a"]}, 'must be a list of at least 2 entries, not ["a"]'),
    ],
)
def test_a_parameter_that_makes_no_levels_is_refused(fields, told):
    (problem,) = problems(parameters=with_parameter("max_num_seqs", **fields))
    assert problem.startswith("parameters.max_num_seqs")
    assert problem.endswith(told)


def test_a_knob_is_active_only_while_its_condition_holds():
    assert "mode" not in active(space(), BASELINE)
    assert active(space(), BASELINE | {"tensor_parallel_size": 2})["mode"] == "default"


def test_a_condition_on_an_inactive_knob_does_not_hold():
    chained = with_parameter("seed", type="bool", when={"mode": "AIV"})
    inner = space(parameters=chained, starting_points={"baseline": BASELINE | {"seed": True}})
    assert "seed" not in active(inner, BASELINE | {"seed": True, "mode": "AIV"})
    assert active(inner, BASELINE | {"seed": True, "mode": "AIV", "tensor_parallel_size": 4})["seed"] is True


def test_true_does_not_meet_a_condition_on_the_number_one():
    flagged = with_parameter("enable_eplb", type="categorical", choices=[1, True])
    parameters = flagged | {"seed": {"type": "bool", "when": {"enable_eplb": 1}}}
    start = BASELINE | {"enable_eplb": 1, "seed": True}
    inner = space(parameters=parameters, starting_points={"baseline": start})
    assert "seed" in active(inner, start)
    assert "seed" not in active(inner, start | {"enable_eplb": True})


def test_every_target_receives_its_value_and_special_values_are_not_given():
    knobs = BASELINE | {"tensor_parallel_size": 2, "mode": "AIV", "enable_chunked_prefill": False}
    assert resolve(space(), knobs, derived={"max_model_len": 512}) == EngineConfig(
        arguments={
            "load_format": "dummy",
            "tensor_parallel_size": 2,
            "max_num_seqs": 64,
            "max_num_batched_tokens": 2048,
            "enable_chunked_prefill": False,
            "additional_config": {"graph": {"nz": True}},
            "compilation_config": {"cudagraph_mode": "FULL"},
            "max_model_len": 512,
        },
        environment={"HCCL_OP_EXPANSION_MODE": "AIV"},
        devices=2,
    )


def test_the_baseline_is_launched_with_fixed_arguments_only():
    assert baseline_config(space(), derived={"max_model_len": 512}) == EngineConfig(
        arguments={"load_format": "dummy", "max_model_len": 512}
    )


def test_a_space_with_max_model_len_as_a_parameter_keeps_its_own():
    parameters = with_parameter("max_model_len", type="fixed", value=1024)
    config = resolve(space(parameters=parameters), BASELINE, derived={"max_model_len": 512})
    assert config.arguments["max_model_len"] == 1024


def test_devices_are_the_product_of_the_parallel_sizes_fixed_ones_included():
    parameters = with_parameter("data_parallel_size", type="fixed", value=3)
    assert resolve(space(parameters=parameters), BASELINE | {"tensor_parallel_size": 4}, derived={}).devices == 12


def test_a_starting_point_takes_what_it_leaves_out_from_the_baseline():
    differs = {"tensor_parallel_size": 2, "mode": "AIV", "max_num_seqs": 32}
    assert starting_point(space(), "recipe") == BASELINE | differs


RULES = [
    ({"kind": "at_least", "left": "max_num_batched_tokens", "right": "max_model_len"}, True),
    ({"kind": "at_most", "left": "max_num_seqs", "right": 64}, False),
    ({"kind": "at_most", "left": "max_num_seqs", "right": 63}, True),
    ({"kind": "greater", "left": "max_num_seqs", "right": 64}, True),
    ({"kind": "less", "left": "max_num_seqs", "right": 65}, False),
    ({"kind": "equal", "left": "cudagraph_mode", "right": "FULL"}, False),
    ({"kind": "not_equal", "left": "cudagraph_mode", "right": "FULL"}, True),
    ({"kind": "divides", "left": "tensor_parallel_size", "right": 3}, True),
    ({"kind": "divides", "left": "tensor_parallel_size", "right": "max_num_seqs"}, False),
    ({"kind": "product_at_most", "factors": ["tensor_parallel_size", "max_num_seqs"], "right": 127}, True),
    ({"kind": "product_at_most", "factors": ["devices", "max_num_seqs"], "right": 128}, False),
    ({"kind": "at_most", "left": "max_num_seqs", "right": 1, "when": {"tensor_parallel_size": 4}}, False),
    ({"kind": "equal", "left": "mode", "right": "AIV"}, True),
]


@pytest.mark.parametrize(("rule", "is_broken"), RULES)
def test_each_kind_of_rule_judges_as_its_name_says(rule, is_broken):
    inner = space(rules=[rule | {"reason": "because"}])
    knobs = BASELINE | {"tensor_parallel_size": 2}
    assert bool(broken_rules(inner, knobs, {"max_model_len": 4096})) is is_broken


def test_a_broken_rule_says_both_values_and_the_reason():
    inner = space(rules=[{"kind": "at_most", "left": "max_num_seqs", "right": 32, "reason": "too slow"}])
    assert broken_rules(inner, BASELINE, {}) == ("max_num_seqs (64) must be at most 32: too slow",)


def test_a_rule_about_an_inactive_or_underived_value_is_not_judged():
    rules = [
        {"kind": "equal", "left": "mode", "right": "AIV", "reason": "inactive on one device"},
        {"kind": "at_least", "left": "max_num_seqs", "right": "max_model_len", "reason": "length not known"},
    ]
    assert broken_rules(space(rules=rules), BASELINE, {}) == ()


def test_every_space_keeps_the_engines_rule_that_the_token_budget_covers_the_sequences():
    (told,) = broken_rules(space(), BASELINE | {"max_num_batched_tokens": 32}, {})
    assert told.startswith("max_num_batched_tokens (32) must be at least max_num_seqs (64): ")


def test_without_chunked_prefill_a_prompt_must_fit_into_one_step():
    knobs = BASELINE | {"max_num_batched_tokens": 512}
    assert broken_rules(space(), knobs, {"max_model_len": 1024}) == ()
    (told,) = broken_rules(space(), knobs | {"enable_chunked_prefill": False}, {"max_model_len": 1024})
    assert told.startswith("max_num_batched_tokens (512) must be at least max_model_len (1024)")


def test_size_counts_an_inactive_knob_once():
    # one device, without `mode`: 4 x 3 x 2 x 2 x 2 x 2 = 192; two and four devices: twice that each
    assert size(space()) == 192 + 384 + 384


def test_wrong_names_and_values_are_all_named_at_once():
    told = problems(
        rules=[
            {"kind": "at_most", "left": "max_num_seq", "right": 1, "reason": "r"},
            {"kind": "at_most", "left": "cudagraph_mode", "right": 1, "reason": "r"},
            {"kind": "equal", "left": "mode", "right": "AIX", "reason": "r"},
            {"kind": "equal", "left": "mode", "right": "AIV", "when": {"tensor_parallel_size": 3}, "reason": "r"},
        ],
        starting_points={"baseline": BASELINE | {"max_num_seqs": 65, "cudagraph_mode": "NONE", "load_format": "x"}},
    )
    known = ", ".join(BASELINE)
    assert told == (
        "starting_points.baseline.max_num_seqs: 65 is not a whole number within 8 to 64",
        "starting_points.baseline.cudagraph_mode: NONE is not one of the levels FULL, PIECEWISE",
        f"starting_points.baseline.load_format: unknown parameter 'load_format'; known are {known}",
        "rules.0.left: unknown parameter 'max_num_seq'; did you mean 'max_num_seqs'?",
        "rules.1.kind: at_most compares numbers, and cudagraph_mode is none",
        f"rules.2.right: unknown parameter 'AIX'; known are load_format, {known}, max_model_len, devices",
        "rules.3.when.tensor_parallel_size: 3 is not one of the levels 1, 2, 4",
    )


def test_a_space_without_a_complete_baseline_is_refused():
    (told,) = problems(starting_points={"recipe": {}})
    assert told == (
        f"starting_points.baseline: must say where the engine's defaults lie; missing {', '.join(BASELINE)}"
    )


def test_conditions_in_a_circle_are_refused():
    parameters = {
        "enforce_eager": {"type": "bool", "when": {"enable_eplb": True}},
        "enable_eplb": {"type": "bool", "when": {"enforce_eager": True}},
    }
    start = {"baseline": {"enforce_eager": True, "enable_eplb": True}}
    (told,) = problems(parameters=parameters, starting_points=start)
    assert told.startswith("parameters: conditions go round in a circle: ")


def test_a_condition_on_an_unknown_parameter_is_refused():
    (told,) = problems(parameters=with_parameter("seed", type="fixed", value=1, when={"tensor_paralel_size": 1}))
    assert told == (
        "parameters.seed.when.tensor_paralel_size: unknown parameter 'tensor_paralel_size'; "
        "did you mean 'tensor_parallel_size'?"
    )


def test_two_parameters_for_one_argument_are_refused():
    target = {"kind": "argument", "name": "max_num_seqs"}
    told = problems(parameters=with_parameter("alias", type="fixed", value=1, target=target))
    assert told == (
        "parameters.max_num_seqs: sets the same argument 'max_num_seqs' as alias",
        "parameters.alias: sets the same argument 'max_num_seqs' as max_num_seqs",
    )


REFUSED = {
    "argument": [
        *("host", "port", "api_key", "model", "served_model_name", "trust_remote_code", "worker_cls"),
        *("worker_extension_cls", "middleware", "logits_processors", "tool_parser_plugin", "kv_transfer_config"),
        *("hf_overrides", "ssl_keyfile", "ssl_ca_certs", "uds", "root_path", "config", "otlp_traces_endpoint"),
        *("download_dir", "allowed_local_media_path", "chat_template", "scheduler_cls", "log_config_file"),
        *(
            "additional_config",
            "speculative_config",
            "spec_model",
            "spec_mo",
            "worker_extension_c",
            "no_trust_remote_code",
            "trust-remote-code",
        ),
    ],
    "environment": [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "PYTHONSTARTUP", "HOME", "VLLM_PLUGINS"),
        *("RAY_ADDRESS", "CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "VLLM_API_KEY", "HCCL_IF_BASE_PORT"),
        *("NCCL_NET_PLUGIN", "CUDA_INJECTION64_PATH", "BASH_ENV", "VLLM_ALLOW_INSECURE_SERIALIZATION", "http_proxy"),
    ],
    "compilation_config": ["backend", "inductor_passes", "x.cache_dir", "a b", "backend.name"],
    "speculative_config": [
        *("model", "revision", "draft_load_config.load_format", "hf_overrides", "tokenizer", "trust_remote_code"),
        *("draft_parallel_config.worker_cls", "x_path.y"),
    ],
    "additional_config": ["dump_config_path"],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in REFUSED.items() for name in names])
def test_what_loads_code_or_belongs_to_the_operator_is_refused(kind, name):
    target = {"kind": kind, "name": name}
    (told,) = problems(parameters=with_parameter("evil", type="fixed", value="x", target=target))
    assert told.startswith("parameters.evil: ")
    assert name in told


def test_text_in_brackets_is_a_list_in_a_document():
    sizes = {
        "type": "categorical",
        "choices": ["default", "[1, 2, 4]", "[8]"],
        "target": {"kind": "compilation_config"},
    }
    chosen = SPACE["starting_points"] | {"baseline": BASELINE | {"cudagraph_capture_sizes": "default"}}
    found = space(parameters=with_parameter("cudagraph_capture_sizes", **sizes), starting_points=chosen)
    asked = resolve(found, BASELINE | {"cudagraph_capture_sizes": "[1, 2, 4]"}, derived={})
    assert asked.arguments["compilation_config"] == {"cudagraph_mode": "FULL", "cudagraph_capture_sizes": [1, 2, 4]}


@pytest.mark.parametrize(
    "value",
    ["[1, 2", "[] + []", " [1] 2", "[" * 20_000, "[[1]]", '[{"model": "/m"}]', "[NaN]", '["\\ud800"]', "[null]"],
)
def test_what_begins_like_a_list_must_be_one_of_plain_values(value):
    target = {"kind": "compilation_config", "name": "cudagraph_capture_sizes"}
    (told,) = problems(parameters=with_parameter("sizes", type="fixed", value=value, target=target))
    assert told.startswith(f"parameters.sizes: {value[:60]}: begins like a list")


def test_guessing_ahead_is_a_document_of_its_own():
    ahead = {
        "method": {"type": "categorical", "choices": ["default", "ngram"], "target": {"kind": "speculative_config"}},
        "tokens": {
            "type": "int",
            "values": [2, 4],
            "when": {"method": "ngram"},
            "target": {"kind": "speculative_config", "name": "num_speculative_tokens"},
        },
    }
    knobs = BASELINE | {"method": "default", "tokens": 2}
    found = space(parameters=SPACE["parameters"] | ahead, starting_points={"baseline": knobs})
    assert "speculative_config" not in resolve(found, knobs, derived={}).arguments
    asked = resolve(found, knobs | {"method": "ngram"}, derived={})
    assert asked.arguments["speculative_config"] == {"method": "ngram", "num_speculative_tokens": 2}


def test_a_space_tells_which_engine_arguments_it_sets():
    assert space().argument_names == (
        "load_format",
        "tensor_parallel_size",
        "max_num_seqs",
        "max_num_batched_tokens",
        "enable_chunked_prefill",
        "async_scheduling",
        "additional_config",
        "compilation_config",
    )


def bundled_space(name) -> SearchSpace:
    path = find(name, "search_spaces", relative_to=Path())
    return load(path.read_text(), SearchSpace, source=path.name)


@pytest.mark.parametrize("name", bundled("search_spaces"))
def test_a_bundled_space_survives_the_database_as_json(name):
    original = bundled_space(name)
    text = json.dumps(original.model_dump(mode="json"), sort_keys=True)
    assert original.name == name
    assert SearchSpace.model_validate(json.loads(text)) == original


@pytest.mark.parametrize("name", bundled("search_spaces"))
def test_the_starting_points_of_a_bundled_space_keep_its_rules(name):
    original = bundled_space(name)
    for point in original.starting_points:
        assert broken_rules(original, starting_point(original, point), {"max_model_len": 1024}) == ()


ASCEND = bundled_space("ascend-dense")


@given(st.fixed_dictionaries({name: st.sampled_from(levels(ASCEND.parameters[name])) for name in tunable(ASCEND)}))
def test_an_inactive_knob_never_changes_the_configuration(knobs):
    config = resolve(ASCEND, knobs, derived={"max_model_len": 1024})
    assert resolve(ASCEND, active(ASCEND, knobs), derived={"max_model_len": 1024}) == config
    assert config.devices == knobs["tensor_parallel_size"]
    assert ("HCCL_OP_EXPANSION_MODE" in config.environment) == (
        knobs["tensor_parallel_size"] > 1 and knobs["HCCL_OP_EXPANSION_MODE"] == "AIV"
    )
