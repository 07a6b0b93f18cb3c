"""Reads an engine's log: what ended it, what that means to a user, and what the search does next."""

from autotune.diagnosis.evidence import read_failure
from autotune.diagnosis.matching import Finding, diagnose, fatal_line
from autotune.diagnosis.verdict import Verdict, outcome_of

__all__ = ["Finding", "Verdict", "diagnose", "fatal_line", "outcome_of", "read_failure"]
