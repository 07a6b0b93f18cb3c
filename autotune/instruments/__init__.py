"""Other load clients by choice: `vllm bench serve` and GuideLLM, run as processes; their results are read as ours."""

from autotune.instruments.client import Client, InstrumentFailed, InstrumentOverdue
from autotune.instruments.level import send
from autotune.instruments.rules import Instrument, problems, version_problem

__all__ = ["Client", "Instrument", "InstrumentFailed", "InstrumentOverdue", "problems", "send", "version_problem"]
