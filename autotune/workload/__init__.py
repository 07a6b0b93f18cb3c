"""The traffic a job is measured with: what is sent, how it arrives, and the ladder of load levels."""

from autotune.workload.arrival import ClosedLoop, Replay
from autotune.workload.dataset import MultiTurn, ShareGpt, Synthetic, Trace
from autotune.workload.files import document_digest, with_data_file
from autotune.workload.plan import LevelPlan, PlannedRequest, plan_level, plan_warmup
from autotune.workload.source import Source, Vocabulary, file_summary, open_source
from autotune.workload.tokenizer import load_tokenizer
from autotune.workload.workload import AutoLevels, Level, Workload, found_level, given_levels, ladder_text, level_at

__all__ = [
    "AutoLevels",
    "ClosedLoop",
    "Level",
    "LevelPlan",
    "MultiTurn",
    "PlannedRequest",
    "Replay",
    "ShareGpt",
    "Source",
    "Synthetic",
    "Trace",
    "Vocabulary",
    "Workload",
    "document_digest",
    "file_summary",
    "found_level",
    "given_levels",
    "ladder_text",
    "level_at",
    "load_tokenizer",
    "open_source",
    "plan_level",
    "plan_warmup",
    "with_data_file",
]
