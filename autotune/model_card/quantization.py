"""How many bits a quantised checkpoint spends on each weight of its projections."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_SCALE = 16  # bits of a group's scale, where a method does not say otherwise
_BLOCK_SCALE = 32  # of a block of FP8 weights
_MSMODELSLIM = re.compile(r"W(\d+)A\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Scheme:
    """A quantisation of the projections; embeddings, output layer, norms and routers keep 16 bits."""

    name: str
    bits: float | None  # per weight, scales and zero points included; None: not known
    block: int = 0  # rows and columns that share an FP8 scale: widths must be multiples of it on every rank
    bits_beside_experts: float | None = None  # of attention, dense layers and shared experts, where they have others

    @property
    def expert_bytes(self) -> float:
        """Of one weight of a routed expert; 0 when the method does not say."""
        return (self.bits or 0) / 8

    @property
    def other_bytes(self) -> float:
        """Of one weight of any other projection; 0 when the method does not say."""
        return (self.bits_beside_experts or self.bits or 0) / 8


def scheme(config: Mapping[str, Any], description: Mapping[str, Any] | None = None) -> Scheme | None:
    """The scheme that a `config.json` names, or msModelSlim's `quant_model_description.json`; None: not quantised.

    Sources: the methods in vLLM's `model_executor/layers/quantization/` and what each stores beside the weights.
    """
    if description:
        return _of_msmodelslim(description)
    stored = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(stored, Mapping):
        return None
    name = str(stored.get("quant_method") or "quantised")
    block = int((stored.get("weight_block_size") or [0])[0])
    return Scheme(name, _BITS[name](stored) if name in _BITS else None, block)


def _of_msmodelslim(description: Mapping[str, Any]) -> Scheme:
    kind = str(description.get("model_quant_type", ""))
    named = {name: str(told) for name, told in description.items() if name.endswith("proj.weight")}
    experts = _commonest(told for name, told in named.items() if ".experts." in name)
    others = _commonest(told for name, told in named.items() if ".experts." not in name)
    return Scheme(f"ascend {kind}".strip(), experts or _msmodelslim_bits(kind), bits_beside_experts=others)


def _commonest(kinds: Iterable[str]) -> float | None:
    """The bits that most of these projections have: W4A8 is often of the experts alone, and attention is W8A8."""
    counted = Counter(bits for kind in kinds if (bits := _msmodelslim_bits(kind)) is not None)
    return counted.most_common(1)[0][0] if counted else None


def _msmodelslim_bits(kind: str) -> float | None:
    if kind == "FLOAT":
        return 16.0
    match = _MSMODELSLIM.match(kind)
    return float(match[1]) if match else None


def _bits(stored: Mapping[str, Any], *names: str) -> int:
    return next((int(stored[name]) for name in names if stored.get(name)), 0)


def _grouped(stored: Mapping[str, Any]) -> float | None:
    """Each group of weights has a scale and a zero point as wide as a weight; a group of -1 is a whole column."""
    bits, group = _bits(stored, "bits", "w_bit"), _bits(stored, "group_size", "q_group_size")
    return _with_groups(bits, group, symmetric=False)


def _fp8(stored: Mapping[str, Any]) -> float:
    block = stored.get("weight_block_size")
    return 8 + (_BLOCK_SCALE / (block[0] * block[1]) if block else 0)


def _compressed(stored: Mapping[str, Any]) -> float | None:
    """The first group's weights; symmetric ones have no zero points."""
    groups = stored.get("config_groups") or {}
    weights = next((group.get("weights") or {} for group in groups.values()), {})
    symmetric = bool(weights.get("symmetric", True))
    return _with_groups(_bits(weights, "num_bits"), _bits(weights, "group_size"), symmetric=symmetric)


def _with_groups(bits: int, group: int, *, symmetric: bool) -> float | None:
    if not bits:
        return None
    return bits + (_SCALE + (0 if symmetric else bits)) / group if group > 0 else float(bits)


def _bitsandbytes(stored: Mapping[str, Any]) -> float:
    return 4.5 if stored.get("load_in_4bit") else 8.0


def _modelopt(stored: Mapping[str, Any]) -> float | None:
    return {"FP8": 8.0, "NVFP4": 4.5}.get(str(stored.get("quant_algo")).upper())


_BITS: Mapping[str, Callable[[Mapping[str, Any]], float | None]] = {
    "awq": _grouped,
    "gptq": _grouped,
    "fp8": _fp8,
    "compressed-tensors": _compressed,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": lambda _: 4.25,  # a scale of 8 bits for 32 weights
    "modelopt": _modelopt,
}
"""`quant_method` -> the bits of a weight."""
