"""The streaming load generator: sends a level's requests to an OpenAI completions endpoint and times every chunk."""

from autotune.loadgen.endpoint import Endpoint, TooFewFiles
from autotune.loadgen.run import measure, run_level
from autotune.loadgen.watch import EngineStalled, Pulse

__all__ = ["Endpoint", "EngineStalled", "Pulse", "TooFewFiles", "measure", "run_level"]
