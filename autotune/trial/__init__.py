"""One trial, inside its actor: start the engine, climb the load ladder, read back, stop."""

from autotune.trial.artifacts import trial_folder
from autotune.trial.host import sweep_host
from autotune.trial.request import Control, Grant, TrialRequest
from autotune.trial.run import run_trial

__all__ = ["Control", "Grant", "TrialRequest", "run_trial", "sweep_host", "trial_folder"]
