# ruff: noqa: T201 - it prints tables
"""The fault matrix: every fault that the fault engine can play, and what must come of it.

`python tests/data/faults.py` writes its tables into docs/failures.md; a test fails when they are behind.
"""

import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "failures.md"
SIGNATURES = ROOT / "autotune" / "diagnosis" / "signatures.json"

CLASSES = {
    # class: (what it is, for example; the first time; the second time)
    "oom": ("out of device or main memory, no room for the KV cache", "infeasible", "infeasible"),
    "config": ("a refused argument or combination", "infeasible", "infeasible"),
    "graph": ("graph capture ran out of streams or memory", "infeasible", "infeasible"),
    "op": ("an operator or kernel failed", "infeasible", "infeasible"),
    "unknown": ("no known message; the end of the log is kept", "infeasible", "infeasible"),
    "comm": ("communication between devices failed", "retry", "infeasible"),
    "hang": ("not ready in time, no answer, or no token under load", "retry", "infeasible"),
    "port": ("a port was taken", "retry", "interrupted"),
    "busy": ("a device is in use by another process", "retry", "interrupted"),
    "shm": ("shared memory or the disk is full", "retry", "interrupted"),
    "hw": ("a device's alarm, a device that cannot be opened", "retry", "interrupted"),
    "node": ("the actor, its node or the engine's supervisor was lost", "retry", "interrupted"),
    "client": ("the load generator was the bottleneck, or another load client failed", "retry", "interrupted"),
    "env": ("a library or plugin is missing, no such model", "abort", "abort"),
    "defect": ("the tuner itself failed", "abort", "abort"),
    "cancelled": ("somebody asked for the end", "interrupted", "interrupted"),
}

OF_SIGNATURES = {
    "config": "argparse_unknown no_entrypoint mnbt_lt_mns mnbt_lt_len len_gt_derived tp_heads ep_no_experts "
    "tp_gt_visible extra_forbidden sp_tp1 visible_world taskqueue2_graph block_size_kernel capture_tp_multiple "
    "flashcomm_experts acl_107001 mla_heads launch_blocking_graph argument_invalid config_rejected",
    "env": "no_device_visible quant_unknown missing_so infer_device vllm_version hf_offline acl_107002 model_not_found "
    "weights_not_found model_unsupported trust_remote_code no_cuda_device import_failed",
    "port": "hccl_bind addr_in_use",
    "busy": "hccp_last_process dcmi startup_free_mem profile_assert acl_507899 npu_held cuda_held",
    "hw": "dcmi_driver hccl_port_down acl_507033 gpu_lost",
    "shm": "ray_shm shm_full disk_full",
    "oom": "npu_oom no_cache_blocks kv_too_small kv_too_small_legacy mem_el0004 kv_negative acl_207001 cuda_oom "
    "cpu_memory_startup cpu_memory_kv host_oom worker_killed",
    "graph": "acl_207008 acl_207005_sqcq cuda_capture",
    "comm": "hccl_rootinfo hccl_transport hccl_socket_timeout hccl_watchdog nccl_error nccl_watchdog",
    "op": "acl_507011 acl_507014 acl_507015 acl_507034 acl_507035 acl_507048",
    "hang": "rpc_timeout shm_broadcast_wait",
    "unknown": "worker_failed engine_dead engine_init_failed worker_died",  # they say that something failed, never what
}
"""Class -> the ids of the signatures that lead to it."""

COLLECTED = """
argparse_unknown no_entrypoint mnbt_lt_mns mnbt_lt_len len_gt_derived tp_heads ep_no_experts quant_unknown
tp_gt_visible extra_forbidden sp_tp1 visible_world taskqueue2_graph block_size_kernel capture_tp_multiple
hccl_bind hccp_last_process hccl_port_down acl_107001 mla_heads ray_shm missing_so infer_device vllm_version
addr_in_use dcmi hf_offline npu_oom startup_free_mem no_cache_blocks kv_too_small kv_too_small_legacy acl_207008
acl_207005_sqcq launch_blocking_graph shm_full mem_el0004 profile_assert kv_negative acl_507033 acl_507899
acl_207001 acl_107002 hccl_rootinfo acl_507011 acl_507014 acl_507015 acl_507034 acl_507035 acl_507048 rpc_timeout
hccl_transport hccl_socket_timeout hccl_watchdog shm_broadcast_wait worker_failed engine_dead
engine_init_failed
"""
"""The ids collected from Ascend's issues and sources, which must never get lost."""

