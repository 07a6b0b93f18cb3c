"""Search spaces: parameters and their levels, rules between them, starting points, and what a choice launches."""

from autotune.search_space.parameters import (
    MAX_LEVELS,
    Parameter,
    is_ordered,
    is_special,
    levels,
)
from autotune.search_space.resolve import (
    active,
    baseline_config,
    broken_rules,
    config_of,
    resolve,
    size,
    starting_point,
)
from autotune.search_space.space import BASELINE, SearchSpace, tunable

__all__ = [
    "BASELINE",
    "MAX_LEVELS",
    "Parameter",
    "SearchSpace",
    "active",
    "baseline_config",
    "broken_rules",
    "config_of",
    "is_ordered",
    "is_special",
    "levels",
    "resolve",
    "size",
    "starting_point",
    "tunable",
]
