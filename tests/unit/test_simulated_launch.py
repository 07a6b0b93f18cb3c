"""How the simulated engine starts, and how it refuses to: in vLLM's words, which the diagnosis understands."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune import __version__
from autotune.diagnosis import read_failure
from autotune.engines.readback import counters, effective_values
from autotune.engines.simulated import options, transcript
from autotune.engines.simulated.core import Core
from autotune.engines.simulated.cost import Work
from autotune.engines.simulated.devices import DEVICES
from autotune.engines.simulated.info import describe
from autotune.engines.simulated.launch import Launch, prepare
from autotune.engines.simulated.metrics import Metrics
from autotune.engines.simulated.model import Model, read
from autotune.engines.simulated.refusal import Refused
from autotune.engines.simulated.replay import counters as virtual_counters
from autotune.errors import InputError
from autotune.loading import bundled, load
from autotune.results import Evidence
from autotune.search_space import SearchSpace
from autotune.settings import Settings
from autotune.tuner.context import prepare as prepare_job
from autotune.tuner.sources import load_job

ROOT = Path(__file__).parents[2]
TINY = ROOT / "autotune" / "demo" / "tiny-llama"
STAMP = transcript.Stamp("01-01 00:00:00", 1)
SEVEN_B = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def seven_b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of Qwen2.5-7B's shape, without weights."""
    folder = tmp_path_factory.mktemp("seven-b")
    (folder / "config.json").write_text(json.dumps(SEVEN_B))
    return folder


def start(model: Path, *words: str, device: str = "cpu-small", **environment: str) -> Launch:
    asked = options.read(["serve", str(model), *words], {"SIMULATED_DEVICE": device, **environment})
    return prepare(asked, read(model))


def failure(model: Path, *words: str, device: str = "cpu-small", **environment: str) -> Evidence:
    """What a person would be told of a start that fails."""
    with pytest.raises(Refused) as caught:
        start(model, *words, device=device, **environment)
    log = "\n".join(transcript.refusal(caught.value, STAMP)) + "\n"
    return read_failure(log, exit_code=caught.value.exit_code, signal=None, log_path="engine.log")


def test_an_option_that_vllm_removed_is_refused_with_exit_code_2() -> None:
    with pytest.raises(Refused) as caught:
        options.read(["serve", "m", "--use-v2-block-manager"], {})
    assert (caught.value.exit_code, caught.value.lines[-1]) == (
        2,
        "vllm: error: unrecognized arguments: --use-v2-block-manager",
    )


def test_other_options_of_vllm_are_accepted() -> None:
    asked = options.read(["serve", "m", "--load-format", "dummy", "--max-num-seqs", "7", "--async-scheduling"], {})
    assert (asked.model, asked.max_num_seqs, asked.async_scheduling) == ("m", 7, True)


def test_options_may_be_spelled_with_underscores_and_denied() -> None:
    asked = options.read(["serve", "m", "--no-enable_prefix_caching", "--max_num_seqs=5"], {})
    assert (asked.enable_prefix_caching, asked.max_num_seqs) == (False, 5)


def test_a_config_file_gives_options_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "best.yaml"
    file.write_text("model: from-file\nmax-num-seqs: 3\nblock-size: 64\nenforce-eager: true\n")
    asked = options.read(["serve", "--config", str(file), "--max-num-seqs", "9"], {})
    assert (asked.model, asked.max_num_seqs, asked.block_size, asked.enforce_eager) == ("from-file", 9, 64, True)


def test_an_exported_file_is_read_as_vllm_reads_it(tmp_path: Path) -> None:
    """`no-NAME: true` denies, `NAME: false` is dropped, mappings are objects, and what is not modelled is no model."""
    file = tmp_path / "best.yaml"
    file.write_text(
        "model: from-file\nload-format: dummy\nno-enable-prefix-caching: true\nenable-chunked-prefill: false\n"
        "compilation-config:\n  cudagraph_mode: FULL\n  cudagraph_capture_sizes: [1, 2]\n"
    )
    asked = options.read(["serve", "--config", str(file)], {})
    assert (asked.model, asked.enable_prefix_caching, asked.enable_chunked_prefill) == ("from-file", False, True)
    assert asked.compilation_config == {"cudagraph_mode": "FULL", "cudagraph_capture_sizes": [1, 2]}


