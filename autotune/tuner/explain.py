"""Attribution: the path from the baseline to the winner is launched afresh, and knobs without effect are taken back.

The job's success is stored before, and its result is replaced only when all is done: whatever ends an explanation, the
job stays what it was, and its rows let the next one go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from autotune.errors import EnvironmentProblem, InputError, StoreError
from autotune.results import (
    Attribution,
    Confirmation,
    Infeasible,
    Interrupted,
    Job,
    JobResult,
    JobStatus,
    LoadPoint,
    Measured,
    Trial,
    TrialOutcome,
)
from autotune.selection import Path, Reset, attribute, inert_knobs, recommend_reset
from autotune.telemetry import get_logger
from autotune.tuner.ablation import (
    Station,
    ablation_path,
    can_run,
    changed_knobs,
    changes,
    figure,
    is_as_launched,
    station,
    without,
)
from autotune.tuner.budget import was_interrupted
from autotune.tuner.confirm import concluded, confirmed, judge, valid_runs
from autotune.tuner.context import JobContext
from autotune.tuner.events import Observer
from autotune.tuner.ledger import Books, Ledger
from autotune.tuner.loop import STOP_S, Devices, Seats, Tuning, Turn
from autotune.tuner.owner import utc_now
from autotune.tuner.requests import ablation_request, confirmation_request

log = get_logger()

FEWEST_ROUNDS = 2  # one shows no spread
ABLATION_SEED = 500_009  # added to the job's seed: no trace of the search, nor of a confirmation


def explain_job(context: JobContext, books: Books, fleet: Devices, observe: Observer) -> Job:
    """Find out which knob brought which share of the winner's gain; the job has succeeded, and that does not change.

    What earlier explanations of the job have launched is not launched again. Raises InputError when there is nothing
    to explain, JobCancelled or KeyboardInterrupt when somebody asked for the end, AutotuneError when the machine is
    not fit for it; the job keeps its result then.
    """
    job = books.store.job(context.job.id)
    ledger = Ledger(job, books, is_searched=False)  # an explanation has no budget, and uses none of the search's
    if job.result is not None and job.result.attribution is not None:
        return job  # whoever explained it was faster
    problem = nothing_to_explain(job, ledger.trials)
    if problem:
        raise InputError(problem)
    assert job.result is not None
    assert job.finished_at is not None
    tuning = Tuning(context, Seats(ledger, fleet), observe)
    is_settled = False
    try:
        result = _explained(tuning, job.result)
        is_settled = True
    except StoreError:  # nothing can be written any more
        is_settled = True
        tuning.stop_engines(within_s=STOP_S)
        raise
    finally:
        if not is_settled:  # whatever it was, no row stays open and no engine runs
            tuning.abandon(within_s=STOP_S)
    books.store.finish_job(books.lease, job.status, result, finished_at=job.finished_at, message=job.message)
    log.info("job_explained", job=job.id)
    return books.store.job(job.id)


def nothing_to_explain(job: Job, trials: Sequence[Trial]) -> str:
    """Why a job has no gain that could be attributed; empty when it has one."""
    if job.status is not JobStatus.SUCCEEDED or job.result is None:
        return f"job {job.id!r} is {job.status}; only a job that has succeeded can be explained"
    number = job.result.recommendation.trial
    if number is None:
        return f"job {job.id!r} recommends nothing, so there is no gain to explain: {job.result.recommendation.reason}"
    if any(trial.number == number and trial.purpose == "baseline" for trial in trials):
        return f"job {job.id!r} recommends its baseline, trial {number}, so there is no gain to explain"
    return ""


def is_unfinished(job: Job, trials: Sequence[Trial]) -> bool:
    """Whether an explanation was asked for, or begun, and has not come to its end."""
    wanted = bool(job.spec.get("attribution")) or any(trial.purpose == "ablation" for trial in trials)
    is_open = job.result is not None and job.result.attribution is None
    return wanted and is_open and not nothing_to_explain(job, trials)


@dataclass(frozen=True, slots=True)
class _Way:
    """The path of one job, with the configuration of each station."""

    winner: Trial
    path: Path
    stations: tuple[Station, ...]
    rounds: int
    since: int  # the number of the first row that this explanation may write

    def done_before(self, round_: int, position: int) -> int:
        """Launches before one, for the progress bar."""
        return round_ * len(self.stations) + position

    @property
    def planned(self) -> int:
        """Launches on the path; the winner without its inert knobs may follow."""
        return self.rounds * len(self.stations)


def _explained(tuning: Tuning, result: JobResult) -> JobResult:
    context = tuning.context
    winner = _trial(tuning, result.recommendation.trial)
    if not changed_knobs(context, winner):
        raise InputError(f"trial {winner.number} differs from the baseline in no knob, so there is nothing to explain")
    if not is_as_launched(context, winner):
        raise InputError(
            f"trial {winner.number} was launched with other arguments than the engine profile "
            f"{context.spec.engine!r} gives today, so the path to it would change those too; bring the profile's "
            "arguments back, or start the job anew with: autotune run"
        )
    path = ablation_path(context, winner, tuning.searched, tuning.most_devices)
    stations = tuple(station(context, winner, changed) for changed in path.stations)
    rounds = max(FEWEST_ROUNDS, context.spec.budget.confirm_runs)
    way = _Way(winner, path, stations, rounds, since=tuning.next_number)
    log.info("path_found", job=context.job.id, winner=winner.number, steps=path.steps)
    for round_ in range(way.rounds):
        _launch_round(tuning, way, round_)
    return _with_reset(tuning, result, winner, _attributed(tuning, way))


def _launch_round(tuning: Tuning, way: _Way, round_: int) -> None:
    """Every configuration of the path once, with one trace. Every other round goes back: a steady drift cancels."""
    context, last = tuning.context, len(way.stations) - 1
    seed = context.spec.seed + ABLATION_SEED + round_
    for position, number in enumerate(range(last + 1) if round_ % 2 == 0 else range(last, -1, -1)):
        at = way.stations[number]
        if _failure(tuning, at) is not None:
            continue
        turn = Turn("attribution", way.done_before(round_, position) + 1, way.planned)
        row = _row(tuning, at, _origin(number, round_), since=way.since)
        outcome = _outcome(tuning.launch_alone(row, lambda launched: ablation_request(context, launched, seed), turn))
        if isinstance(outcome, Infeasible) and number == last:
            raise EnvironmentProblem(
                f"trial {way.winner.number}, the recommendation, did not start again: {outcome.evidence.cause}; the "
                f"machine is not what it was during the search, see: autotune trials {context.job.id}, then: autotune "
                f"explain {context.job.id}"
            )


def _attributed(tuning: Tuning, way: _Way) -> Attribution:
    """The attribution from the rounds in which every station that can run was measured."""
    failed = [number for number, at in enumerate(way.stations) if _failure(tuning, at) is not None]
    kept = [number for number in range(len(way.stations)) if number not in failed or number == 0]
    told = {number: [_figure(tuning, way, number, round_) for round_ in range(way.rounds)] for number in kept}
    complete = [round_ for round_ in range(way.rounds) if all(told[number][round_] is not None for number in kept)]
    if len(complete) < FEWEST_ROUNDS:
        raise EnvironmentProblem(
            f"every configuration was measured in {len(complete)} of {way.rounds} rounds, and fewer than "
            f"{FEWEST_ROUNDS} show no spread; see why in: autotune trials {tuning.context.job.id}, then launch what "
            f"failed again: autotune explain {tuning.context.job.id}"
        )
    figures = [[told[number][round_] or 0.0 for round_ in complete] for number in kept]
    path = way.path.without([number for number in failed if number])
    return attribute(path, figures, changes(tuning.context, way.winner), winner=way.winner.number)


def _figure(tuning: Tuning, way: _Way, number: int, round_: int) -> float | None:
    """What a station reached in a round; a baseline that cannot run reaches nothing in any.

    A launch that failed though its configuration can run tells nothing.
    """
    if _failure(tuning, way.stations[number]) is not None:
        return 0.0
    row = _known(tuning, way.stations[number], _origin(number, round_), since=way.since)
    return figure(row) if row and isinstance(_outcome(row), Measured) else None


# The winner without its inert knobs


def _with_reset(tuning: Tuning, result: JobResult, winner: Trial, found: Attribution) -> JobResult:
    """The result with the attribution, and with the winner's inert knobs reset where that was confirmed."""
    inert = inert_knobs(found)
    changed = changed_knobs(tuning.context, winner)
    if not inert or set(inert) == set(changed):
        told = "no knob is inert" if not inert else "no knob has an effect that shows; the baseline may do as well"
        return _result(tuning, result, found, f"{told}: trial {winner.number} stays as it is")
    trimmed = without(tuning.context, winner, inert)
    if not can_run(tuning.context, trimmed, frozenset(changed) - set(inert), tuning.most_devices):
        return _result(
            tuning, result, found, f"{', '.join(inert)} cannot be reset alone: a rule of the space forbids it"
        )
    reset = _measured_reset(tuning, result, trimmed, inert)
    if isinstance(reset, str):
        return _result(tuning, result, found, reset)
    found = found.model_copy(update={"trial": reset.trial.number})
    if not reset.winner.holds:
        return _demoted(tuning, result, found)
    objection = _objection(reset)
    if objection:
        stay = "they stay" if len(inert) > 1 else "it stays"
        return _result(tuning, result, found, f"without {', '.join(inert)} {objection}: {stay}")
    base = next((c for c in confirmed(tuning.trials, tuning.context.spec.sla) if _is_baseline(tuning, c)), None)
    found = found.model_copy(update={"reset": inert})
    told = f"{', '.join(inert)} reset to the engine's default: trial {reset.trial.number} is recommended instead"
    kept = _result(tuning, result, found, told)
    better = recommend_reset(reset, base, tuning.context.spec.sla)
    return kept.model_copy(update={"recommendation": better, "confirmations": (*kept.confirmations, reset.again)})


