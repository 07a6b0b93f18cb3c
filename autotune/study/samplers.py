"""The samplers a job may name, and what stands in when one cannot be had."""

import functools
import importlib.util
from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

from autotune.telemetry import get_logger

log = get_logger()


@functools.cache
def available(name: str) -> str:
    """The sampler that is really used for `name`: `gp` needs torch, without it `tpe` stands in and says so once."""
    if name == "gp" and importlib.util.find_spec("torch") is None:
        log.warning("sampler_replaced", asked="gp", used="tpe", fix="pip install 'vllm-autotune[gp]'")
        return "tpe"
    return name


POPULATION = 10  # of nsga2: with Optuna's 50 it would be a random search for the first 50 trials
GENERATION = "NSGAIISampler:generation"  # the system attribute by which nsga2 tells its generations apart


def _gp(seed: int) -> BaseSampler:
    # The start design is ours (recipes, then Sobol): the model proposes as soon as it is asked.
    return GPSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, n_startup_trials=1, multivariate=True)


SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "gp": _gp,
    "tpe": _tpe,
    "nsga2": lambda seed: NSGAIISampler(seed=seed, population_size=POPULATION),
    "random": lambda seed: RandomSampler(seed=seed),
}


def sampler(name: str, seed: int) -> BaseSampler:
    """A seeded sampler by its name in the job file."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return SAMPLERS[available(name)](seed)
