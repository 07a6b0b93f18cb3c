"""The memory that a model needs: what it takes, and on how many of which devices it fits."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from autotune.cli.console import console as open_console
from autotune.errors import InputError
from autotune.model_card import (
    GIB,
    KNOWN_DEVICES,
    KnownDevice,
    ModelCard,
    Parallel,
    Shape,
    estimate,
    find_model,
    known_device,
    mla_warning,
    read_model,
    refusals,
    room,
)
from autotune.settings import load_settings

TENSOR_PARALLEL = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Asked:
    """The command's arguments; None where vLLM's default is meant."""

    model: str
    device: str | None
    device_memory_gib: float | None
    max_model_len: int | None
    launch: dict[str, Any]  # further fields of the shape


def show_estimate(asked: Asked, *, as_json: bool) -> None:
    """Print weights, KV cache and workspace, and which tensor-parallel sizes fit which devices."""
    card = read_model(_folder(asked.model))
    if not card.weight_bytes:
        told = "its architecture" if card.size is None or not card.scheme else f"its quantisation ({card.scheme.name})"
        raise InputError(
            f"{card.path}: the weights cannot be told: there are no safetensors files, and {told} is not known; "
            "download the weights first"
        )
    length = asked.max_model_len or card.max_positions
    if not length:
        raise InputError(f"{card.path / 'config.json'} names no greatest length; give --max-model-len")
    shape = Shape(length, **asked.launch)
    devices = _devices(asked)
    if as_json:
        print(json.dumps(_document(card, shape, devices), indent=2))
        return
    print("\n".join(_facts(card, shape)))
    open_console().print(_table(card, shape, devices))
    print(
        "\n".join(
            [*_notes(card, shape, devices), "the workspace is an estimate, the rest is what vLLM computes itself"]
        )
    )


def _folder(model: str) -> Path:
    path = Path(model)
    if path.name == "config.json" and path.is_file():
        return path.parent
    roots = tuple(root for profile in load_settings().profiles.values() for root in profile.model_roots)
    for root in roots:
        if (root / model / "config.json").is_file():
            return root / model
    return find_model(model, relative_to=Path.cwd())


def _devices(asked: Asked) -> tuple[KnownDevice, ...]:
    if asked.device_memory_gib is not None:
        base = known_device(asked.device) if asked.device else KnownDevice("device", "cuda", 0)
        return (replace(base, memory_gib=asked.device_memory_gib),)
    return (known_device(asked.device),) if asked.device else KNOWN_DEVICES


def _facts(card: ModelCard, shape: Shape) -> list[str]:
    need = estimate(card, shape)
    source = "from its files" if card.has_files else "computed from the config"
    return [
        f"{card.path}: {card.summary} ({source})",
        f"KV cache: {_kv_text(card, shape)}",
        f"one request of max_model_len {shape.max_model_len}: {need.kv_per_request / GIB:,.2f} GiB of KV cache",
        f"workspace of one device: {need.workspace / GIB:,.2f} GiB, for {shape.max_num_batched_tokens} tokens a step, "
        f"{shape.max_num_seqs} sequences" + (", nothing captured" if shape.eager else ""),
    ]


def _kv_text(card: ModelCard, shape: Shape) -> str:
    if not card.kv_layers:
        return "not known for this kind of attention"
    per_token = estimate(card, shape).kv_per_token / 1024
    windows = sorted({kind.window for kind in card.kv_layers if kind.window})
    limited = sum(kind.layers for kind in card.kv_layers if kind.window)
    text = f"{per_token:,.1f} KiB per token"
    return f"{text}, of which {limited} layers keep {', '.join(map(str, windows))} tokens only" if windows else text


def _rows(card: ModelCard, shape: Shape, device: KnownDevice) -> list[dict[str, Any]]:
    """One per tensor-parallel size: what a device holds, and what has room."""
    rows = []
    for ranks in TENSOR_PARALLEL:
        parallel = Parallel(tensor=ranks)
        spread = replace(shape, parallel=parallel)
        need, problems = estimate(card, spread), refusals(card, parallel)
        left = room(need, spread, int(device.memory_gib * GIB))
        warning = mla_warning(card, parallel) if device.kind == "ascend" else None
        rows.append(
            {
                "tensor_parallel_size": ranks,
                "fits": left.fits and not problems,
                "weights_gib": round(need.weights / GIB, 3),
                "workspace_gib": round(need.workspace / GIB, 3),
                "kv_cache_gib": round(left.kv_bytes / GIB, 3),
                "kv_cache_tokens": left.tokens,
                "max_concurrent_requests": round(left.concurrent_requests, 2),
                "refusals": problems,
                "warning": warning,
            }
        )
    return rows


def _table(card: ModelCard, shape: Shape, devices: tuple[KnownDevice, ...]) -> Table:
    table = Table(
        "device", "GiB", "TP", "weights", "workspace", "left for KV", "tokens", "requests", "fits", header_style="bold"
    )
    for device in devices:
        rows = _rows(card, shape, device)
        shown = rows if len(devices) == 1 else _smallest(rows)
        for row in shown:
            table.add_row(device.name, f"{device.memory_gib:g}", *_cells(row))
    return table


def _smallest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The row of the smallest size that fits, else of the largest that vLLM would not refuse."""
    fitting = [row for row in rows if row["fits"]]
    return fitting[:1] or [row for row in rows if not row["refusals"]][-1:] or rows[:1]


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        str(row["tensor_parallel_size"]),
        f"{row['weights_gib']:.1f}",
        f"{row['workspace_gib']:.1f}",
        f"{max(0.0, row['kv_cache_gib']):.1f}",
        f"{row['kv_cache_tokens']:,}",
        f"{row['max_concurrent_requests']:,.1f}",
        "yes" if row["fits"] else "refused" if row["refusals"] else "too large",
    ]


def _notes(card: ModelCard, shape: Shape, devices: tuple[KnownDevice, ...]) -> list[str]:
    """Why vLLM refuses some sizes, and what vllm-ascend says of some."""
    notes: dict[str, None] = {}
    for device in devices:
        for row in _rows(card, shape, device):
            told = [*row["refusals"], *([f"on Ascend: {row['warning']}"] if row["warning"] else [])]
            notes |= dict.fromkeys(f"TP {row['tensor_parallel_size']}: {text}" for text in told)
    return list(notes)


def _document(card: ModelCard, shape: Shape, devices: tuple[KnownDevice, ...]) -> dict[str, Any]:
    need = estimate(card, shape)
    return {
        "model": str(card.path),
        "parameters": card.parameters or None,
        "quantization": card.scheme.name if card.scheme else None,
        "weights_from": "files" if card.has_files else "config",
        "weight_bytes": card.weight_bytes,
        "kv_bytes_per_token": need.kv_per_token if card.kv_layers else None,
        "kv_layers": [asdict(kind) for kind in card.kv_layers],
        "kv_bytes_per_request": need.kv_per_request if card.kv_layers else None,
        "workspace_bytes": need.workspace,
        "launch": {name: value for name, value in asdict(shape).items() if name != "parallel"},
        "devices": [
            {"name": device.name, "memory_gib": device.memory_gib, "sizes": _rows(card, shape, device)}
            for device in devices
        ],
    }