def test_the_model_after_serve_goes_before_that_of_a_config_file(tmp_path: Path) -> None:
    file = tmp_path / "best.yaml"
    file.write_text("model: from-file\n")
    assert options.read(["serve", "typed", "--config", str(file)], {}).model == "typed"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config=best.yaml",), "argument --config: --config=best.yaml is not read by vLLM"),
        (("--config", "absent.yaml"), "FileNotFoundError: [Errno 2] No such file or directory: 'absent.yaml'"),
        (("--config", "best.txt"), "ValueError: Config file must be of a yaml/yml type. txt supplied"),
        (("--config",), "ValueError: No config file specified!"),
        (("--compilation-config.cudagraph_mode", "NONE"), "--compilation-config.cudagraph_mode is not simulated"),
        (("--max-model-len", "many"), "argument --max-model-len: invalid human_readable_int_or_auto value: 'many'"),
        (("--kv-cache-memory-bytes", "1.5G"), "Decimals are not allowed with binary suffixes like G."),
        (("--compilation-config", "x"), "--compilation-config/-cc: 1 validation error for CompilationConfig"),
        (("--compilation-config", '{"cudagraph_capture_sizes": ["a"]}'), "input_value='a', input_type=str"),
    ],
)
def test_a_command_line_that_cannot_be_read_says_why(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(Refused, match=re.escape(said)):
        options.read(["serve", "m", *words], {})


def test_sizes_may_have_suffixes() -> None:
    asked = options.read(["serve", "m", "--max-model-len", "1.5k", "--max-num-batched-tokens", "2K"], {})
    assert (asked.max_model_len, asked.max_num_batched_tokens) == (1500, 2048)


def test_the_key_is_in_no_log_line() -> None:
    asked = options.read(["serve", str(TINY), "--api-key", "secret"], {})
    assert "secret" not in "\n".join(transcript.start(prepare(asked, read(TINY)), STAMP))


@pytest.mark.parametrize("space", bundled("search_spaces"))
def test_the_shipped_search_spaces_use_known_arguments(space: str) -> None:
    document = load((ROOT / "search_spaces" / f"{space}.yaml").read_text(), SearchSpace, source=space)
    assert set(document.argument_names) <= describe(Path("vllm-simulated")).arguments


@pytest.mark.parametrize(
    ("device", "seqs", "tokens", "block"),
    [("cpu-small", 128, 2048, 128), ("ascend-910b", 256, 2048, 128), ("h100", 1024, 8192, 16)],
)
def test_what_is_not_given_is_what_vllm_takes_on_the_device(
    seven_b: Path, device: str, seqs: int, tokens: int, block: int
) -> None:
    model = TINY if device == "cpu-small" else seven_b
    bounds = start(model, device=device).limits
    assert (bounds.max_num_seqs, bounds.max_num_batched_tokens, bounds.block_size) == (seqs, tokens, block)


@pytest.mark.parametrize("resource", ["CPU", "NPU"])
def test_a_job_is_prepared_on_it_without_asking_any_engine(tmp_path: Path, resource: str) -> None:
    job = ROOT / "autotune" / "demo" / "job.yaml"
    sources = load_job(job, ["engine=simulated", f"devices.resource={resource}"])
    context = prepare_job(sources, Settings(home=tmp_path))
    assert context.engine.version == f"vllm-simulated {__version__}"


def test_a_model_is_as_large_as_its_config_says(seven_b: Path) -> None:
    """7.6 billion parameters; 2 x 28 layers x 4 KV heads x 128 x 2 bytes a token."""
    model: Model = read(seven_b)
    assert (round(model.weight_bytes / 2e9, 1), model.kv_bytes_per_token) == (7.6, 57344)


def test_only_some_experts_of_a_mixture_are_computed(tmp_path: Path) -> None:
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 100}
    (tmp_path / "config.json").write_text(json.dumps(SEVEN_B | experts))
    attention, router = 3584 * 128 * (2 * 28 + 2 * 4), 3584 * 8
    assert read(tmp_path).active_parameters == 28 * (attention + router + 2 * 3 * 3584 * 100)


