"""What lies in a model folder: JSON files, and how many bytes of weights vLLM would load of its safetensors files."""

import json
import re
import struct
from pathlib import Path
from typing import Any

from autotune.errors import InputError

_LENGTH = struct.Struct("<Q")  # of the header, before it
_MOST_HEADER_BYTES = 100_000_000  # the format's own limit
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_MSMODELSLIM = ("quant_model_description.json", "quant_model_description_*.json")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise InputError(f"{path}: cannot be read as JSON ({exc}); is it a git-lfs pointer?") from exc
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object")
    return content


def quantization_description(folder: Path) -> dict[str, Any] | None:
    """What msModelSlim wrote about its quantisation: vllm-ascend reads it, `config.json` need not mention it."""
    for pattern in _MSMODELSLIM:
        for file in sorted(folder.glob(pattern)):
            return read_json(file)
    return None


def weight_bytes(folder: Path, *, layers: int, tied: bool) -> int:
    """Bytes of the tensors that vLLM loads; 0 without safetensors files.

    Those of the index, else all but a second, consolidated copy. Layers beyond the model's (for multi-token prediction)
    and an output layer that is the embedding table are in some checkpoints and are not loaded.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = {folder / name for name in set(read_json(index).get("weight_map", {}).values())}
    else:
        files = {file for file in folder.glob("*.safetensors") if not file.name.startswith("consolidated")}
    return sum(_loaded_bytes(file, layers, tied) for file in files if file.is_file())


def _loaded_bytes(file: Path, layers: int, tied: bool) -> int:
    header = _header(file)
    if header is None:
        return file.stat().st_size
    size = 0
    for name, tensor in header.items():
        layer = _LAYER.search(name)
        skipped = (tied and name.startswith("lm_head.")) or (layer and layers and int(layer[1]) >= layers)
        if name != "__metadata__" and not skipped:
            first, last = tensor["data_offsets"]
            size += last - first
    return size


def _header(file: Path) -> dict[str, Any] | None:
    """The tensors' names and places (https://huggingface.co/docs/safetensors); None for a file of another kind."""
    with file.open("rb") as stream:
        head = stream.read(_LENGTH.size)
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
        if not 0 < length < _MOST_HEADER_BYTES:
            return None
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            return None
    return header if isinstance(header, dict) else None