def _objection(reset: Reset) -> str:
    """Why the winner keeps its inert knobs; empty when it need not."""
    if not reset.again.holds:
        return "the SLA does not hold"
    return "" if reset.keeps_up else "the engine is slower"


def _demoted(tuning: Tuning, result: JobResult, found: Attribution) -> JobResult:
    """The result of a job whose winner was never confirmed, and broke the SLA when it was measured again here."""
    told = f"trial {found.winner}, the recommendation so far, does not hold the SLA when measured again"
    kept = concluded(tuning.trials, tuning.context.spec.sla, result.stopped_by)
    return kept.model_copy(update={"attribution": found.model_copy(update={"outcome": told})})


def _measured_reset(tuning: Tuning, result: JobResult, trimmed: Station, inert: tuple[str, ...]) -> Reset | str:
    """The re-runs of the winner with and without its inert knobs; or why there are none."""
    context, winner = tuning.context, _trial(tuning, result.recommendation.trial)
    point = _point(winner, result.recommendation.level)
    turn = Turn("attribution", 1, 1)
    if not _again(tuning, winner):
        rerun = tuning.measure_again(winner, point=point, planned=(1, 2))
        _check_told(tuning, rerun)
        if not valid_runs(rerun):
            return f"{', '.join(inert)} stay: trial {winner.number} could not be confirmed, see trial {rerun.number}"
    row = _row(tuning, trimmed, f"trial {winner.number} without inert knobs", since=tuning.next_number)
    row = tuning.launch_alone(row, lambda launched: confirmation_request(context, launched, point), turn)
    _check_told(tuning, row)
    runs, theirs = valid_runs(row), _again(tuning, winner)
    if theirs is None or not runs:
        return f"{', '.join(inert)} stay: their reset could not be confirmed, see trial {row.number}"
    again, reruns = judge(row.number, runs, context.spec.sla), confirmed(tuning.trials, context.spec.sla)
    return Reset(row, theirs, again, level=point.level, knobs=inert, rivals=tuple(c for c in reruns if c.holds))


