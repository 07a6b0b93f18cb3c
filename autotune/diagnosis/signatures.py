"""The known failure messages of vLLM, vllm-ascend, torch_npu, CANN and CUDA, from `signatures.json`."""

import json
import re
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field

from autotune.records import Record
from autotune.results import FailureClass

HELD_SHARE = 1 / 2  # of the device: more than communication buffers, graphs and the runtime take beside the tensors


class Signature(Record):
    """One known message. The lowest priority number is the most likely root cause."""

    id: str
    priority: Annotated[int, Field(ge=1, le=99)]
    kind: FailureClass | Literal["wrapper"]  # a wrapper says that something failed, never what
    regex: str
    sample: str  # a text that the expression matches
    sample_is: Literal["quoted", "reconstructed"]  # from a real log, or the key phrase with an invented surrounding
    cause: str  # one sentence in the user's terms
    advice: str
    fatal: bool = True  # once it appears, the start cannot succeed any more
    at_info: bool = False  # the engine logs it at INFO level
    held_by_others: bool = False  # counts only when others have much of the device, by the groups total, free and own

    @property
    def pattern(self) -> re.Pattern[str]:
        """The compiled expression; `.` stays within a line."""
        return re.compile(self.regex, re.MULTILINE)

    def search(self, text: str) -> re.Match[str] | None:
        """The first place in a text where the message stands, with what it says about memory."""
        if not self.held_by_others:
            return self.pattern.search(text)
        return next((match for match in self.pattern.finditer(text) if _others_share(match) >= HELD_SHARE), None)


def _others_share(match: re.Match[str]) -> float:
    """Share of a device's memory that is neither free nor this process's own."""
    total, free, own = (_mib(match[name]) for name in ("total", "free", "own"))
    return (total - free - own) / total if total else 0.0


def _mib(size: str) -> float:
    number, unit = size.split()
    return float(number) * {"bytes": 1 / 2**20, "KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}[unit]


@cache
def signatures() -> tuple[Signature, ...]:
    """All signatures in order of priority; those of one priority in the file's order."""
    text = resources.files("autotune.diagnosis").joinpath("signatures.json").read_text(encoding="utf-8")
    return tuple(sorted((Signature.model_validate(entry) for entry in json.loads(text)), key=lambda s: s.priority))
