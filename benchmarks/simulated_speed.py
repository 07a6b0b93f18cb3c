"""How many configurations a minute the simulated engine runs in virtual time: `python benchmarks/simulated_speed.py`.

Uses one core. "engine" plays the demo workload's three levels (900 requests); "trial" is the whole trial: plans,
warm-up, engine, percentiles with their bounds.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from autotune.engine_config import EngineConfig
from autotune.engines.simulated import launch, model, options
from autotune.engines.simulated.core import Core
from autotune.engines.simulated.replay import play
from autotune.level_run import LevelWatch
from autotune.loading import find, load
from autotune.model_card import read_model
from autotune.settings import built_in_profiles
from autotune.spec import Sla
from autotune.trial import TrialRequest
from autotune.trial.virtual import run_virtual
from autotune.workload import Vocabulary, Workload, given_levels, open_source, plan_level

TINY = Path(__file__).parents[1] / "autotune" / "demo" / "tiny-llama"
SEQUENCES = (4, 8, 16, 24, 32, 48, 64, 128)
ROUNDS = 3


def main() -> None:
    """Print configurations per minute."""
    place = find("demo", "workloads", relative_to=Path.cwd())
    workload = load(place.read_text(), Workload, source=str(place))
    source = open_source(workload.dataset, Vocabulary(384))
    plans = [plan_level(workload, level, devices=1, seed=1, source=source) for level in given_levels(workload)]
    served = model.read(TINY)

    def engine(sequences: int) -> None:
        words = ["serve", str(TINY), "--max-num-seqs", str(sequences), "--max-model-len", "64"]
        core = Core(launch.prepare(options.read(words, {}), served))
        for plan in plans:
            play(core, plan, LevelWatch())

    _report("engine", engine)
    with tempfile.TemporaryDirectory() as folder:
        base = _request(workload, Path(folder))

        def trial(sequences: int) -> None:
            config = EngineConfig(arguments={"max_model_len": 64, "max_num_seqs": sequences})
            run_virtual(dataclasses.replace(base, config=config))

        _report("trial", trial)


def _request(workload: Workload, folder: Path) -> TrialRequest:
    return TrialRequest(
        job="speed",
        number=0,
        config=EngineConfig(),
        profile=built_in_profiles()["simulated"],
        resource="CPU",
        model=read_model(TINY),
        engine_version="",
        workload=workload,
        sla=Sla(p99_ttft_ms=60_000.0),
        levels=given_levels(workload),
        search_seed=1,
        confirm_seeds=(),
        folder=folder,
    )


def _report(what: str, run: Callable[[int], None]) -> None:
    started_s = time.perf_counter()
    for _ in range(ROUNDS):
        for sequences in SEQUENCES:
            run(sequences)
    each_s = (time.perf_counter() - started_s) / (ROUNDS * len(SEQUENCES))
    print(f"{what}: {each_s * 1e3:.1f} ms a configuration, {60 / each_s:,.0f} a minute")


if __name__ == "__main__":
    main()
