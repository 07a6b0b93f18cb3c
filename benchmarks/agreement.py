"""Our load generator beside others: `python benchmarks/agreement.py [--vllm PATH] [--guidellm PATH] [--pairs 5]`.

One real vLLM with the demo's model is loaded by our client and by `vllm bench serve` in turns (A B B A …); the two of a
pair send the same lengths at the same times, every pair others. Prints Markdown: medians, P99s and throughputs of both,
with the run-to-run spread of `vllm bench serve`, and what each client costs in CPU time. The engine has half of the
machine's cores and the clients have the others, else a client that computes slows the engine it measures. Latencies
count from the send and percentiles are NumPy's linear ones here, as vLLM has them. Run it alone on the machine.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autotune.engines import vllm
from autotune.engines.loopback import Server
from autotune.engines.readiness import NotReady, StartWatch, wait_ready
from autotune.errors import AutotuneError, EnvironmentProblem
from autotune.instruments import Client, guidellm, vllm_bench
from autotune.level_run import RequestRecord
from autotune.loadgen import Endpoint, measure, run_level
from autotune.model_card import read_model
from autotune.settings import load_settings, profile
from autotune.workload import LevelPlan, Vocabulary, Workload, given_levels, open_source, plan_level

TINY = Path(__file__).parents[1] / "autotune" / "demo" / "tiny-llama"
OURS, BENCH, GUIDELLM = "autotune", "vllm bench serve", "GuideLLM"
SERVE = ["--max-num-seqs", "64", "--max-num-batched-tokens", "512", "--enforce-eager", "--load-format", "dummy"]
WARM_UP = 16  # requests before every run, so that each finds the engine in the same state
STARTS = 3  # runs of one request: what a client costs before it sends anything
METRICS = ("ttft", "tpot", "itl", "e2el")


@dataclass(frozen=True, slots=True)
class Site:
    """The running engine, the tools, and the size of a run."""

    server: Server
    tools: dict[str, Path]
    requests: int
    rate: float


@dataclass(frozen=True, slots=True)
class Run:
    """One level by one client: its figures, and what its process cost."""

    figures: dict[str, float]
    cpu_s: float
    wall_s: float


def main() -> int:
    """Measure and print."""
    asked = _arguments()
    if asked.our_client:
        return _our_client(json.loads(sys.stdin.read()))
    try:
        executable = asked.vllm or profile(load_settings(), "vllm").executable
        engine_cores, client_cores = _cores()
        with _engine(executable, engine_cores) as server:
            os.sched_setaffinity(0, client_cores)
            tools = {OURS: Path(sys.executable), BENCH: executable}
            if asked.guidellm:
                tools[GUIDELLM] = asked.guidellm
            _compare(Site(server, tools, asked.requests, asked.rate), asked.pairs)
    except AutotuneError as exc:
        sys.stderr.write(f"{exc}\n")
        return exc.exit_code
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", type=Path, help="the real `vllm` (default: the profile `vllm`)")
    parser.add_argument("--guidellm", type=Path, help="`guidellm`, for the cost of its client")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300, help="of one run")
    parser.add_argument("--rate", type=float, default=12.0, help="requests/s")
    parser.add_argument("--our-client", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _cores() -> tuple[set[int], set[int]]:
    """The engine's cores and the clients'; on a machine of one core the same."""
    cores = sorted(os.sched_getaffinity(0))
    engine = set(cores[: max(1, len(cores) // 2)])
    return engine, set(cores) - engine or engine


def _compare(site: Site, pairs: int) -> None:
    starts = [{name: _run(site, name, seed=900 + n, requests=1) for name in site.tools} for n in range(STARTS)]
    runs: dict[str, list[Run]] = {name: [] for name in site.tools}
    for pair in range(pairs):
        for name in (OURS, BENCH) if pair % 2 == 0 else (BENCH, OURS):  # who comes first finds another machine
            runs[name].append(_said(name, _run(site, name, seed=pair, requests=site.requests)))
    if GUIDELLM in site.tools:
        runs[GUIDELLM].append(_said(GUIDELLM, _run(site, GUIDELLM, seed=pairs, requests=site.requests)))
    _print_agreement(runs[OURS], runs[BENCH])
    start_s = {name: statistics.median(start[name].cpu_s for start in starts) for name in site.tools}
    _print_cost(runs, start_s, site.requests)


def _said(name: str, run: Run) -> Run:
    print(f"{name}: P99 TTFT {run.figures.get('P99 TTFT (ms)', float('nan')):.1f} ms …", file=sys.stderr, flush=True)
    return run


# The engine


@contextlib.contextmanager
def _engine(executable: Path, cores: set[int]) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}", str(TINY), "")
    command = [str(executable), "serve", str(TINY), "--host", "127.0.0.1", "--port", str(port), *SERVE]
    threads = ",".join(str(core) for core in sorted(cores))
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": threads, **_environment()}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "engine.log"
        with log.open("wb") as output:
            os.sched_setaffinity(0, cores)  # inherited
            engine = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            ready = wait_ready(
                server, StartWatch(log, 300, lambda: engine.poll() is not None, lambda _: None, lambda: False)
            )
            if isinstance(ready, NotReady):
                raise EnvironmentProblem(f"vLLM does not start: {ready.detail}\n{log.read_text()[-2000:]}")
            yield server
        finally:
            engine.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                engine.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(engine.pid, signal.SIGKILL)
            engine.wait()


def _environment() -> dict[str, str]:
    return vllm.environment(os.environ, model=str(TINY), api_key="") | {"VLLM_API_KEY": ""}


# One run


def _run(site: Site, name: str, *, seed: int, requests: int) -> Run:
    """A client in a process of its own, after the same warm-up for all."""
    endpoint = Endpoint(site.server.base_url, site.server.model)
    measure(_plan(1000 + seed, WARM_UP, site.rate), endpoint)
    plan = _plan(seed, requests, site.rate)
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        return _RUNS[name](site, plan, folder)


def _ours(site: Site, plan: LevelPlan, folder: Path) -> Run:
    task = {"seed": plan.seed, "requests": len(plan.requests), "rate": site.rate, "url": site.server.base_url}
    task |= {"model": site.server.model, "result": str(folder / "records.json")}
    (folder / "task.json").write_text(json.dumps(task))
    cost = _spent([sys.executable, __file__, "--our-client"], _environment(), folder, stdin=folder / "task.json")
    rows = json.loads((folder / "records.json").read_text())
    return Run(_figures([RequestRecord(**row) for row in rows]), *cost)


def _our_client(task: dict[str, Any]) -> int:
    """The child process: nothing but our load generator."""
    plan = _plan(task["seed"], task["requests"], task["rate"])
    # Without the real-time priority that `measure` asks for: `vllm bench serve` has none either.
    run = asyncio.run(run_level(plan, Endpoint(task["url"], task["model"])))
    Path(task["result"]).write_text(json.dumps([dataclasses.asdict(record) for record in run.records]))
    return 0


def _bench(site: Site, plan: LevelPlan, folder: Path) -> Run:
    client = _client(site, "vllm-bench", site.tools[BENCH])
    percentiles = ["--percentile-metrics", ",".join(METRICS), "--metric-percentiles", "99"]
    words = [str(client.executable), *vllm_bench.arguments(plan, client, folder), *percentiles]
    cost = _spent(words, _environment() | vllm_bench.environment(client), folder)
    return Run(_own_figures(json.loads((folder / vllm_bench.RESULT).read_text())), *cost)


def _guidellm(site: Site, plan: LevelPlan, folder: Path) -> Run:
    client = _client(site, "guidellm", site.tools[GUIDELLM])
    words = [str(client.executable), *guidellm.arguments(plan, client, folder)]
    cost = _spent(words, _environment() | guidellm.environment(client), folder)
    return Run(_figures(guidellm.read(plan, folder).records), *cost)


_RUNS: dict[str, Callable[[Site, LevelPlan, Path], Run]] = {OURS: _ours, BENCH: _bench, GUIDELLM: _guidellm}


def _client(site: Site, instrument: Any, executable: Path) -> Client:
    server = site.server
    return Client(instrument, executable, server.base_url, server.model, TINY, Path())


def _spent(
    words: Sequence[str], environment: dict[str, str], folder: Path, stdin: Path = Path(os.devnull)
) -> tuple[float, float]:
    """Run a client; CPU seconds of it and the children it waited for, and wall seconds."""
    log, started_s = folder / "client.log", time.monotonic()
    with log.open("wb") as output, stdin.open("rb") as given:
        process = subprocess.Popen(words, env=environment, cwd=folder, stdin=given, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # it is waited for already
    if status:
        raise EnvironmentProblem(f"{words[0]} failed:\n{log.read_text(errors='replace')[-2000:]}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started_s


def _plan(seed: int, requests: int, rate: float) -> LevelPlan:
    length = {"kind": "uniform", "min": 64, "max": 192}
    workload = Workload.model_validate(
        {
            "version": 1,
            "name": "agreement",
            "dataset": {"kind": "synthetic", "input_tokens": length, "output_tokens": {"kind": "fixed", "tokens": 32}},
            "arrival": {"kind": "poisson"},
            "levels": [rate],
            "requests_per_level": requests,
        }
    )
    model = read_model(TINY)
    source = open_source(workload.dataset, Vocabulary(model.vocab_size, model.special_ids), model=TINY)
    return plan_level(workload, given_levels(workload)[0], devices=1, seed=seed, source=source)


# Figures


def _figures(records: Sequence[RequestRecord]) -> dict[str, float]:
    """By the definitions of `vllm.benchmarks.serve.calculate_metrics`: from the send, to the last token, in ms."""
    good = [record for record in records if record.error is None]
    times = [(record.sent_s, record.token_times_s, record.output_tokens) for record in good]
    samples = {
        "ttft": [tokens[0] - sent for sent, tokens, _ in times],
        "tpot": [(tokens[-1] - tokens[0]) / (count - 1) for _, tokens, count in times],
        "itl": [gap for _, tokens, _ in times for gap in np.diff(tokens)],
        "e2el": [tokens[-1] - sent for sent, tokens, _ in times],
    }
    found = {}
    for metric, values in samples.items():
        if not values:  # a run of one request that only tells what a start costs
            continue
        found[_median(metric)] = float(np.median(values)) * 1e3
        found[_p99(metric)] = float(np.percentile(values, 99)) * 1e3
    duration_s = max(record.end_s for record in records)
    tokens = sum(record.output_tokens for record in good)
    return found | {"requests/s": len(good) / duration_s, "output tokens/s": tokens / duration_s}


def _own_figures(result: dict[str, Any]) -> dict[str, float]:
    """What `vllm bench serve` itself says."""
    found = {}
    for metric in METRICS:
        found[_median(metric)] = result[f"median_{metric}_ms"]
        found[_p99(metric)] = result[f"p99_{metric}_ms"]
    return found | {"requests/s": result["request_throughput"], "output tokens/s": result["output_throughput"]}


def _median(metric: str) -> str:
    return f"median {metric.upper()} (ms)"


def _p99(metric: str) -> str:
    return f"P99 {metric.upper()} (ms)"


def _print_agreement(ours: list[Run], theirs: list[Run]) -> None:
    print(f"\n| {len(ours)} pairs | autotune, mean | vllm bench serve, mean | min to max | sd | difference | within |")
    print("|---|---|---|---|---|---|---|")
    for name in ours[0].figures:
        mine = statistics.fmean(run.figures[name] for run in ours)
        known = [run.figures[name] for run in theirs]
        spread = statistics.stdev(known) if len(known) > 1 else 0.0
        mean = statistics.fmean(known)
        inside = "yes" if min(known) <= mine <= max(known) else f"no, by {_outside(mine, known):.3g}"
        limits = f"{min(known):.2f} to {max(known):.2f}"
        print(f"| {name} | {mine:.2f} | {mean:.2f} | {limits} | {spread:.2f} | {mine - mean:+.2f} | {inside} |")


def _outside(value: float, known: Sequence[float]) -> float:
    return max(min(known) - value, value - max(known))


def _print_cost(runs: dict[str, list[Run]], start_s: dict[str, float], requests: int) -> None:
    print("\n| client | CPU-s per 1,000 requests | ratio | without its start | ratio | wall s of a run |")
    print("|---|---|---|---|---|---|")
    whole = {name: statistics.fmean(run.cpu_s for run in some) / requests * 1e3 for name, some in runs.items()}
    net = {name: cost - start_s[name] / requests * 1e3 for name, cost in whole.items()}
    for name, some in runs.items():
        wall_s = statistics.fmean(run.wall_s for run in some)
        ratios = (whole[name] / whole[OURS], net[name] / net[OURS])
        print(f"| {name} | {whole[name]:.2f} | {ratios[0]:.1f} | {net[name]:.2f} | {ratios[1]:.1f} | {wall_s:.0f} |")


if __name__ == "__main__":
    sys.exit(main())
