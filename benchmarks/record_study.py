"""Record the study that `notebooks/method.ipynb` reads: `python benchmarks/record_study.py [FILE]`.

A whole tuning job as `autotune run` works through it (checks, starting points, sampler, confirmation, attribution,
database), with one difference: its trials run in virtual time on the simulated Ascend 910B, one after the other. So
nothing in it was measured on an NPU. Takes some minutes on one core.
"""

import gzip
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.results import TrialResult
from autotune.settings import Settings, built_in_profiles
from autotune.store import Store
from autotune.trial import TrialRequest
from autotune.trial.virtual import run_virtual
from autotune.tuner.context import prepare
from autotune.tuner.events import Event
from autotune.tuner.job import run_job
from autotune.tuner.ledger import Books, leased
from autotune.tuner.sources import load_job
from autotune.tuner.work import open_study

STUDY = Path(__file__).parents[1] / "notebooks" / "method-study.json.gz"
DEVICES = 2
MODELS = "/models"  # the place that the record names, instead of a temporary folder

# The sizes of a common dense model with grouped-query attention: the simulated engine needs no weights.
DENSE_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}
# Short questions and long answers: many requests are decoded at once, so the number of places counts.
WORKLOAD = {
    "version": 1,
    "name": "long-answers",
    "dataset": {
        "kind": "synthetic",
        "input_tokens": {"kind": "lognormal", "median": 100, "sigma": 0.5, "min": 16, "max": 512},
        "output_tokens": {"kind": "lognormal", "median": 220, "sigma": 0.4, "min": 32, "max": 512},
    },
    "arrival": {"kind": "poisson"},
    "levels": [8, 16, 24, 32, 40, 48, 56, 64, 72],
    "requests_per_level": 600,
    "warmup_requests": 16,
}
# The limits are those that a well-known guide calls good: P99 TTFT 200 ms, TPOT 50 ms.
JOB = {
    "version": 1,
    "name": "method",
    "model": "dense-7b",
    "engine": "simulated-ascend-910b",
    "devices": {"resource": "NPU", "max_per_trial": DEVICES},
    "search_space": "ascend-dense",
    "workload": "long-answers.yaml",
    "sla": {"p99_ttft_ms": 200, "p99_tpot_ms": 50},
    "budget": {"trials": 16, "confirm_top": 3, "confirm_runs": 3},
    "attribution": True,
}


class VirtualDevices:
    """Devices for one trial at a time, whose time is the simulation's: `autotune.tuner.loop.Devices`."""

    def __init__(self) -> None:
        self._waiting: list[TrialRequest] = []

    @property
    def busy(self) -> tuple[int, ...]:
        """Numbers of the trials that were started and not asked for yet."""
        return tuple(request.number for request in self._waiting)

    @property
    def most_devices(self) -> int:
        """The widest configuration that fits."""
        return DEVICES

    def check_fits(self, wanted: int) -> None:
        """Every width that the job allows fits."""

    def has_room(self, wanted: int) -> bool:
        """Whether nothing else runs."""
        return not self._waiting and wanted <= DEVICES

    def start(self, request: TrialRequest) -> None:
        """Keep the trial until its result is asked for."""
        self._waiting.append(request)

    def finished(self, *, timeout_s: float) -> list[tuple[TrialRequest, TrialResult]]:
        """Run what was started; there is nothing to wait for, whatever `timeout_s` is."""
        asked, self._waiting = self._waiting, []
        return [(request, run_virtual(request)) for request in asked]

    def progress(self) -> Mapping[int, Mapping[str, Any]]:
        """Nothing runs while somebody could look."""
        return {}

    def cancel_all(self) -> None:
        """Drop what has not begun."""
        self._waiting.clear()

    def kill_all(self) -> None:
        """Drop what has not begun."""
        self._waiting.clear()


def main() -> None:
    """Run the job and write its rows."""
    target = Path(sys.argv[1]) if sys.argv[1:] else STUDY
    with tempfile.TemporaryDirectory() as name:
        document = record(Path(name))
    with target.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file:
        file.write(document.encode())
    print(f"{target}: {target.stat().st_size:,} bytes")


def record(home: Path) -> str:
    """The job's row and those of its trials as JSON, after the job has ended."""
    (home / "dense-7b").mkdir()
    (home / "dense-7b" / "config.json").write_text(json.dumps(DENSE_7B))
    (home / "job.yaml").write_text(json.dumps(JOB))  # JSON is YAML
    (home / "long-answers.yaml").write_text(json.dumps(WORKLOAD))
    settings = Settings(home=home, profiles=built_in_profiles())
    context = prepare(load_job(home / "job.yaml"), settings)
    with Store.open(settings.database) as store:
        store.create_job(context.job)
        with leased(store, context.job.id) as lease:
            run_job(context, Books(store, lease, open_study(context.job, settings)), VirtualDevices(), _tell)
        job, trials = store.job(context.job.id), store.trials(context.job.id)
    rows = {"job": job.model_dump(mode="json"), "trials": [trial.model_dump(mode="json") for trial in trials]}
    return json.dumps(rows).replace(str(home), MODELS)


def _tell(event: Event) -> None:
    if event.finished is not None:
        print(f"{event.phase}: {event.done} of {event.planned}", flush=True)


if __name__ == "__main__":
    main()