def test_a_model_of_unknown_sizes_is_not_simulated(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SEVEN_B | {"model_type": "novel"}))
    with pytest.raises(InputError, match="the sizes of this architecture are not known"):
        read(tmp_path)


def test_of_experts_a_step_reads_those_that_its_tokens_are_routed_to(tmp_path: Path) -> None:
    """Two of eight: one token reads a quarter of them, two expect 1 - 0.75 x 0.75; very many read all."""
    experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 100}
    (tmp_path / "config.json").write_text(json.dumps(SEVEN_B | experts))
    model = read(tmp_path)
    expert_bytes = 28 * 8 * 3 * 3584 * 100 * 2
    assert model.weight_bytes - model.weight_bytes_read(1) == 0.75 * expert_bytes
    assert model.weight_bytes - model.weight_bytes_read(2) == 0.5625 * expert_bytes
    assert model.weight_bytes_read(1000) == pytest.approx(model.weight_bytes)


def test_a_dense_models_weights_are_read_whole(seven_b: Path) -> None:
    model = read(seven_b)
    assert model.weight_bytes_read(1) == model.weight_bytes


def test_key_value_heads_are_divided_once_and_then_copied(seven_b: Path) -> None:
    """57,344 bytes a token in four heads: 14 ranks hold as much each as four would."""
    assert [read(seven_b).kv_shards(ranks) for ranks in (1, 2, 4, 14)] == [1, 2, 4, 4]
    launch = start(seven_b, "-tp", "14", device="h100")
    assert launch.kv_bytes // launch.kv_tokens == 14336


def test_a_latent_vector_is_copied_to_every_rank(tmp_path: Path) -> None:
    """28 layers x (512 + 64) x 2 bytes a token, however many ranks."""
    latent = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
    (tmp_path / "config.json").write_text(json.dumps(SEVEN_B | latent))
    launch = start(tmp_path, "-tp", "4", device="h100")
    assert launch.kv_bytes // launch.kv_tokens == 32256


