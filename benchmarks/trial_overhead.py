"""What share of a trial's wall time is neither engine start nor load: `python benchmarks/trial_overhead.py [JOB]`.

Reads a finished job from the database of the settings (AUTOTUNE_HOME) and prints; measures nothing itself.
"""

import sys

from autotune.results import Trial
from autotune.settings import load_settings
from autotune.store import Store


def main() -> None:
    """Print one line a trial and the total."""
    with Store.open(load_settings().database) as store:
        job = store.job(sys.argv[1]) if len(sys.argv) > 1 else store.jobs()[0]
        trials = [trial for trial in store.trials(job.id) if trial.result and trial.finished_at]
    print(f"{job.id}: trial, wall s, engine start s, load s, stop s, neither start nor load")
    total_s = useful_s = 0.0
    for trial in trials:
        wall_s, useful = _wall_s(trial), _useful_s(trial)
        total_s, useful_s = total_s + wall_s, useful_s + useful
        assert trial.result is not None
        spent = trial.result.timings
        share = 1 - useful / wall_s
        print(
            f"{trial.number:5d} {wall_s:7.1f} {spent.start_s:7.1f} {spent.load_s:7.1f} {spent.stop_s:7.1f} {share:7.1%}"
        )
    print(f"  all {total_s:7.1f} {'':23} {1 - useful_s / total_s:7.1%}")


def _wall_s(trial: Trial) -> float:
    assert trial.finished_at is not None
    return (trial.finished_at - trial.started_at).total_seconds()


def _useful_s(trial: Trial) -> float:
    assert trial.result is not None
    return trial.result.timings.start_s + trial.result.timings.load_s


if __name__ == "__main__":
    main()
