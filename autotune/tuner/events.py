"""What the loop says while it works, for a progress bar or a log."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from autotune.results import Trial

Phase = Literal["baseline and search", "confirmation", "attribution", "re-run", "stopping"]


@dataclass(frozen=True, slots=True)
class Event:
    """A snapshot after something happened (or a second went by)."""

    phase: Phase
    done: int  # launches finished in this phase
    planned: int  # launches planned in this phase
    finished: Trial | None = None  # the trial that just ended
    running: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # trial number -> its progress


Observer = Callable[[Event], None]