def _check_told(tuning: Tuning, row: Trial) -> None:
    """Raise EnvironmentProblem when a launch ended without a verdict: the next explanation repeats it."""
    outcome = _outcome(row)
    if isinstance(outcome, Interrupted):
        raise EnvironmentProblem(
            f"trial {row.number} was to confirm whether knobs can be reset, and ended for a reason that is not its "
            f"configuration's: {outcome.evidence.cause} Go on with: autotune explain {tuning.context.job.id}"
        )


def _again(tuning: Tuning, trial: Trial) -> Confirmation | None:
    return next((c for c in confirmed(tuning.trials, tuning.context.spec.sla) if c.trial == trial.number), None)


def _is_baseline(tuning: Tuning, found: Confirmation) -> bool:
    return _trial(tuning, found.trial).purpose == "baseline"


def _result(tuning: Tuning, result: JobResult, found: Attribution, outcome: str) -> JobResult:
    doubt = "no clear gain over the baseline; " if found.total_tok_s.contains_zero else ""
    outcome = doubt + outcome
    return result.model_copy(
        update={
            "attribution": found.model_copy(update={"outcome": outcome}),
            "confirmations": confirmed(tuning.trials, tuning.context.spec.sla),
        }
    )


def _point(trial: Trial, level: int | None) -> LoadPoint:
    assert trial.result is not None
    assert isinstance(trial.result.outcome, Measured)
    return next(point for point in trial.result.outcome.points if point.level == level)


