"""What configurations really run as: the catalogue predicts it, and the engine's read-backs in the job correct it."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from autotune.engine_config import EngineConfig
from autotune.results import Measured, Trial
from autotune.search_space.catalogue import spelled
from autotune.search_space.catalogue.values import UNSET

Corrections = Mapping[tuple[str, str], str]  # (argument, value asked for) -> value it runs with
Predict = Callable[[EngineConfig], Mapping[str, Any]]  # what a configuration will run as, by flat name


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
                asked = spelled(trial.config.arguments.get(name))
                seen.setdefault((name, asked), set()).add(spelled(outcome.effective_config[name]))
    return {key: runs.pop() for key, runs in seen.items() if len(runs) == 1}


def effective_hash(config: EngineConfig, known: Corrections, predict: Predict) -> str:
    """A name that two configurations share when, by all that is known, the engine runs them alike.

    What was read back wins over what is predicted.
    """
    expected = predict(config)
    names = expected.keys() | config.arguments.keys() | {name for name, asked in known if asked == UNSET}
    runs = {
        name: known.get((name, spelled(config.arguments.get(name))), spelled(expected.get(name)))
        for name in names
        if not isinstance(config.arguments.get(name), Mapping)  # its keys are among the expected
    }
    document = [sorted((name, value) for name, value in runs.items() if value != UNSET), config.devices]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()[:16]