ONLY_WHILE_WAITING = frozenset({"shm_broadcast_wait"})  # explains only an engine that did not end by itself


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What an engine does, and what becomes of its trial."""

    fault: str  # for the fault engine
    what: str
    failure: str = ""  # the class; empty: the trial is measured
    says: str = ""  # part of the cause
    feasible: bool = True  # where measured: whether the SLA is met
    failed: int = 0  # where measured: requests of the first level that fail, at least


BEHAVIOURS = (
    Behaviour("", "runs and ends well"),
    Behaviour("hang-before-ready", "never listens", "hang", "The engine hangs: the engine was not ready after 1 s"),
    Behaviour(
        "sleeps-before-ready",
        "says and computes nothing while it starts",
        "hang",
        "The engine hangs: while it started, it wrote nothing to its log and took no CPU time for 2 s",
    ),
    Behaviour(
        "waits-before-ready",
        "says only that it waits for a worker, and computes nothing, while it starts",
        "hang",
        "A worker has not taken its next task for a long time",
    ),
    Behaviour("mute", "is healthy, but answers no completion", "hang", "The engine hangs: the engine was not ready"),
    Behaviour(
        "http-500:1",
        "is healthy, but refuses every completion with HTTP 500",
        "hang",
        "The engine hangs: healthy, but its first completions failed: HTTP 500: ",
    ),
    Behaviour("stall:4", "gives no token to its first requests under load", "hang", "no request got a token for 1 s"),
    Behaviour(
        "stall:200",
        "stalls in the middle of the load, its connections open",
        "hang",
        "no request got a token for 1 s, with",
    ),
    Behaviour(
        "deaf:3600",
        "refuses a request under load, and answers no /health any more",
        "hang",
        "requests failed, and /health does not answer",
    ),
    Behaviour("die:SIGKILL", "is killed from outside (SIGKILL) under load", "oom", "killed from outside (SIGKILL)"),
    Behaviour("die:SIGSEGV", "crashes (SIGSEGV) under load", "unknown", "ended by signal 11 (SIGSEGV: "),
    Behaviour("exit:7", "exits without a word under load", "unknown", "ended with exit code 7"),
    Behaviour("talks-before-ready:3", "starts slowly with a progress bar, and computes nothing meanwhile"),
    Behaviour("busy-before-ready:3", "starts slowly without a word, and computes meanwhile"),
    Behaviour("ignore-sigterm", "ignores SIGTERM"),
    Behaviour("orphan", "leaves a grandchild in a session of its own that holds the port and ignores SIGTERM"),
    Behaviour("wrong-tokens:0.3", "gives some requests fewer tokens than asked for", feasible=False, failed=3),
    Behaviour("wrong-tokens:1", "gives every request fewer tokens than asked for", feasible=False, failed=12),
    Behaviour("http-500:0.3", "refuses some requests with HTTP 500", feasible=False, failed=3),
    Behaviour(
        "deaf:1.5",
        "refuses a request under load, and answers /health a moment later",
        feasible=False,
        failed=1,
    ),
    Behaviour("drop-connection:0.3", "drops some connections", feasible=False, failed=3),
    Behaviour("slow-first-token:0.6", "gives every first token late", feasible=False),
)

_SHOWN = {"infeasible": "infeasible", "retry": "once more", "interrupted": "interrupted", "abort": "the job fails"}


def class_of(identity: str) -> str:
    """The failure class that a signature leads to. Raises KeyError for one that the matrix does not know."""
    return {name: kind for kind, names in OF_SIGNATURES.items() for name in names.split()}[identity]


def fault_of(identity: str) -> str:
    """How the fault engine plays a signature."""
    return f"{'wait' if identity in ONLY_WHILE_WAITING else 'log'}:{identity}"


def tables() -> dict[str, str]:
    """The generated tables of the page by name."""
    return {"classes": _class_table(), "behaviours": _behaviour_table(), "signatures": _signature_table()}


def page(text: str) -> str:
    """The page with its tables as they should be; they stand between two marks each."""
    for name, table in tables().items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n{table}\n{end}{tail}"
    return text


def _class_table() -> str:
    rows = [
        f"| `{name}` | {what} | {_SHOWN[first]} | {_SHOWN[second]} |" for name, (what, first, second) in CLASSES.items()
    ]
    return _table("class | is, for example | first time | second time", rows)


def _behaviour_table() -> str:
    rows = []
    for entry in BEHAVIOURS:
        if entry.failure:
            _, first, second = CLASSES[entry.failure]
            rows.append(f"| {entry.what} | `{entry.failure}` | {_SHOWN[first]} | {_SHOWN[second]} |")
        else:
            sla = "meets the SLA" if entry.feasible else "misses the SLA"
            rows.append(f"| {entry.what} | measured | {sla} | |")
    return _table("an engine that … | class | first time | second time", rows)


def _signature_table() -> str:
    rows = []
    for entry in json.loads(SIGNATURES.read_text()):
        cause, advice = (entry[key].replace("|", "\\|") for key in ("cause", "advice"))
        rows.append(f"| `{entry['id']}` | `{class_of(entry['id'])}` | {cause} | {advice} |")
    return _table("message | class | cause | advice", sorted(rows, key=lambda row: row.split("|")[2]))


def _table(head: str, rows: list[str]) -> str:
    ruler = "|".join("---" for _ in head.split("|"))
    return "\n".join([f"| {head} |", f"|{ruler}|", *rows]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    print(f"{len(BEHAVIOURS)} behaviours and {len(json.loads(SIGNATURES.read_text()))} messages in {PAGE}")
