"""Reads an engine's log: what ended it, what that means to a user, and what the search does next."""

from autotune.diagnosis.evidence import read_failure
from autotune.diagnosis.long_log import blocks
from autotune.diagnosis.matching import Finding, LogReading, diagnose, fatal_line, is_waiting, read_log
from autotune.diagnosis.verdict import Verdict, outcome_of

__all__ = [
    "Finding",
    "LogReading",
    "Verdict",
    "blocks",
    "diagnose",
    "fatal_line",
    "is_waiting",
    "outcome_of",
    "read_failure",
    "read_log",
]
