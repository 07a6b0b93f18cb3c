"""The streaming load generator: sends a level's requests to an OpenAI completions endpoint and times every chunk."""

from autotune.loadgen.level import Endpoint, EngineStalled, Pulse, measure, run_level

__all__ = ["Endpoint", "EngineStalled", "Pulse", "measure", "run_level"]
