"""What the job page shows of a job and its trials, as plain values for the template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.choice import RECOMMENDED, price_of, source_of
from autotune.errors import InputError, NotFound
from autotune.export import FORMATS, export
from autotune.report.rows import against_baseline, baseline_point, baseline_trial, changed_knobs, measured, re_runs
from autotune.results import (
    Confirmation,
    Evidence,
    Job,
    JobResult,
    JobStatus,
    Latency,
    LoadPoint,
    ParetoFront,
    Trial,
    cost_per_million_tokens,
)
from autotune.selection import Pick, choose, pareto_front, parse_policy
from autotune.service.pages.scatter import confirmation_of
from autotune.settings import Settings
from autotune.spec import JobSpec, LatencyLimit, Sla

FORMAT_WORDS = {
    "vllm": "for vllm serve --config",
    "command": "shell command",
    "env": "environment file",
    "compose": "Docker Compose",
    "kubernetes": "Kubernetes manifest",
    "json": "JSON with all evidence",
    "csv": "the whole front as CSV",
}
METRIC_WORDS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2EL"}


@dataclass(frozen=True, slots=True)
class Knob:
    """A knob beside the baseline's value of it."""

    name: str
    baseline: str
    value: str


@dataclass(frozen=True, slots=True)
class Promise:
    """A line of the SLA, and what was measured."""

    name: str
    limit: str
    value: str
    is_kept: bool


@dataclass(frozen=True, slots=True)
class Chosen:
    """The selected load point with everything worth knowing about it."""

    trial: Trial
    point: LoadPoint
    select: str
    is_recommended: bool
    promises: tuple[Promise, ...]
    latencies: tuple[tuple[str, Latency], ...]
    knobs: tuple[Knob, ...]
    ratios: tuple[str, str]  # throughput and P99 TTFT over the baseline's
    cost: float | None  # of a million output tokens
    formats: tuple[tuple[str, str], ...]  # name and use of every format it can be had in
    preview: str  # the file for `vllm serve`; empty: nothing can be exported
    no_export: str  # why not
    again: Confirmation | None  # its re-runs at this load


@dataclass(frozen=True, slots=True)
class TrialLine:
    """A row of the trial table."""

    trial: Trial
    origin: str
    look: str  # of the verdict: running, good, missed, failed
    verdict: str
    load: str
    output_throughput_per_device: float | None
    p99_ttft_ms: float | None
    bottleneck: str
    took_s: float | None
    evidence: Evidence | None
    knobs: Mapping[str, Any]
    levels: tuple[LoadPoint, ...]
    select: str  # empty: nothing was measured


def trial_lines(trials: Sequence[Trial]) -> list[TrialLine]:
    """Every trial, the newest first."""
    base = baseline_trial(trials)
    return [_line(trial, base) for trial in reversed(trials)]


def _line(trial: Trial, base: Trial | None) -> TrialLine:
    outcome = measured(trial)
    point = outcome.closest_point if outcome else None
    look, verdict = _verdict(trial)
    took = (trial.finished_at - trial.started_at).total_seconds() if trial.finished_at else None
    again = re_runs(outcome.points) if outcome and trial.confirms is not None else point
    is_selectable = point is not None and trial.is_searched
    return TrialLine(
        trial=trial,
        origin=trial.origin if trial.confirms is None else f"re-run of {trial.confirms}",
        look=look,
        verdict=verdict,
        load=str(point.load) if point else "–",
        output_throughput_per_device=again.output_throughput_per_device if again else None,
        p99_ttft_ms=again.p99_ttft_ms if again else None,
        bottleneck=point.bottleneck.kind.replace("_", " ") if point and point.bottleneck else "–",
        took_s=took,
        evidence=trial.result.outcome.evidence if trial.result and trial.result.outcome.kind != "measured" else None,
        knobs=changed_knobs(trial.knobs, base.knobs if base else {}),
        levels=outcome.points if outcome and is_selectable else (),
        select=f"trial={trial.number}:{point.level}" if point and is_selectable else "",
    )


def _verdict(trial: Trial) -> tuple[str, str]:
    outcome = trial.result.outcome if trial.result else None
    if outcome is None:
        return "running", "runs"
    if outcome.kind == "infeasible":
        return "failed", "cannot run"
    if outcome.kind == "interrupted":
        return "failed", "interrupted"
    if trial.confirms is not None:
        runs = re_runs(outcome.points)
        return ("good" if runs.held == runs.count else "missed"), f"{runs.held} of {runs.count} runs meet the SLA"
    return ("good", "meets the SLA") if outcome.operating_point else ("missed", "misses the SLA")


def front_of(job: Job, trials: Sequence[Trial]) -> ParetoFront:
    """The job's front; while it runs that of what was measured so far."""
    return job.result.front if job.result else pareto_front(trials)