# Rows


def _origin(number: int, round_: int) -> str:
    return f"ablation step {number} round {round_ + 1}"


def _row(tuning: Tuning, at: Station, origin: str, *, since: int) -> Trial:
    """The row of a launch: the one that there is, unless it told nothing, or a new one."""
    return _known(tuning, at, origin, since=since) or Trial(
        number=tuning.next_number,
        purpose="ablation",
        origin=origin,
        knobs=dict(at.knobs),
        config=at.config,
        started_at=utc_now(),
    )


def _known(tuning: Tuning, at: Station, origin: str, *, since: int) -> Trial | None:
    """The row of a launch that told something.

    The failure of a configuration that can run was the machine's: an explanation before `since` has told nothing by it.
    """
    alike = [t for t in tuning.trials if (t.purpose, t.origin, t.config.hash) == ("ablation", origin, at.config.hash)]
    if _was_measured(tuning, at):
        alike = [t for t in alike if t.number >= since or not isinstance(_outcome(t), Infeasible)]
    return next((trial for trial in alike if not was_interrupted(trial)), None)


def _failure(tuning: Tuning, at: Station) -> str | None:
    """Why this very configuration cannot run: a trial of the job found that out, and none ever measured it.

    It is not tried again.
    """
    if _was_measured(tuning, at):
        return None
    outcomes = (_outcome(trial) for trial in tuning.trials if trial.config.hash == at.config.hash)
    return next((outcome.evidence.cause for outcome in outcomes if isinstance(outcome, Infeasible)), None)


def _was_measured(tuning: Tuning, at: Station) -> bool:
    return any(isinstance(_outcome(t), Measured) for t in tuning.trials if t.config.hash == at.config.hash)


def _outcome(trial: Trial) -> TrialOutcome | None:
    return trial.result.outcome if trial.result else None


def _trial(tuning: Tuning, number: int | None) -> Trial:
    return next(trial for trial in tuning.trials if trial.number == number)