class TestLength:
    def test_auto_is_the_models_own_where_that_fits(self) -> None:
        assert start(TINY, "--max-model-len", "auto").max_model_len == 2048

    def test_auto_is_what_fits_beside_the_null_block(self) -> None:
        words = ("--num-gpu-blocks-override", "5", "--block-size", "128")
        assert start(TINY, *words, "--max-model-len", "-1").max_model_len == 512

    def test_a_request_of_the_greatest_length_fits_into_the_overridden_blocks(self) -> None:
        words = ("--max-model-len", "1920", "--block-size", "128")
        assert start(TINY, *words, "--num-gpu-blocks-override", "16").limits.num_blocks == 16


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "signature"),
        [
            (("--max-num-seqs", "512", "--max-num-batched-tokens", "256"), "mnbt_lt_mns"),
            (("--no-enable-chunked-prefill", "--max-num-batched-tokens", "1024"), "mnbt_lt_len"),
            (("--max-model-len", "4096"), "len_gt_derived"),
            (("--tensor-parallel-size", "3"), "tp_heads"),
            (("--block-size", "16"), "block_size_kernel"),
            (("--max-num-seqs", "many"), "argument_invalid"),
            (("--data-parallel-size", "2"), "argument_invalid"),
            (("--swap-space", "4"), "argparse_unknown"),
            (("--max-num-seqs", "0"), "config_rejected"),
            (("--gpu-memory-utilization", "1.5"), "config_rejected"),
        ],
    )
    def test_what_vllm_refuses_is_a_configuration_error(self, words: tuple[str, ...], signature: str) -> None:
        evidence = failure(TINY, *words)
        assert (evidence.failure, evidence.signature) == ("config", signature)

    @pytest.mark.parametrize(
        ("device", "words", "signature"),
        [
            ("h100", ("--gpu-memory-utilization", "0.2"), "no_cache_blocks"),
            ("h100", ("--gpu-memory-utilization", "0.22"), "kv_too_small"),
            ("h100", ("--gpu-memory-utilization", "0.99"), "cuda_oom"),
            ("ascend-910b", ("--gpu-memory-utilization", "0.95"), "npu_oom"),
            ("ascend-910b", ("--max-num-batched-tokens", "400000"), "no_cache_blocks"),
            ("cpu-small", (), "host_oom"),
        ],
    )
    def test_a_device_runs_out_of_memory(
        self, seven_b: Path, device: str, words: tuple[str, ...], signature: str
    ) -> None:
        evidence = failure(seven_b, *words, device=device)
        assert (evidence.failure, evidence.signature) == ("oom", signature)

    @pytest.mark.parametrize(
        ("words", "signature"),
        [
            (("--max-model-len", "1920", "--num-gpu-blocks-override", "15"), "kv_too_small"),
            (("--num-gpu-blocks-override", "0"), "no_cache_blocks"),
        ],
    )
    def test_overridden_blocks_must_hold_a_request_of_the_greatest_length(
        self, words: tuple[str, ...], signature: str
    ) -> None:
        """15 blocks of 128 are 1920 tokens, and one of them is the null block."""
        assert failure(TINY, *words, "--block-size", "128").signature == signature

    def test_auto_needs_a_block_beside_the_null_block(self) -> None:
        with pytest.raises(Refused, match="Cannot auto-fit max_model_len: not enough GPU memory"):
            start(TINY, "--max-model-len", "auto", "--num-gpu-blocks-override", "1")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (
                ("--max-num-seqs", "0"),
                "2 validation errors for SchedulerConfig\nmax_num_batched_tokens\n  Input should be greater than or "
                "equal to 1 [type=greater_than_equal, input_value=0, input_type=int]",
            ),
            (
                ("--block-size", "-16"),
                "1 validation error for CacheConfig\nblock_size\n  Input should be greater than 0 [type=greater_than, "
                "input_value=-16, input_type=int]",
            ),
            (
                ("--tensor-parallel-size", "0"),
                "1 validation error for ParallelConfig\ntensor_parallel_size\n  Input should be greater than or equal "
                "to 1 [type=greater_than_equal, input_value=0, input_type=int]",
            ),
            (
                ("--gpu-memory-utilization", "1.5"),
                "1 validation error for CacheConfig\ngpu_memory_utilization\n  Input should be less than or equal to 1 "
                "[type=less_than_equal, input_value=1.5, input_type=float]",
            ),
            (
                ("--max-model-len", "-5"),
                "1 validation error for ModelConfig\nmax_model_len\n  Input should be greater than or equal to -1 "
                "[type=greater_than_equal, input_value=-5, input_type=int]",
            ),
            (("--max-model-len", "0"), "Value error, max_model_len must be a positive integer, got int: 0."),
            (("--compilation-config", '{"cudagraph_mode": "bogus"}'), "KeyError: 'BOGUS'"),
        ],
    )
    def test_a_value_out_of_range_is_refused_in_the_words_of_vllm(self, words: tuple[str, ...], said: str) -> None:
        """As vLLM 0.32 was heard to say; room for the cache given in the environment excuses nothing."""
        with pytest.raises(Refused) as caught:
            start(TINY, *words, VLLM_CPU_KVCACHE_SPACE="1")
        assert said in "\n".join(caught.value.lines)
        assert caught.value.exit_code == 1

    def test_buffers_for_collectives_need_room_beside_the_share(self, seven_b: Path) -> None:
        """A communicator takes twice HCCL_BUFFSIZE: with 1024 MiB there is no room left beside 0.94."""
        words = ("--gpu-memory-utilization", "0.94", "-tp", "2")
        assert start(seven_b, *words, device="ascend-910b").kv_tokens > 0
        assert failure(seven_b, *words, device="ascend-910b", HCCL_BUFFSIZE="1024").signature == "npu_oom"

    def test_main_memory_for_the_kv_cache_must_be_there(self) -> None:
        assert failure(TINY, VLLM_CPU_KVCACHE_SPACE="1000").signature == "cpu_memory_kv"

    def test_a_share_of_main_memory_must_be_free(self) -> None:
        assert failure(TINY, "--gpu-memory-utilization", "0.98").signature == "cpu_memory_startup"

    def test_graphs_that_take_too_many_streams_of_an_npu_fail(self, seven_b: Path) -> None:
        sizes = {"cudagraph_mode": "PIECEWISE", "cudagraph_capture_sizes": list(range(8, 512, 6))}
        evidence = failure(seven_b, "--compilation-config", json.dumps(sizes), device="ascend-910b")
        assert (evidence.failure, evidence.signature) == ("graph", "acl_207008")

    def test_graphs_for_more_than_512_sequences_fail_on_an_npu(self, seven_b: Path) -> None:
        sizes = {"cudagraph_mode": "FULL_DECODE_ONLY", "cudagraph_capture_sizes": [1, 8, 1024]}
        evidence = failure(seven_b, "--compilation-config", json.dumps(sizes), device="ascend-910b")
        assert (evidence.failure, evidence.signature) == ("graph", "acl_207005_sqcq")

    def test_task_queue_2_and_graphs_exclude_each_other(self, seven_b: Path) -> None:
        evidence = failure(seven_b, device="ascend-910b", TASK_QUEUE_ENABLE="2")
        assert evidence.signature == "taskqueue2_graph"
        assert start(seven_b, "--enforce-eager", device="ascend-910b", TASK_QUEUE_ENABLE="2").kv_tokens > 0


