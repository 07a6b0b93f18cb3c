"""The known failure messages of vLLM, vllm-ascend, torch_npu, CANN and CUDA, from `signatures.json`."""

import json
import re
from functools import cache
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field

from autotune.records import Record
from autotune.results import FailureClass


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

    @property
    def pattern(self) -> re.Pattern[str]:
        """The compiled expression; `.` stays within a line."""
        return re.compile(self.regex, re.MULTILINE)


@cache
def signatures() -> tuple[Signature, ...]:
    """All signatures in order of priority; those of one priority in the file's order."""
    text = resources.files("autotune.diagnosis").joinpath("signatures.json").read_text(encoding="utf-8")
    return tuple(sorted((Signature.model_validate(entry) for entry in json.loads(text)), key=lambda s: s.priority))
