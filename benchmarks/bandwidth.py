"""When memory bounds an engine: `python benchmarks/bandwidth.py [--vllm PATH] [--users 1,4,16]`.

A model that the CPU's cache holds (the demo's) and one that no cache holds (1.4 GB in 16 bits, random weights) under
the same few users on the real vLLM. Prints Markdown: what each step takes, what it reads of the memory by the engine's
own count, and what the reading of the level is. The peak is what matrix-vector products of the engine's own PyTorch
read, measured beforehand. Run it alone on the machine.
"""

import argparse
import dataclasses
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from autotune.engines.examine import interpreter_of
from autotune.model_card import read_model
from autotune.platforms import cpu
from autotune.results import LoadPoint, Measured
from autotune.settings import EngineProfile, Settings
from autotune.trial import Control, Grant, TrialRequest, run_trial
from autotune.tuner.context import JobContext, prepare
from autotune.tuner.sources import load_job
from autotune.workload import Workload, given_levels

ROOT = Path(__file__).parents[1]
LARGE = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
PRODUCTS = """
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
weights = [torch.randn(11264, 2048, dtype=torch.bfloat16) for _ in range(16)]
vector, taken_s = torch.randn(1, 2048, dtype=torch.bfloat16), []
for _ in range(200):
    begun_s = time.perf_counter()
    for matrix in weights:
        torch.nn.functional.linear(vector, matrix)
    taken_s.append(time.perf_counter() - begun_s)
print(sum(matrix.nbytes for matrix in weights) / min(taken_s) / 1e9)
"""
TOKENS = {"kind": "fixed", "tokens": 32}


def memory_gb_per_s(interpreter: str, cores: int) -> float:
    """What matrix-vector products of the engine's own PyTorch read of the memory at best, in 10^9 bytes/s."""
    done = subprocess.run([interpreter, "-c", PRODUCTS, str(cores)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def large_model(small: Path, folder: Path) -> Path:
    """The demo's vocabulary with many more weights."""
    shutil.copytree(small, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | LARGE))
    return folder


def measured(context: JobContext, number: int, users: Sequence[float], dtype: str) -> tuple[LoadPoint, ...]:
    """A trial with this many users after one another."""
    traffic = {"kind": "synthetic", "input_tokens": TOKENS, "output_tokens": TOKENS}
    document = context.workload.model_dump(mode="json") | {"dataset": traffic, "levels": users}
    load = Workload.model_validate(document | {"requests_per_level": 12, "warmup_requests": 4})
    config = context.configuration({"max_num_seqs": 64, "max_num_batched_tokens": 512, "block_size": 32})
    arguments = {**config.arguments, "max_model_len": 1024, "dtype": dtype, "enable_mfu_metrics": True}
    asked = TrialRequest(
        job=context.job.id,
        number=number,
        config=config.model_copy(update={"arguments": arguments}),
        profile=context.profile,
        resource="CPU",
        model=context.model,
        engine_version=context.engine.version,
        workload=load,
        sla=context.spec.sla.model_copy(update={"p99_ttft_ms": 60_000.0, "p99_tpot_ms": 60_000.0}),
        levels=given_levels(load),
        search_seed=1,
        confirm_seeds=(),
        folder=context.folder,
    )
    outcome = run_trial(asked, Grant((), len(cpu.discover())), Control()).outcome
    if not isinstance(outcome, Measured):
        raise SystemExit(str(outcome))
    return outcome.points


def main() -> None:
    """Measure both models and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-engine" / "bin" / "vllm")
    parser.add_argument("--users", default="1,4,16")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--models", default="demo,large")
    asked = parser.parse_args()
    users = [float(text) for text in asked.users.split(",")]
    peak = memory_gb_per_s(interpreter_of(str(asked.vllm)), len(cpu.discover()))
    print(
        f"memory: {peak:.1f} GB/s\n\n| model | dtype | users | TPOT (ms) | read (GB/s) | MBU | reading |\n|"
        + "---|" * 7
    )
    with tempfile.TemporaryDirectory() as scratch:
        priced = EngineProfile(executable=asked.vllm, platform="cpu", peak_memory_gb_per_s=peak)
        settings = Settings(home=Path(scratch) / "home", profiles={"vllm": priced})
        small = prepare(load_job(ROOT / "autotune" / "demo" / "job.yaml"), settings)
        folder = large_model(small.model.path, Path(scratch) / "large")
        contexts = {"demo": small, "large": dataclasses.replace(small, model=read_model(folder))}
        cases = [(name, dtype) for name in asked.models.split(",") for dtype in asked.dtypes.split(",")]
        for number, (name, dtype) in enumerate(cases):
            for point in measured(contexts[name], number, users, dtype):
                kind = point.bottleneck.kind if point.bottleneck else "–"
                share, tpot_ms = point.mbu or 0.0, point.tpot.mean_ms or 0.0
                words = (
                    name,
                    dtype,
                    f"{point.load.value:g}",
                    f"{tpot_ms:.1f}",
                    f"{share * peak:.1f}",
                    f"{share:.0%}",
                    kind,
                )
                print(f"| {' | '.join(words)} |", flush=True)


if __name__ == "__main__":
    main()
