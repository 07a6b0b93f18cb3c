"""Reading an engine's log: the root cause, the evidence, and what the search does next."""

import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.diagnosis import diagnose, fatal_line, outcome_of, read_failure
from autotune.diagnosis.signatures import Signature, signatures
from autotune.results import FailureClass

LOGS = Path(__file__).parent.parent / "data" / "logs"
STAMP = "03-25 06:14:02 [multiproc_executor.py:880] "
WRAPPER = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.mark.parametrize("known", signatures(), ids=lambda s: s.id)
def test_every_signature_is_the_diagnosis_of_its_own_sample(known: Signature) -> None:
    found = diagnose(known.sample)
    assert found is not None
    assert found.signature == known.id


@pytest.mark.parametrize("known", signatures(), ids=lambda s: s.id)
def test_cause_and_advice_are_sentences(known: Signature) -> None:
    assert known.cause.endswith(".")
    assert known.advice.endswith(".")


def test_ids_are_unique() -> None:
    ids = [s.id for s in signatures()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("log", "signature", "failure", "line"),
    [
        (
            "cpu_block_size_16",
            "block_size_kernel",
            FailureClass.CONFIG,
            "ValueError: No common block size for 16 (CPU_ATTN: [MultipleOf(32)]).",
        ),
        (
            "cpu_bad_argument",
            "argparse_unknown",
            FailureClass.CONFIG,
            "vllm: error: unrecognized arguments: --use-v2-block-manager",
        ),
        (
            "cpu_kv_space_1000",
            "cpu_memory_kv",
            FailureClass.OOM,
            "ValueError: Available memory on node 0 (7.34/8.71 GiB) on kv cache allocation is less than requested "
            "memory for kv (1000.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU "
            "memory used by other processes.",
        ),
        (
            "cpu_model_missing",
            "model_not_found",
            FailureClass.ENVIRONMENT,
            "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
            "'namespace/repo_name': '/models/absent'. Use `repo_type` argument if needed.",
        ),
    ],
)
def test_a_real_log_of_the_cpu_engine_is_understood(log: str, signature: str, failure: FailureClass, line: str) -> None:
    text = (LOGS / f"{log}.log").read_text()
    found = diagnose(text)
    assert found is not None
    assert (found.signature, found.failure, found.line) == (signature, failure, line)
    assert fatal_line(text) == signature


def test_stacked_prefixes_are_stripped() -> None:
    found = diagnose(f"(EngineCore_DP0 pid=791) (VllmWorker rank=2 pid=10233) ERROR {STAMP}[rank1]: EJ0001: busy")
    assert found is not None
    assert found.line == "EJ0001: busy"


@pytest.mark.parametrize(
    "carrier",
    [
        "2026-11-22T03:04:05.123456789Z ",
        "2026-11-22T03:04:05.123+08:00 stderr F ",
        "Nov  2 03:04:05 node-1 vllm[791]: ",
        "vllm-1  | ",
    ],
)
def test_what_carries_a_log_is_stripped_too(carrier: str) -> None:
    """Else a line at INFO would count as an error."""
    failed = diagnose(f"{carrier}(EngineCore_DP0 pid=791) ERROR {STAMP}[rank1]: EJ0001: busy")
    assert failed is not None
    assert failed.line == "EJ0001: busy"
    assert diagnose(f"{carrier}(EngineCore_DP0 pid=791) INFO {STAMP}args: EJ0001") is None


def test_colours_are_stripped_also_where_a_paste_has_lost_their_first_byte() -> None:
    pasted = "[1;36m(EngineCore_DP0 pid=791)[0;0m INFO 03-25 06:14:02 [core.py:880] error code is 207008\n"
    raised = "[1;36m(APIServer pid=1)[0m ValueError: No available memory for the cache blocks"
    found = diagnose(pasted + raised)
    assert found is not None
    assert found.signature == "no_cache_blocks"


