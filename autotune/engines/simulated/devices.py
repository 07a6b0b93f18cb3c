"""The devices that can be simulated: data-sheet figures, and what their software adds to each engine step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

VARIABLE = "SIMULATED_DEVICE"
"""The environment variable that chooses the device."""

DEFAULT = "cpu-small"

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Device:
    """One device as the cost model sees it.

    Peaks are those of the data sheet for dense 16-bit arithmetic; efficiencies are what serving kernels reach of them.
    Overheads are host time per engine step that no arithmetic hides.
    """

    name: str
    family: Literal["cpu", "ascend", "cuda"]
    flops: float  # FLOP/s
    bandwidth: float  # bytes/s
    memory_bytes: int
    outside_bytes: int  # driver, context and allocator slack that live outside `gpu_memory_utilization`
    link: float  # bytes/s to each other device of the node, one direction
    link_latency_s: float  # of one all-reduce, whatever its size
    compute_efficiency: float
    bandwidth_efficiency: float
    eager_efficiency: float  # further factor on both while operators run one by one, unfused
    step_s: float  # scheduler, input preparation and sampling, per step
    eager_layer_s: float  # launching one layer's operators one by one
    graph_step_s: float  # replaying a whole captured step
    sequence_s: float  # host work per sequence and step: input preparation, detokenising, streaming
    request_s: float  # the API server's work per request before the scheduler sees it, one after the other
    max_num_seqs: int  # vLLM's own default here
    max_num_batched_tokens: int
    block_size: int
    async_scheduling: bool  # whether vLLM prepares the next step while the current one runs, if not told otherwise


DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        # Two cores of a shared AVX-512 server; fitted to vLLM 0.32's CPU backend with a tiny model
        # (benchmarks/simulated_vs_real.py), so its overheads are those of a client on the same two cores too.
        Device(
            name="cpu-small",
            family="cpu",
            flops=8.0e11,
            bandwidth=2.0e10,
            memory_bytes=8 * _GIB,
            outside_bytes=_GIB // 2,
            link=5.0e9,
            link_latency_s=5e-5,
            compute_efficiency=0.5,
            bandwidth_efficiency=0.6,
            eager_efficiency=0.5,
            step_s=1.6e-3,
            eager_layer_s=1.15e-3,
            graph_step_s=2.0e-3,
            sequence_s=9e-5,
            request_s=2.5e-3,
            max_num_seqs=128,
            max_num_batched_tokens=2048,
            block_size=128,
            async_scheduling=False,
        ),
        # Ascend 910B (Atlas A2): 376 TFLOPS FP16, 64 GB HBM, HCCS full mesh 392 GB/s over seven links
        # (Huawei, Atlas 800I A2 technical white paper; bandwidth from "Serving Large Language Models on Huawei
        # CloudMatrix384", arXiv:2506.12708, and Ascend/samples).
        Device(
            name="ascend-910b",
            family="ascend",
            flops=3.76e14,
            bandwidth=1.6e12,
            memory_bytes=61 * _GIB,  # what torch_npu reports of a 64 GB card
            outside_bytes=3 * _GIB,
            link=5.6e10,
            link_latency_s=2.5e-5,
            compute_efficiency=0.55,
            bandwidth_efficiency=0.65,
            eager_efficiency=0.85,
            step_s=2.0e-3,
            eager_layer_s=4.5e-4,
            graph_step_s=4e-4,
            sequence_s=1.2e-5,
            request_s=3e-4,
            max_num_seqs=256,
            max_num_batched_tokens=2048,
            block_size=128,
            async_scheduling=True,
        ),
        # One die of an Ascend 910C (Atlas A3), which is what vLLM sees as a device: 376 TFLOPS BF16 and 1.6 TB/s each,
        # unified bus of 196 GB/s per die (arXiv:2506.12708, section 3.2).
        Device(
            name="ascend-910c",
            family="ascend",
            flops=3.76e14,
            bandwidth=1.6e12,
            memory_bytes=61 * _GIB,
            outside_bytes=3 * _GIB,
            link=1.96e11,
            link_latency_s=2.0e-5,
            compute_efficiency=0.55,
            bandwidth_efficiency=0.7,
            eager_efficiency=0.85,
            step_s=2.0e-3,
            eager_layer_s=4.5e-4,
            graph_step_s=4e-4,
            sequence_s=1.2e-5,
            request_s=3e-4,
            max_num_seqs=256,
            max_num_batched_tokens=2048,
            block_size=128,
            async_scheduling=True,
        ),
        # NVIDIA H100 SXM: 989 TFLOPS BF16 dense, 3.35 TB/s, 80 GB, NVLink 900 GB/s both ways (H100 data sheet).
        Device(
            name="h100",
            family="cuda",
            flops=9.89e14,
            bandwidth=3.35e12,
            memory_bytes=int(79.1 * _GIB),  # what CUDA reports of an 80 GB card
            outside_bytes=int(1.6 * _GIB),
            link=4.5e11,
            link_latency_s=1.2e-5,
            compute_efficiency=0.6,
            bandwidth_efficiency=0.75,
            eager_efficiency=0.9,
            step_s=1.2e-3,
            eager_layer_s=2.2e-4,
            graph_step_s=2e-4,
            sequence_s=8e-6,
            request_s=2e-4,
            max_num_seqs=1024,
            max_num_batched_tokens=8192,
            block_size=16,
            async_scheduling=True,
        ),
    )
}
"""Device name, as `SIMULATED_DEVICE` spells it -> its figures."""


def chosen(environment: Mapping[str, str]) -> str:
    """The name of the device that an environment chooses."""
    return environment.get(VARIABLE) or DEFAULT
