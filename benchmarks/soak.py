"""Hundreds of trials with random faults and random kills: `python benchmarks/soak.py [--trials 300] [--seed 1]`.

Real processes, a real Ray of four pretended devices, the real command line; the engine is the fault engine of the
tests. Prints what happened, and what was left, lost or repeated; exits with 1 when that is not nothing.
"""

import argparse
import json
import os
import random
import runpy
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from autotune.results import Measured, Trial

DATA = Path(__file__).parents[1] / "tests" / "data"
turmoil = SimpleNamespace(**runpy.run_path(str(DATA / "turmoil.py")))

PER_JOB = 50
TRIALS_PER_KILL = 25
SLOWEST_TRIAL_S = 6.0  # of wall time, on average, with four at once: bounds a job
KILLED = ("actor", "supervisor", "actor", "supervisor", "engine", "cli")


@dataclass
class Tally:
    """What happened to all jobs together."""

    trials: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)  # of trials that were not measured, by class
    faults: Counter[str] = field(default_factory=Counter)  # that the engine played, by launch
    launches: int = 0
    retries: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    problems: dict[str, list[str]] = field(
        default_factory=lambda: {"leftovers": [], "lost": [], "duplicates": [], "unfinished": []}
    )

    @property
    def is_clean(self) -> bool:
        """Whether nothing was left, lost, repeated or unfinished."""
        return not any(self.problems.values())


def main() -> int:
    """Soak, print, and say by the exit code whether all was well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=300, help="search trials in all")
    parser.add_argument("--seed", type=int, default=1, help="of the faults and the kills")
    parser.add_argument("--deadline", type=float, default=1800.0, help="seconds after which no further job begins")
    asked = parser.parse_args()
    home, scratch = Path(tempfile.mkdtemp(prefix="soak-")), Path(tempfile.mkdtemp(prefix="at-"))
    began_s = time.monotonic()
    tally = soak(home, scratch, asked.trials, asked.seed, asked.deadline)
    show(tally, time.monotonic() - began_s)
    if tally.is_clean:
        shutil.rmtree(home)
    else:
        print(f"see {home}")
    shutil.rmtree(scratch, ignore_errors=True)
    return 0 if tally.is_clean else 1


def soak(home: Path, scratch: Path, trials: int, seed: int, deadline_s: float) -> Tally:
    """Run jobs one after the other until so many trials were searched."""
    executable = runpy.run_path(str(DATA / "fault_vllm.py"))["install"](home / "engine")
    place = turmoil.make_place(home, scratch, executable, FAULT=f"random:{seed}")
    rng, tally = random.Random(seed), Tally()
    ends_s = time.monotonic() + deadline_s
    for number, wanted in enumerate(_portions(trials)):
        left_s = ends_s - time.monotonic()
        if left_s <= 0:
            tally.problems["unfinished"].append(f"{trials - tally.trials} trials were not begun before the deadline")
            break
        kinds = [rng.choice(KILLED) for _ in range(max(1, wanted // TRIALS_PER_KILL))]
        overrides = ("--set", f"budget.trials={wanted}", "--set", f"seed={seed + number}")
        limit_s = min(left_s, 120.0 + SLOWEST_TRIAL_S * wanted)
        story = turmoil.run_disturbed(place, overrides, turmoil.plan(rng, kinds, wanted), rng.random(), limit_s)
        _count(place, story, tally)
    tally.problems["leftovers"] += turmoil.leftovers(place)
    place.close()
    return tally


def _portions(trials: int) -> Iterator[int]:
    while trials > 0:
        yield min(trials, PER_JOB)
        trials -= PER_JOB


def _count(place: Any, story: Any, tally: Tally) -> None:
    """Add a job's rows, launches and problems to the tally."""
    tally.commands += story.commands
    tally.kills += Counter(struck.kind for struck in story.struck)
    tally.problems["lost"] += turmoil.lost(place, story)
    if story.job_id is None:
        tally.problems["unfinished"].append("a job was never written down")
        return
    tally.problems["duplicates"] += turmoil.duplicates(place, story)
    tally.problems["unfinished"] += turmoil.wrong_ending(place, story)
    for trial in turmoil.trials(place, story.job_id):
        _count_trial(trial, tally)
    for path in (place.home / "jobs" / story.job_id).glob("*/launch.json"):
        fault = json.loads(path.read_text())["fault"]
        tally.launches += 1
        tally.faults += Counter([fault] if fault else [])


def _count_trial(trial: Trial, tally: Tally) -> None:
    tally.trials += trial.purpose == "search"
    tally.retries += trial.attempts - 1
    if trial.result is None:
        return
    outcome = trial.result.outcome
    tally.outcomes[outcome.kind] += 1
    if not isinstance(outcome, Measured):
        tally.failures[str(outcome.evidence.failure)] += 1


def show(tally: Tally, wall_s: float) -> None:
    """Print the counts, and every problem."""
    lines = {
        "trials": f"{tally.trials} searched, {sum(tally.outcomes.values())} with baselines and confirmations",
        "outcomes": _counts(tally.outcomes),
        "failures": _counts(tally.failures),
        "launches": f"{tally.launches}, {tally.retries} of them again",
        "faults": f"{sum(tally.faults.values())}: {_counts(tally.faults)}",
        "kills": f"{sum(tally.kills.values())}: {_counts(tally.kills)}; {tally.commands} commands",
    }
    for name, text in lines.items():
        print(f"{name:10} {text}")
    for name, problems in tally.problems.items():
        print(f"{name:10} {len(problems)}")
        for problem in problems:
            print(f"    {problem}")
    print(f"wall time  {wall_s:.0f} s on {os.cpu_count()} cores")


def _counts(counted: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items())) or "none"


if __name__ == "__main__":
    sys.exit(main())
