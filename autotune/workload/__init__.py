"""The traffic a job is measured with: what is sent, how it arrives, and the ladder of load levels."""

from autotune.workload.arrival import ClosedLoop, Replay
from autotune.workload.plan import LevelPlan, PlannedRequest, plan_level, plan_warmup
from autotune.workload.source import Source, Vocabulary, open_source
from autotune.workload.workload import AutoLevels, Level, Workload, found_level, given_levels, ladder_text, level_at

__all__ = [
    "AutoLevels",
    "ClosedLoop",
    "Level",
    "LevelPlan",
    "PlannedRequest",
    "Replay",
    "Source",
    "Vocabulary",
    "Workload",
    "found_level",
    "given_levels",
    "ladder_text",
    "level_at",
    "open_source",
    "plan_level",
    "plan_warmup",
]