def test_a_message_over_several_prefixed_lines_is_found() -> None:
    prefix = f"(EngineCore_DP0 pid=791) ERROR {STAMP}"
    log = f"{prefix}1 validation error for AscendConfig\n{prefix}weight_prefetch\n{prefix}  Unexpected keyword argument"
    found = diagnose(log)
    assert found is not None
    assert (found.signature, found.line_number) == ("extra_forbidden", 2)
    assert found.line == "weight_prefetch Unexpected keyword argument"


def test_the_lowest_priority_number_wins_over_an_earlier_line() -> None:
    found = diagnose("EI0006: Getting socket times out\nEJ0003: Failed to bind the IP port")
    assert found is not None
    assert found.signature == "hccl_bind"


def test_of_one_priority_the_earliest_line_wins() -> None:
    found = diagnose("ValueError: No available memory for the cache blocks.\nerror code is 207008")
    assert found is not None
    assert (found.signature, found.line_number) == ("no_cache_blocks", 1)


def test_a_wrapper_counts_only_when_nothing_else_matched() -> None:
    found = diagnose(f"{WRAPPER}\nerror code is 507011")
    assert found is not None
    assert found.signature == "acl_507011"
    alone = diagnose(WRAPPER)
    assert alone is not None
    assert alone.wrapper
    assert alone.failure is FailureClass.UNKNOWN


def test_an_info_line_never_counts_as_an_error() -> None:
    line = f"(APIServer pid=1) INFO {STAMP}non-default args: {{'model': 'Address already in use'}}"
    assert diagnose(line) is None
    assert diagnose(line.replace("INFO", "ERROR")) is not None


def test_the_negative_kv_budget_counts_although_it_is_logged_at_info() -> None:
    found = diagnose(f"(Worker pid=1) INFO {STAMP}Available KV cache memory: -0.87 GiB")
    assert found is not None
    assert (found.signature, found.failure) == ("kv_negative", FailureClass.OOM)


def test_a_code_inside_another_number_does_not_count() -> None:
    assert diagnose("worker pid 1507033 took 12.507033 s") is None


def test_a_clean_log_has_no_diagnosis() -> None:
    assert diagnose("INFO 03-25 06:14:02 [api_server.py:1] Starting vLLM server on http://127.0.0.1:8000\n") is None


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    evidence = read_failure(text, exit_code=1, signal=None, log_path="x.log")
    assert evidence.cause


def test_a_fatal_line_is_not_seen_in_the_memory_report_at_info() -> None:
    report = (
        "Free memory on device npu:0 (60.1/60.97 GiB) on startup. Desired GPU memory utilization is (0.9, 54.8 GiB)."
    )
    assert fatal_line(f"(Worker pid=1) INFO {STAMP}{report}\n") is None


@pytest.mark.parametrize("identity", ["shm_broadcast_wait", "engine_init_failed", "addr_in_use", "kv_negative"])
def test_what_may_still_pass_is_not_fatal(identity: str) -> None:
    sample = next(s.sample for s in signatures() if s.id == identity)
    assert fatal_line(sample) is None


def test_out_of_memory_is_fatal() -> None:
    assert fatal_line("RuntimeError: NPU out of memory. Tried to allocate 22.00 MiB") == "npu_oom"


