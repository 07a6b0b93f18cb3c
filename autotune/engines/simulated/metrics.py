"""The Prometheus exposition, under vLLM's names and with its labels and buckets."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from autotune.engines.simulated.core import Core, Done
from autotune.engines.simulated.scheduler import Request

_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_REQUEST_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_ITERATION = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


@dataclass(slots=True)
class Histogram:
    """A histogram with fixed upper bounds."""

    name: str
    help: str
    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, labels: str) -> Iterable[str]:
        """Its samples, the buckets cumulated."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} histogram"
        seen = 0
        for bound, count in zip((*map(float, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            yield f'{self.name}_bucket{{engine="0",le="{bound}",{labels}}} {float(seen)}'
        yield f'{self.name}_count{{engine="0",{labels}}} {float(seen)}'
        yield f'{self.name}_sum{{engine="0",{labels}}} {self.total}'


class Metrics:
    """What a running engine shows at `/metrics`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._labels = f'model_name="{core.launch.options.name}"'
        self._succeeded = 0
        self._aborted = 0
        self._iteration = Histogram(
            "vllm:iteration_tokens_total", "Histogram of number of tokens per engine_step.", _ITERATION
        )
        self._first_token = Histogram(
            "vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", _FIRST_TOKEN_S
        )
        self._between = Histogram(
            "vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", _TOKEN_S
        )
        self._per_token = Histogram(
            "vllm:request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.",
            _TOKEN_S,
        )
        phases = ("queue", "prefill", "decode", "inference")
        self._phases = {
            name: Histogram(
                f"vllm:request_{name}_time_seconds", f"Histogram of time spent in {name} for request.", _REQUEST_S
            )
            for name in phases
        }
        self._whole = Histogram(
            "vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", _REQUEST_S
        )
        self._prompt = Histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", _LENGTHS)
        self._answer = Histogram("vllm:request_generation_tokens", "Number of generation tokens processed.", _LENGTHS)

    def observe(self, done: Done) -> None:
        """Take in a step."""
        self._iteration.observe(done.tokens)
        for request in done.answered:
            times_s = request.token_times_s
            if len(times_s) == 1:
                self._first_token.observe(done.end_s - request.arrival_s)
                self._phases["queue"].observe((request.scheduled_s or 0.0) - request.ready_s)
                self._phases["prefill"].observe(done.end_s - (request.scheduled_s or 0.0))
            else:
                self._between.observe(times_s[-1] - times_s[-2])
        for request in done.finished:
            self._finish(request)

    def aborted(self) -> None:
        """A client went away before its answer was complete."""
        self._aborted += 1

    def _finish(self, request: Request) -> None:
        first_s, last_s = request.token_times_s[0], request.token_times_s[-1]
        self._succeeded += 1
        self._phases["decode"].observe(last_s - first_s)
        self._phases["inference"].observe(last_s - (request.scheduled_s or 0.0))
        self._whole.observe(last_s - request.arrival_s)
        self._prompt.observe(request.prompt_tokens)
        self._answer.observe(request.generated)
        if request.generated > 1:
            self._per_token.observe((last_s - first_s) / (request.generated - 1))

    def exposition(self) -> str:
        """The text of `/metrics`."""
        lines = [*self._gauges(), *self._counters()]
        histograms = (self._iteration, self._first_token, self._between, self._per_token, self._whole)
        for histogram in (*histograms, *self._phases.values(), self._prompt, self._answer):
            lines += histogram.lines(self._labels)
        lines.append(self._cache_config())
        return "\n".join(lines) + "\n"

    def _gauges(self) -> list[str]:
        state = self._core.state
        waiting = len(state.waiting) + self._core.expected
        return [
            *self._sample("num_requests_running", "gauge", len(state.running)),
            *self._sample("num_requests_waiting", "gauge", waiting),
            *self._sample("kv_cache_usage_perc", "gauge", state.pool.used / max(1, state.pool.size)),
        ]

    def _counters(self) -> list[str]:
        state, totals = self._core.state, self._core.totals
        samples: list[tuple[str, float, str]] = [
            ("num_preemptions_total", state.preemptions, ""),
            ("prompt_tokens_total", totals.prompt_tokens, ""),
            ("generation_tokens_total", totals.generation_tokens, ""),
            ("prefix_cache_queries_total", state.cache_queries, ""),
            ("prefix_cache_hits_total", state.cache_hits, ""),
            ("request_success_total", self._succeeded, 'finished_reason="length",'),
            ("request_success_total", self._aborted, 'finished_reason="abort",'),
        ]
        lines: list[str] = []
        for name, value, label in samples:
            lines += self._sample(name, "counter", value, label)
        return lines

    def _sample(self, name: str, kind: str, value: float, label: str = "") -> list[str]:
        return [f"# TYPE vllm:{name} {kind}", f'vllm:{name}{{engine="0",{label}{self._labels}}} {float(value)}']

    def _cache_config(self) -> str:
        launch = self._core.launch
        options, limits = launch.options, launch.limits
        labels = {
            "block_size": limits.block_size,
            "cache_dtype": "auto",
            "enable_prefix_caching": limits.prefix_caching,
            "engine": "0",
            "gpu_memory_utilization": options.gpu_memory_utilization,
            "kv_cache_max_concurrency": f"{launch.kv_tokens / launch.max_model_len:.4f}",
            "kv_cache_memory_bytes": options.kv_cache_memory_bytes,
            "kv_cache_size_tokens": launch.kv_tokens,
            "num_cpu_blocks": None,
            "num_gpu_blocks": limits.num_blocks,
            "num_gpu_blocks_override": options.num_gpu_blocks_override,
            "user_specified_block_size": options.block_size is not None,
        }
        text = ",".join(f'{name}="{value}"' for name, value in labels.items())
        return f"# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{{text}}} 1.0"
