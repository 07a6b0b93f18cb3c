"""How long one engine step takes: a roofline over the device, plus what the host and the links add."""

import math
from dataclasses import dataclass

from autotune.engines.simulated.devices import Device
from autotune.engines.simulated.model import Model

_BYTES_PER_VALUE = 2
_PIECEWISE_SHARE = 0.25  # of an eager layer's launch time: attention stays outside the captured pieces
_COMPILED_SHARE = 0.5  # of an eager layer's launch time: fewer operators


@dataclass(frozen=True, slots=True)
class Work:
    """What is computed in one step.

    `pairs` counts query-key pairs over all sequences, `read_tokens` the tokens whose keys and values are read.
    """

    tokens: int
    sequences: int
    pairs: float
    read_tokens: int
    decode_only: bool


@dataclass(frozen=True, slots=True)
class Graphs:
    """Which steps are replayed from captured graphs, and up to how many tokens."""

    full: bool  # decode steps as a whole
    piecewise: bool  # every step, all but its attention
    largest: int  # tokens of the largest captured step; 0: nothing is captured
    compiled: bool = True  # operators are fused, also where nothing is captured


class Cost:
    """The step times of one engine."""

    def __init__(
        self, device: Device, model: Model, graphs: Graphs, *, ranks: int, overlapped: bool, link_factor: float = 1.0
    ) -> None:
        self._device, self._model, self._graphs = device, model, graphs
        self._ranks, self._overlapped, self._link_factor = ranks, overlapped, link_factor

    def step_s(self, work: Work) -> float:
        """Seconds of one step.

        max(FLOPs / peak, bytes / bandwidth) on the device (the roofline of Williams, Waterman and Patterson, CACM
        52(4), 2009): 2 FLOPs per weight and token plus 4 x head size x heads per query-key pair and layer; the weights
        are read once per step (of experts, those that some token is routed to) and each sequence's keys and values
        once. All-reduces (two a layer) are added when the tensors are split, and the host's time per step, which is
        hidden behind the device's when steps are prepared ahead. Steps are the iterations of Orca (Yu et al., OSDI
        2022).
        """
        device_s = self._launch_s(work) + self._roofline_s(work) + self._all_reduce_s(work.tokens)
        device = self._device
        host_s = device.step_s + device.sequence_s * work.sequences
        return max(device_s, host_s) if self._overlapped else device_s + host_s

    def _launch_s(self, work: Work) -> float:
        graphs, fits = self._graphs, work.tokens <= self._graphs.largest
        if fits and graphs.full and work.decode_only:
            return self._device.graph_step_s
        launch_s = self._device.eager_layer_s * self._model.layers
        if not graphs.compiled:
            return launch_s
        return launch_s * (_PIECEWISE_SHARE if fits and graphs.piecewise else _COMPILED_SHARE)

    def _roofline_s(self, work: Work) -> float:
        device, model = self._device, self._model
        flops = (
            2.0 * model.active_parameters * work.tokens
            + 2.0 * model.head_parameters * work.sequences
            + 4.0 * model.layers * model.heads * model.head_size * work.pairs
        )
        kv_bytes = model.kv_bytes_per_token * (work.read_tokens + work.tokens)
        moved = model.weight_bytes_read(work.tokens) / self._ranks + kv_bytes / model.kv_shards(self._ranks)
        efficiency = 1.0 if self._graphs.compiled else device.eager_efficiency
        compute_s = flops / (self._ranks * device.flops * device.compute_efficiency)
        memory_s = moved / (device.bandwidth * device.bandwidth_efficiency)
        return max(compute_s, memory_s) / efficiency

    def _all_reduce_s(self, tokens: int) -> float:
        """Two all-reduces a layer (Shoeybi et al., Megatron-LM, arXiv:1909.08053), as rings: 2 (n-1)/n of the data."""
        if self._ranks == 1:
            return 0.0
        size = tokens * self._model.hidden * _BYTES_PER_VALUE
        ring = 2 * (self._ranks - 1) / self._ranks
        latency_s = self._device.link_latency_s * self._link_factor * math.log2(self._ranks)
        return 2 * self._model.layers * (latency_s + ring * size / self._device.link)
