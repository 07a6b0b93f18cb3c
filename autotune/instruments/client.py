"""A load client of somebody else's: where it is, what it sends to, and how it can fail."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autotune.errors import AutotuneError

OtherInstrument = Literal["vllm-bench", "guidellm"]


@dataclass(frozen=True, slots=True)
class Client:
    """An instrument's executable, and the engine that it is let loose on."""

    instrument: OtherInstrument
    executable: Path  # the `vllm` of the engine's environment, or `guidellm`
    base_url: str
    model: str  # the name that the engine serves
    model_folder: Path  # with the tokenizer
    folder: Path  # where the tool's output is kept, one file per level
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_key: str = field(default="", repr=False)
    trust_remote_code: bool = False


class InstrumentFailed(AutotuneError):
    """A tool brought no measurement home: it ended with an error, or nothing that it says can be used."""

    def __init__(self, message: str, log: Path, said: str = "") -> None:
        self.log = log  # everything the tool said
        self.said = said  # the end of it
        super().__init__(message)


class InstrumentOverdue(InstrumentFailed):
    """A tool was ended because it waited for answers long after the last of them should have come."""
