"""Values as engines spell them: compared by meaning, and flattened to one name each."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from autotune.engine_config import Value

UNSET = "unset"
_AUTOMATIC = (None, "auto")


def spelled(value: Any) -> str:
    """A value as text in one spelling: numbers by value, words in lower case, `auto` as if it were not given."""
    if value in _AUTOMATIC:
        return UNSET
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    text = str(value).strip().lower()
    try:
        return repr(float(text))
    except ValueError:
        return text


def number(value: Any) -> float | None:
    """A value as a number; None for one that is none, and for `true`."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def flattened(given: Mapping[str, Any]) -> dict[str, Value]:
    """Arguments with the keys of mappings among them by flat name: `{"compilation_config.cudagraph_mode": "FULL"}`."""
    return {name: value for name, value in _leaves("", given) if value not in _AUTOMATIC}


def _leaves(prefix: str, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from _leaves(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", value