NPU_OOM = (
    "RuntimeError: NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60.97 GiB total capacity; {0} GiB already "
    "allocated; {0} GiB current active; {1} free; {2} GiB reserved in total by PyTorch)"
)
CUDA_OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 128.00 MiB. GPU 0 has a total capacity of 79.15 GiB "
    "of which {0} is free. {1}Including non-PyTorch memory, this process has {2} GiB memory in use."
)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (NPU_OOM.format(54.31, "1.02 GiB", 55.60), ("npu_oom", FailureClass.OOM)),
        (NPU_OOM.format(32.31, "1.02 GiB", 32.60), ("npu_oom", FailureClass.OOM)),  # 27 GiB beside PyTorch: buffers
        (NPU_OOM.format(10.31, "900.00 MiB", 11.00), ("npu_held", FailureClass.BUSY)),
        (NPU_OOM.format(10.31, "0 bytes", 11.00), ("npu_held", FailureClass.BUSY)),
        (
            NPU_OOM.replace("free; ", "free; 30.00 GiB allowed; ").format(10.31, "0 bytes", 11.00),
            ("npu_held", FailureClass.BUSY),
        ),
        (
            NPU_OOM.replace("Tried to allocate 2.00 GiB (", "NPUWorkspaceAllocator tried to allocate 2.00 GiB(").format(
                54.31, "1.02 GiB", 55.60
            ),
            ("npu_oom", FailureClass.OOM),
        ),
        (NPU_OOM.format("1.2.3", "1.02 GiB", 55.60), ("npu_oom", FailureClass.OOM)),  # no number, and no crash
        (NPU_OOM.format(10.24, "45.00 GiB", 10.65), ("npu_oom", FailureClass.OOM)),  # it asked for more than was free
        (
            CUDA_OOM.format("63.19 MiB", "Process 4711 has 61.40 GiB memory in use. ", 17.68),
            ("cuda_held", FailureClass.BUSY),
        ),
        (
            CUDA_OOM.format("0 bytes", "Process 4711 has 61.40 GiB memory in use. ", 17.68),
            ("cuda_held", FailureClass.BUSY),
        ),
        (CUDA_OOM.format("63.19 MiB", "", 79.05), ("cuda_oom", FailureClass.OOM)),
    ],
)
def test_memory_that_another_process_holds_is_not_the_configurations_fault(line: str, told: Any) -> None:
    found = diagnose(line)
    assert found is not None
    assert (found.signature, found.failure) == told


def test_own_exhaustion_after_that_of_another_rank_does_not_hide_who_holds_the_memory() -> None:
    own, held = NPU_OOM.format(54.31, "1.02 GiB", 55.60), NPU_OOM.format(10.24, "19.52 MiB", 10.65)
    found = diagnose(f"{own}\n{held}\n")
    assert found is not None
    assert (found.signature, found.line_number) == ("npu_held", 2)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("local_world_size (8) must be less than or equal to the number of visible devices (0).", "env"),
        ("local_world_size (8) must be less than or equal to the number of visible devices (4).", "config"),
        ("World size (8) is larger than the number of available GPUs (0) in this node.", "env"),
        ("World size (8) is larger than the number of available GPUs (4) in this node.", "config"),
        ("DP adjusted local rank 0 is out of bounds for 0 devices.", "env"),
    ],
)
def test_no_device_at_all_is_no_fault_of_a_configuration(text: str, kind: str) -> None:
    found = diagnose(f"AssertionError: {text}")
    assert found is not None
    assert found.failure.value == kind


@pytest.mark.parametrize(
    "before",
    [
        "RuntimeError: aclrtGetDeviceCount, error code is 507899",
        "dcmi model initialized failed, because the device is used. ret is -8020",
    ],
)
def test_devices_that_another_container_holds_are_why_none_is_visible(before: str) -> None:
    text = "local_world_size (8) must be less than or equal to the number of visible devices (0)."
    found = diagnose(f"{before}\nAssertionError: {text}\n")
    assert found is not None
    assert found.failure is FailureClass.BUSY


def test_a_message_that_begins_again_and_again_is_read_once() -> None:
    """Gaps have bounds: without them this took minutes, at the start of an engine too."""
    start = "NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 60.97 GiB total capacity; "
    assert fatal_line(start * 20_000 + "\n") == "npu_oom"


def test_a_warning_is_not_fatal() -> None:
    assert fatal_line(f"WARNING {STAMP}NPU out of memory. Tried to allocate 22.00 MiB, trying again") is None


def test_evidence_tells_cause_line_and_where_to_look() -> None:
    evidence = read_failure(
        f"ERROR {STAMP}ValueError: No common block size for 16\n{WRAPPER}",
        exit_code=1,
        signal=None,
        log_path="logs/3.log",
    )
    assert evidence.failure is FailureClass.CONFIG
    assert evidence.signature == "block_size_kernel"
    assert evidence.line == "ValueError: No common block size for 16"
    assert evidence.cause == "No attention kernel of this platform supports the requested `block_size`."
    assert evidence.log_path == "logs/3.log"