class TestReadBack:
    def test_an_npu_runs_block_size_16_as_128(self, seven_b: Path) -> None:
        core = Core(start(seven_b, "--block-size", "16", device="ascend-910b"))
        found = effective_values(Metrics(core).exposition(), "")
        assert (found["block_size"], found["user_specified_block_size"]) == ("128", "True")

    def test_the_log_tells_what_runs(self) -> None:
        launch = start(TINY, "--max-model-len", "1024", "--enforce-eager", VLLM_CPU_KVCACHE_SPACE="1")
        found = effective_values("", "\n".join(transcript.start(launch, STAMP)))
        assert found == {
            "engine_version": "0.32.0",
            "max_model_len": "1024",
            "max_num_batched_tokens": "2048",
            "kv_cache_size_tokens": "524288",  # 1 GiB of 2 KiB a token
            "kv_cache_max_concurrency": "512.00",
            "available_kv_cache_gib": "1.00",
            "tensor_parallel_size": "1",
            "pipeline_parallel_size": "1",
            "enforce_eager": "True",
            "non_default_args": str({"model_tag": str(TINY), "max_model_len": 1024, "enforce_eager": True}),
        }

    def test_the_metrics_hold_every_counter_that_is_read(self) -> None:
        core = Core(start(TINY))
        assert counters(Metrics(core).exposition()) == virtual_counters(core)

    def test_the_metrics_have_the_names_of_vllm(self) -> None:
        real = (ROOT / "tests" / "data" / "vllm032_metrics.prom").read_text()
        own = Metrics(Core(start(TINY))).exposition()
        assert sample_names(own) <= sample_names(real)


def sample_names(exposition: str) -> set[str]:
    return {line.partition("{")[0] for line in exposition.splitlines() if line.startswith("vllm:")}


