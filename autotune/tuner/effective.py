"""What configurations really run as: the engine's read-backs so far tell which of them are the same."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from autotune.engine_config import EngineConfig
from autotune.results import Measured, Trial

Corrections = Mapping[tuple[str, str], str]  # (argument, value asked for) -> value it runs with

UNSET = "unset"
_AUTOMATIC = (None, "auto")


def corrections(trials: Sequence[Trial], names: Collection[str]) -> Corrections:
    """What the engine made of the arguments `names` in every measured trial that asked for the same.

    On Ascend `block_size: 16` runs as 128: then 16 and 128 are one configuration. A value that ran as this in one trial
    and as that in another depends on something else and corrects nothing.
    """
    seen: dict[tuple[str, str], set[str]] = {}
    for trial in trials:
        outcome = trial.result.outcome if trial.result else None
        if isinstance(outcome, Measured):
            for name in outcome.effective_config.keys() & set(names):
                asked = _text(trial.config.arguments.get(name))
                seen.setdefault((name, asked), set()).add(_text(outcome.effective_config[name]))
    return {key: runs.pop() for key, runs in seen.items() if len(runs) == 1}


def effective_hash(config: EngineConfig, known: Corrections) -> str:
    """A name that two configurations share when, by what is known, the engine runs them alike."""
    names = config.arguments.keys() | {name for name, asked in known if asked == UNSET}
    asked = {name: _text(config.arguments.get(name)) for name in names}
    runs = {name: known.get((name, value), value) for name, value in asked.items()}
    given = {name: value for name, value in runs.items() if value != UNSET}
    document = [sorted(given.items()), sorted(config.environment.items()), config.devices]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:16]


def _text(value: Any) -> str:
    """A value as the engine's read-back would spell it: numbers by value, words in lower case."""
    if value in _AUTOMATIC:
        return UNSET
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    text = str(value).strip().lower()
    try:
        return repr(float(text))
    except ValueError:
        return text