def chosen(job: Job, trials: tuple[Trial, ...], select: str, settings: Settings) -> Chosen | None:
    """What a selection means; without one the recommendation, or the closest trial. Raises InputError, NotFound."""
    select = select or _first_look(job.result)
    if not select:
        return None
    number, level = _place(job, trials, select)
    trial = next((trial for trial in trials if trial.number == number), None)
    point = _point(trial, level) if trial else None
    if trial is None or point is None:
        raise NotFound(f"trial {number} has no load level {'' if level is None else level} that was measured")
    exact = f"trial={trial.number}:{point.level}"
    base, start = baseline_trial(trials), baseline_point(trials)
    price = price_of(job, settings)
    preview, refusal = _preview(job, trials, exact, price, point)
    return Chosen(
        trial=trial,
        point=point,
        select=exact,
        is_recommended=_is_recommended(job.result, trial, point),
        promises=tuple(_promises(JobSpec.model_validate(job.spec).sla, point)),
        latencies=tuple((words, getattr(point, metric)) for metric, words in METRIC_WORDS.items()),
        knobs=tuple(_knobs(trial, base)),
        ratios=against_baseline(point.output_throughput_per_device, point.p99_ttft_ms, start),
        cost=cost_per_million_tokens(price, point.output_throughput_per_device) if price else None,
        formats=tuple((name, FORMAT_WORDS.get(name, name)) for name in FORMATS) if preview else (),
        preview=preview,
        no_export=refusal,
        again=confirmation_of(job.result, trial.number, point),
    )


def _first_look(result: JobResult | None) -> str:
    if result is None:
        return ""
    choice = result.recommendation
    if choice.trial is not None:
        return RECOMMENDED
    return "" if choice.closest_trial is None else f"trial={choice.closest_trial}"


def _place(job: Job, trials: Sequence[Trial], select: str) -> tuple[int, int | None]:
    """The trial and level that a selection means."""
    if select == RECOMMENDED:
        choice = job.result.recommendation if job.result else None
        if choice is None or choice.trial is None:
            raise NotFound("nothing is recommended")
        return choice.trial, choice.level
    policy = parse_policy(select)
    if isinstance(policy, Pick):  # also one that misses the SLA can be looked at
        return policy.trial, policy.level
    point = choose(front_of(job, trials), policy)
    return point.trial, point.level


def _point(trial: Trial, level: int | None) -> LoadPoint | None:
    """What was measured at a level; of several runs the first that meets the SLA, or else that is valid."""
    outcome = measured(trial)
    if outcome is None:
        return None
    if level is None:
        return outcome.closest_point
    points = [point for point in outcome.points if point.level == level]
    return min(points, key=lambda point: (bool(point.invalid), not point.feasible), default=None)


def _is_recommended(result: JobResult | None, trial: Trial, point: LoadPoint) -> bool:
    choice = result.recommendation if result else None
    return choice is not None and (choice.trial, choice.level) == (trial.number, point.level)


def _promises(sla: Sla, point: LoadPoint) -> list[Promise]:
    failures = Promise(
        name="Failed requests",
        limit=f"{sla.error_rate:.2%}",
        value=f"{point.error_rate:.2%}",
        is_kept=point.violations.get("error_rate", 0) <= 0,
    )
    return [*(_promise(line, point) for line in sla.latency_limits), failures]


def _promise(line: LatencyLimit, point: LoadPoint) -> Promise:
    latency: Latency = getattr(point, line.metric)
    quantile = next((found for found in latency.quantiles if found.percent == line.percent), None)
    value = quantile.value_ms if quantile else None
    return Promise(
        name=f"P{line.percent:g} {METRIC_WORDS[line.metric]}",
        limit=f"{line.limit_ms:,.10g} ms",
        value=f"{value:,.1f} ms" if value is not None else "never came" if latency.count else "no sample",
        is_kept=point.violations.get(line.name, 0) <= 0,
    )


def _knobs(trial: Trial, base: Trial | None) -> list[Knob]:
    before = base.knobs if base else {}
    changed = changed_knobs(trial.knobs, before)
    return [Knob(name, _plain(before.get(name)), _plain(value)) for name, value in changed.items()]


def _plain(value: Any) -> str:
    if value is None:
        return "the engine's default"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _preview(
    job: Job, trials: tuple[Trial, ...], select: str, price: float | None, point: LoadPoint
) -> tuple[str, str]:
    """The file for `vllm serve`, or why there is none."""
    if job.result is None:
        ends = "once the job has ended" if job.status in (JobStatus.QUEUED, JobStatus.RUNNING) else "not for this job"
        return "", f"Files to export are offered {ends}."
    if not point.feasible:
        return "", "It does not meet the SLA, so there is nothing to export."
    try:
        source = source_of(job, trials, select, price)
    except InputError as exc:
        return "", str(exc)
    return (export(source, "vllm"), "") if source else ("", "Nothing meets the SLA.")
