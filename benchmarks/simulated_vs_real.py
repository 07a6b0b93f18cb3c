"""The simulated engine beside the real one: `python benchmarks/simulated_vs_real.py [--vllm PATH] [CASE …]`.

Both run the demo's model and workload through the code of a trial, the real one as a process on this machine's cores,
the simulated one (profile `simulated`) in virtual time. Prints Markdown: throughput and P99 TTFT over the load, the
effect of max_num_seqs, of the token budget and of eager mode, each as simulated / real. Run it alone on the machine: it
launches vLLM once per case, half a minute each and one minute where it compiles.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.engine_config import EngineConfig
from autotune.errors import AutotuneError
from autotune.loading import find, load
from autotune.model_card import read_model
from autotune.platforms import PLATFORMS
from autotune.results import LoadPoint, Measured, TrialResult
from autotune.settings import EngineProfile, built_in_profiles, load_settings, profile
from autotune.spec import Sla
from autotune.trial import Control, Grant, TrialRequest, run_trial
from autotune.trial.virtual import run_virtual
from autotune.workload import Workload, given_levels

TINY = Path(__file__).parents[1] / "autotune" / "demo" / "tiny-llama"
REFERENCE = "32 sequences"
CASES: Mapping[str, dict[str, Any]] = {
    "8 sequences": {"max_num_seqs": 8, "max_num_batched_tokens": 512},
    REFERENCE: {"max_num_seqs": 32, "max_num_batched_tokens": 512},
    "64 sequences": {"max_num_seqs": 64, "max_num_batched_tokens": 512},
    "64-token steps": {"max_num_seqs": 32, "max_num_batched_tokens": 64},
    "compiled": {"max_num_seqs": 32, "max_num_batched_tokens": 512, "enforce_eager": False},
}


@dataclass(frozen=True, slots=True)
class Pair:
    """One load level of one case on both engines."""

    case: str
    real: LoadPoint
    simulated: LoadPoint


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", type=Path, help="the real `vllm` (default: the profile `vllm`)")
    parser.add_argument("cases", nargs="*", default=list(CASES), help=f"of: {', '.join(CASES)}")
    asked = parser.parse_args()
    try:
        pairs = list(_measure(asked.cases, _real_profile(asked.vllm)))
    except AutotuneError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    _print_levels(pairs)
    _print_effects(pairs)
    return 0


def _real_profile(executable: Path | None) -> EngineProfile:
    if executable is None:
        return profile(load_settings(), "vllm")
    return EngineProfile(executable=executable.absolute(), platform="cpu")


def _measure(cases: list[str], real: EngineProfile) -> Iterator[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(cases):
            print(f"{case} …", file=sys.stderr, flush=True)
            request = _request(number, CASES[case], real, Path(folder) / "real")
            cores = Grant((), len(PLATFORMS["cpu"].discover()))
            measured = _points(run_trial(request, cores, Control()))
            request = _request(number, CASES[case], built_in_profiles()["simulated"], Path(folder) / "simulated")
            yield from (Pair(case, *both) for both in zip(measured, _points(run_virtual(request)), strict=True))


def _request(number: int, knobs: dict[str, Any], chosen: EngineProfile, folder: Path) -> TrialRequest:
    place = find("demo", "workloads", relative_to=Path.cwd())
    arguments = {"load_format": "dummy", "enforce_eager": True, "max_model_len": 64, **knobs}
    workload = load(place.read_text(), Workload, source=str(place))
    return TrialRequest(
        job="comparison",
        number=number,
        config=EngineConfig(arguments=arguments, environment={"VLLM_CPU_KVCACHE_SPACE": "1"}),
        profile=chosen,
        resource="CPU",
        model=read_model(TINY),
        engine_version="",
        workload=workload,
        sla=Sla(p99_ttft_ms=60_000.0),  # every level is climbed
        levels=given_levels(workload),
        search_seed=1,
        confirm_seeds=(),
        folder=folder,
    )


def _points(result: TrialResult) -> tuple[LoadPoint, ...]:
    if not isinstance(result.outcome, Measured):
        raise AutotuneError(f"not measured: {result.outcome.evidence.cause} {result.outcome.evidence.line}")
    return result.outcome.points


def _print_levels(pairs: list[Pair]) -> None:
    print(
        "| case | load | real tok/s | sim. | ratio | real P99 TTFT ms | sim. | ratio | real P99 TPOT | sim. | ratio |"
    )
    print("|" + "---|" * 11)
    for pair in pairs:
        real, simulated = pair.real, pair.simulated
        cells = [pair.case, str(real.load)]
        for one, other in (
            (real.output_throughput, simulated.output_throughput),
            (_p99(real.ttft), _p99(simulated.ttft)),
            (_p99(real.tpot), _p99(simulated.tpot)),
        ):
            cells += [f"{one:,.0f}", f"{other:,.0f}", f"{other / one:.2f}"]
        print(f"| {' | '.join(cells)} |")
    ratios = [pair.simulated.output_throughput / pair.real.output_throughput for pair in pairs]
    print(
        f"\nsimulated / real throughput: median {statistics.median(ratios):.2f}, {min(ratios):.2f}–{max(ratios):.2f}\n"
    )


def _print_effects(pairs: list[Pair]) -> None:
    """What a change does to the highest level, in each engine: its throughput over the reference's."""
    highest = {pair.case: pair for pair in pairs}  # the last level of a case wins
    if REFERENCE not in highest:
        return
    base = highest[REFERENCE]
    print(f"| at {base.real.load}, against {REFERENCE} | tok/s real | simulated | P99 TTFT real | simulated |")
    print("|---|---|---|---|---|")
    for case, pair in highest.items():
        if case != REFERENCE:
            faster = [
                one.output_throughput / other.output_throughput
                for one, other in ((pair.real, base.real), (pair.simulated, base.simulated))
            ]
            later = [
                _p99(one.ttft) / _p99(other.ttft)
                for one, other in ((pair.real, base.real), (pair.simulated, base.simulated))
            ]
            print(f"| {case} | x {faster[0]:.2f} | x {faster[1]:.2f} | x {later[0]:.2f} | x {later[1]:.2f} |")


def _p99(latency: Any) -> float:
    value: float | None = latency.at(99).value_ms
    return float("inf") if value is None else value


if __name__ == "__main__":
    sys.exit(main())
