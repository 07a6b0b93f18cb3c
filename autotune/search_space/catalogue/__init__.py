"""The knob catalogue: what can be tuned on which engine version, what an engine overrides, and what is allowed."""

from autotune.search_space.catalogue.allowed import not_allowed
from autotune.search_space.catalogue.check import Checked, check
from autotune.search_space.catalogue.installed import Installed
from autotune.search_space.catalogue.knobs import Knob, find, flat_name, knobs
from autotune.search_space.catalogue.page import page
from autotune.search_space.catalogue.predict import Habits, conflicts, habits, predicted
from autotune.search_space.catalogue.values import spelled

__all__ = [
    "Checked",
    "Habits",
    "Installed",
    "Knob",
    "check",
    "conflicts",
    "find",
    "flat_name",
    "habits",
    "knobs",
    "not_allowed",
    "page",
    "predicted",
    "spelled",
]