def test_an_unknown_failure_keeps_the_last_thirty_lines_and_its_exception() -> None:
    log = "\n".join([*(f"line {n}" for n in range(40)), "KeyError: 'rope'", ""])
    evidence = read_failure(log, exit_code=3, signal=None, log_path="x.log")
    assert evidence.failure is FailureClass.UNKNOWN
    assert evidence.signature is None
    assert evidence.line == "KeyError: 'rope'"
    assert evidence.cause == "The engine ended with exit code 3. Its log names no known cause."
    assert evidence.log_tail.split("\n") == [*(f"line {n}" for n in range(11, 40)), "KeyError: 'rope'"]


def test_a_wrapper_alone_is_unknown_with_its_text() -> None:
    evidence = read_failure(WRAPPER, exit_code=1, signal=None, log_path="x.log")
    assert (evidence.failure, evidence.signature, evidence.line) == (
        FailureClass.UNKNOWN,
        "engine_init_failed",
        WRAPPER,
    )


@pytest.mark.parametrize(("exit_code", "by"), [(None, signal.SIGKILL), (-9, None), (137, None)])
def test_a_kill_from_outside_is_taken_for_the_out_of_memory_killer(exit_code: int | None, by: int | None) -> None:
    evidence = read_failure("INFO loading weights", exit_code=exit_code, signal=by, log_path="x.log")
    assert evidence.failure is FailureClass.OOM
    assert "SIGKILL" in evidence.cause
    assert "dmesg" in evidence.advice


def test_a_known_message_explains_more_than_the_kill_that_followed() -> None:
    evidence = read_failure("error code is 207008", exit_code=None, signal=signal.SIGKILL, log_path="x.log")
    assert evidence.failure is FailureClass.GRAPH


def test_an_exit_code_that_is_no_signal_is_told_as_it_is() -> None:
    evidence = read_failure("", exit_code=255, signal=None, log_path="x.log")
    assert evidence.cause == "The engine ended with exit code 255. Its log names no known cause."


def test_another_signal_is_named() -> None:
    evidence = read_failure("", exit_code=None, signal=signal.SIGSEGV, log_path="x.log")
    assert evidence.failure is FailureClass.UNKNOWN
    assert evidence.cause.startswith("The engine was ended by signal 11 (SIGSEGV: ")


def test_waiting_for_a_worker_is_a_hang_only_when_the_engine_did_not_end_by_itself() -> None:
    line = "No available shared memory broadcast block found in 60 seconds."
    assert read_failure(line, exit_code=None, signal=None, log_path="x").failure is FailureClass.HANG
    assert read_failure(line, exit_code=1, signal=None, log_path="x").failure is FailureClass.UNKNOWN


@pytest.mark.parametrize(
    ("failure", "first", "second"),
    [
        ("oom", "infeasible", "infeasible"),
        ("config", "infeasible", "infeasible"),
        ("graph", "infeasible", "infeasible"),
        ("op", "infeasible", "infeasible"),
        ("unknown", "infeasible", "infeasible"),
        ("port", "retry", "interrupted"),
        ("busy", "retry", "interrupted"),
        ("node", "retry", "interrupted"),
        ("shm", "retry", "interrupted"),
        ("hw", "retry", "interrupted"),
        ("comm", "retry", "infeasible"),
        ("hang", "retry", "infeasible"),
        ("env", "abort", "abort"),
        ("cancelled", "interrupted", "interrupted"),
    ],
)
def test_the_failure_table_row_by_row(failure: str, first: str, second: str) -> None:
    assert outcome_of(FailureClass(failure), attempt=1) == first
    assert outcome_of(FailureClass(failure), attempt=2) == second


def test_every_failure_class_has_a_verdict() -> None:
    assert {outcome_of(failure, attempt=1) for failure in FailureClass} == {
        "infeasible",
        "retry",
        "interrupted",
        "abort",
    }