def decode(sequences: int, context: int = 500) -> Work:
    read_tokens = sequences * (context + 1)
    return Work(sequences, sequences, read_tokens, read_tokens, decode_only=True)


class TestCost:
    def test_a_decode_step_is_bound_by_reading_the_weights(self, seven_b: Path) -> None:
        """15.2 GB at 75 % of 3.35 TB/s are 6.1 ms; the graph's replay takes 0.2 ms; the scheduler hides behind them."""
        assert start(seven_b, device="h100").cost.step_s(decode(1)) == pytest.approx(6.26e-3, abs=0.05e-3)

    def test_more_sequences_make_a_step_little_slower(self, seven_b: Path) -> None:
        cost = start(seven_b, device="h100").cost
        assert cost.step_s(decode(64)) < 1.5 * cost.step_s(decode(1))

    def test_a_long_prefill_is_bound_by_arithmetic(self, seven_b: Path) -> None:
        """8192 tokens x 2 x 6.5 billion weights in layers, at 60 % of 989 TFLOPS, are 180 ms; attention adds some."""
        work = Work(8192, 1, 8192 * 8193 / 2, 8192, decode_only=False)
        assert 0.18 < start(seven_b, device="h100").cost.step_s(work) < 0.22

    def test_few_sequences_of_a_mixture_of_experts_read_few_experts(self, tmp_path: Path) -> None:
        """Qwen3-30B-A3B: 58 of its 61 GB are experts, of which one token reads one in sixteen."""
        mixture = {
            "model_type": "qwen3_moe",
            "num_hidden_layers": 48,
            "hidden_size": 2048,
            "num_attention_heads": 32,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        }
        (tmp_path / "config.json").write_text(json.dumps(SEVEN_B | mixture))
        cost = start(tmp_path, "--max-model-len", "4096", device="h100").cost
        assert cost.step_s(decode(1)) < cost.step_s(decode(128)) / 5

    def test_eager_mode_pays_for_every_launch(self, seven_b: Path) -> None:
        graphs = start(seven_b, device="ascend-910b").cost.step_s(decode(8))
        eager = start(seven_b, "--enforce-eager", device="ascend-910b").cost.step_s(decode(8))
        assert 1.3 < eager / graphs < 3

    def test_more_sequences_than_were_captured_decode_without_a_graph(self, seven_b: Path) -> None:
        words = ("--compilation-config", json.dumps({"cudagraph_mode": "FULL_DECODE_ONLY"}))
        cost = start(seven_b, *words, "--max-num-seqs", "600", "--max-num-batched-tokens", "600", device="ascend-910b")
        assert cost.cost.step_s(decode(520)) - cost.cost.step_s(decode(512)) > 4e-3

    def test_splitting_a_model_makes_a_step_faster_but_not_in_proportion(self, seven_b: Path) -> None:
        steps = [start(seven_b, "-tp", str(n), device="ascend-910b").cost.step_s(decode(8)) for n in (1, 2, 4)]
        assert steps[0] > steps[1] > steps[2] > steps[0] / 4

    def test_collectives_unrolled_by_the_vector_cores_start_sooner(self, seven_b: Path) -> None:
        words = ("-tp", "4")
        plain = start(seven_b, *words, device="ascend-910b").cost.step_s(decode(8))
        aiv = start(seven_b, *words, device="ascend-910b", HCCL_OP_EXPANSION_MODE="AIV").cost.step_s(decode(8))
        assert aiv < plain

    def test_every_device_computes_a_step(self, seven_b: Path) -> None:
        fits = {name: TINY if name == "cpu-small" else seven_b for name in DEVICES}
        assert all(start(model, device=name).cost.step_s(decode(4)) > 0 for name, model in fits.items())


def test_the_executable_imports_nothing_slow() -> None:
    code = "import json, sys, autotune.engines.simulated.__main__; print(json.dumps(sorted(sys.modules)))"
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"optuna", "ray", "pandas", "scipy", "sqlalchemy", "numpy"} & set(json.loads(done.stdout))
