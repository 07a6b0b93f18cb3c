"""Whose effect a gain is, on a played engine whose throughput is a known function of its knobs."""

import contextlib
import dataclasses
import io
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from autotune.cli import run
from autotune.cli.outcome import INTERRUPTED
from autotune.errors import EnvironmentProblem, InputError
from autotune.results import FailureClass, Job, JobStatus, LoadPoint, Measured, Trial
from autotune.settings import Settings
from autotune.store import SharedStore
from autotune.trial import TrialRequest
from autotune.tuner.events import Event
from autotune.tuner.explain import explain_job, is_unfinished
from autotune.tuner.loop import JobCancelled

play = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "data" / "played_job.py")))

MakePoint = Callable[..., LoadPoint]
Script = Callable[[TrialRequest], Any]

SEATS, TOKENS, BLOCK = "max_num_seqs", "max_num_batched_tokens", "block_size"
SPACE = {
    "version": 1,
    "name": "known",
    "parameters": {
        BLOCK: {"type": "int", "values": [16, 128]},
        TOKENS: {"type": "int", "values": [2048, 8192]},
        SEATS: {"type": "int", "values": [16, 64]},
    },
    "starting_points": {
        "baseline": {SEATS: 16, TOKENS: 2048, BLOCK: 128},
        "winner": {SEATS: 64, TOKENS: 8192, BLOCK: 16},
    },
}
# The first search trial is the winner of all three knobs; two runs confirm it, so a path has two rounds.
BUDGET = {"trials": 1, "confirm_top": 1, "confirm_runs": 2}
WHOLE_SPACE = {**BUDGET, "trials": 7}


def known_throughput(arguments: dict[str, Any]) -> float:
    """500, 60 more with the tokens, 100 more with the seats, and 40 more with both; the block does nothing."""
    tokens, seats = arguments.get(TOKENS) == 8192, arguments.get(SEATS) == 64
    return 500.0 + 60 * tokens + 100 * seats + 40 * (tokens and seats)


@pytest.fixture
def engine(make_point: MakePoint) -> Script:
    """Both levels keep the SLA; what one trace has in common makes all throughputs of its seed higher alike."""

    def script(request: TrialRequest) -> Any:
        seeds = request.confirm_seeds or (request.search_seed,) * len(request.levels)
        levels = request.levels * (len(seeds) // len(request.levels))
        points = tuple(
            make_point(
                100.0,
                known_throughput(request.config.arguments) + 10 * (seed % 7) + level.number,
                level=level.number,
                value=level.value,
            ).model_copy(update={"seed": seed})
            for level, seed in zip(levels, seeds, strict=True)
        )
        return play.Play(Measured(points=points, operating_level=points[-1].level))

    return script


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Any]:
    """A job of one search trial, the winner; not run yet."""
    with play.played(tmp_path, BUDGET, space=SPACE, store_of=SharedStore) as job:
        yield job


def explain(job: Any, stage: Any) -> Job:
    """One process that explains the job and ends."""
    return explain_job(job.context, job.books(), stage, play.ignore)


def ablations(job: Any) -> list[Trial]:
    return [trial for trial in job.trials if trial.purpose == "ablation"]


# The path


def test_a_known_gain_is_attributed_to_the_knobs_it_comes_from(home: Any, engine: Script):
    """In the order of the space, for two trials teach a model nothing: block 0, tokens 60, then seats 100 + 40."""
    home.run(play.Stage(engine))
    found = explain(home, play.Stage(engine)).result.attribution
    assert [[change.name for change in step.changes] for step in found.steps] == [[BLOCK], [TOKENS], [SEATS]]
    assert [step.gain_tok_s.value for step in found.steps] == [0.0, 60.0, 140.0]
    assert [step.share for step in found.steps] == [0.0, 0.3, 0.7]
    assert [step.verdict for step in found.steps] == ["inert", "gain", "gain"]
    assert (found.winner, found.rounds, found.total_tok_s.value) == (1, 2, 200.0)


def test_the_jobs_own_trials_tell_the_order(tmp_path: Path, engine: Script):
    """All configurations are known then: the seats promise 100 and the tokens 60, after the seats 100."""
    with play.played(tmp_path, WHOLE_SPACE, space=SPACE) as job:
        job.run(play.Stage(engine))
        found = explain(job, play.Stage(engine)).result.attribution
    assert [step.changes[0].name for step in found.steps] == [SEATS, TOKENS, BLOCK]
    assert [step.gain_tok_s.value for step in found.steps] == [100.0, 100.0, 0.0]


def test_every_configuration_is_launched_once_a_round_with_the_rounds_trace_and_every_other_round_goes_back(
    home: Any, engine: Script
):
    home.run(play.Stage(engine))
    stage = play.Stage(engine)
    explain(home, stage)
    path = stage.launched[:8]
    given = [frozenset(request.config.arguments) & {SEATS, TOKENS, BLOCK} for request in path]
    forth = [frozenset(), {BLOCK}, {BLOCK, TOKENS}, {BLOCK, TOKENS, SEATS}]
    assert given == [*forth, *reversed(forth)]
    seeds = [request.search_seed for request in path]
    assert len(set(seeds[:4])) == len(set(seeds[4:])) == 1
    assert len({*seeds, home.context.spec.seed}) == 3
    assert [request.levels for request in path] == [home_levels(home)] * 8


def home_levels(job: Any) -> Any:
    from autotune.workload import given_levels

    return given_levels(job.context.workload)


def test_what_a_round_has_in_common_does_not_widen_an_interval(home: Any, engine: Script):
    home.run(play.Stage(engine))
    found = explain(home, play.Stage(engine)).result.attribution
    assert [(step.gain_tok_s.low, step.gain_tok_s.high) for step in found.steps] == [(0, 0), (60, 60), (140, 140)]


def test_a_step_that_does_not_start_is_joined_with_the_next_and_not_launched_again(home: Any, engine: Script):
    """Without the seats the tokens crash the engine."""

    def script(request: TrialRequest) -> Any:
        crashes = request.config.arguments.get(TOKENS) == 8192 and SEATS not in request.config.arguments
        return play.infeasible(FailureClass.OOM) if crashes else engine(request)

    home.run(play.Stage(script))
    found = explain(home, play.Stage(script)).result.attribution
    assert [[change.name for change in step.changes] for step in found.steps] == [[BLOCK], [TOKENS, SEATS]]
    assert [step.gain_tok_s.value for step in found.steps] == [0.0, 200.0]
    assert sum(trial.origin.startswith("ablation step 2") for trial in ablations(home)) == 1


def test_a_baseline_that_meets_the_sla_nowhere_serves_nothing(home: Any, engine: Script, make_point: MakePoint):
    def script(request: TrialRequest) -> Any:
        if request.config.arguments.get(SEATS) == 64:
            return engine(request)
        return play.Play(Measured(points=(make_point(900.0),), operating_level=None))

    home.run(play.Stage(script))
    found = explain(home, play.Stage(script)).result.attribution
    assert found.baseline_tok_s == 0.0
    assert found.steps[-1].gain_tok_s.value == found.total_tok_s.value == found.winner_tok_s


# Knobs without effect


def test_an_inert_knob_is_reset_and_the_rest_is_measured_again_and_recommended(home: Any, engine: Script):
    before = home.run(play.Stage(engine))
    after = explain(home, play.Stage(engine))
    choice, found = after.result.recommendation, after.result.attribution
    row = home.trials[-1]
    assert (choice.trial, choice.confirmed, found.trial, found.reset) == (row.number, True, row.number, (BLOCK,))
    assert (row.config.arguments.keys() & {SEATS, TOKENS, BLOCK}) == {SEATS, TOKENS}
    assert row.knobs == {SEATS: 64, TOKENS: 8192, BLOCK: 128}
    assert choice.reason.startswith(
        f"trial 1 without its inert knobs ({BLOCK} at the engine's default); confirmed by 2"
    )
    assert choice.versus_baseline.throughput_difference_tok_s == 200.0
    assert [c.trial for c in after.result.confirmations] == [0, 1, row.number]
    assert after.result.front == before.result.front


@pytest.mark.parametrize(
    ("throughput", "ttft_ms", "why"), [(-200.0, 100.0, "the engine is slower"), (0.0, 900.0, "the SLA does not hold")]
)
def test_a_reset_that_is_worse_stays_out_of_the_recommendation(
    throughput: float, ttft_ms: float, why: str, home: Any, engine: Script, make_point: MakePoint
):
    """The block does nothing but where it is reset alone."""

    def script(request: TrialRequest) -> Any:
        if not request.confirm_seeds or BLOCK in request.config.arguments or SEATS not in request.config.arguments:
            return engine(request)
        points = [
            make_point(ttft_ms, 700.0 + throughput, level=request.levels[0].number).model_copy(update={"seed": seed})
            for seed in request.confirm_seeds
        ]
        return play.Play(Measured(points=tuple(points), operating_level=None))

    home.run(play.Stage(script))
    result = explain(home, play.Stage(script)).result
    assert result.recommendation.trial == 1
    assert result.attribution.reset == ()
    assert why in result.attribution.outcome


def test_without_an_inert_knob_nothing_more_is_launched(home: Any, engine: Script):
    def script(request: TrialRequest) -> Any:
        played = engine(request)
        faster = 30.0 * (request.config.arguments.get(BLOCK) == 16)
        points = [
            p.model_copy(update={"output_throughput": p.output_throughput + faster}) for p in played.outcome.points
        ]
        return play.Play(played.outcome.model_copy(update={"points": tuple(points)}))

    home.run(play.Stage(script))
    stage = play.Stage(script)
    result = explain(home, stage).result
    assert len(stage.launched) == 8
    assert (result.recommendation.trial, result.attribution.trial) == (1, None)
    assert result.attribution.outcome == "no knob is inert: trial 1 stays as it is"


def test_an_unconfirmed_winner_is_measured_again_before_it_is_compared(tmp_path: Path, engine: Script):
    with play.played(tmp_path, {**BUDGET, "confirm_top": 0}, space=SPACE) as job:
        job.run(play.Stage(engine))
        result = explain(job, play.Stage(engine)).result
    assert [c.trial for c in result.confirmations] == [1, result.recommendation.trial]
    assert "the baseline was not measured again" in result.recommendation.reason


# The job meanwhile


def test_the_search_its_budget_and_its_study_know_nothing_of_an_explanation(home: Any, engine: Script):
    before = home.run(play.Stage(engine))
    after = explain(home, play.Stage(engine))
    assert (after.status, after.worked_s, after.finished_at) == (
        JobStatus.SUCCEEDED,
        before.worked_s,
        before.finished_at,
    )
    assert after.result.stopped_by == before.result.stopped_by
    assert home.study.differences(home.trials) == []
    assert len(ablations(home)) == 9


def test_an_explained_job_is_not_launched_again(home: Any, engine: Script):
    home.run(play.Stage(engine))
    explained = explain(home, play.Stage(engine))
    stage = play.Stage(engine)
    assert explain(home, stage) == explained
    assert stage.launched == []


def killed_at(number: int, engine: Script) -> Script:
    def script(request: TrialRequest) -> Any:
        if request.number == number:
            raise play.Killed
        return engine(request)

    return script


def dead(event: Event) -> None:
    """A process that was killed does not tidy up."""
    if event.phase == "stopping":
        raise play.Killed


@pytest.mark.parametrize("number", [4, 7, 12])
def test_an_explanation_that_was_killed_goes_on_where_it_stood(number: int, home: Any, engine: Script):
    """Rows 4 to 11 are the path, row 12 the winner without its inert knob."""
    before = home.run(play.Stage(engine))
    with pytest.raises(play.Killed):
        explain_job(home.context, home.books(), play.Stage(killed_at(number, engine)), dead)
    assert home.job == before
    assert is_unfinished(home.job, home.trials)
    stage = play.Stage(engine)
    after = explain(home, stage)
    assert stage.numbers == list(range(number, 13))
    assert after.result.attribution.total_tok_s.value == 200.0
    assert not is_unfinished(home.job, home.trials)


def stopping_at(number: int, engine: Script, stop: Callable[[], None]) -> Script:
    def script(request: TrialRequest) -> Any:
        if request.number == number:
            stop()
        return engine(request)

    return script


def test_a_cancel_ends_an_explanation_and_leaves_the_job_as_it_was(home: Any, engine: Script):
    """The cancelled launch told nothing, and comes again under a new number."""
    before = home.run(play.Stage(engine))
    with pytest.raises(JobCancelled):
        explain(home, play.Stage(stopping_at(6, engine, lambda: home.store.request_cancel(home.context.job.id))))
    assert home.job == before
    assert all(trial.result is not None for trial in home.trials)
    stage = play.Stage(engine)
    assert explain(home, stage).result.attribution is not None
    assert stage.numbers == [7, 8, 9, 10, 11, 12, 13]


def test_a_ctrl_c_keeps_what_was_measured_and_the_earlier_result(home: Any, engine: Script):
    def press() -> None:
        raise KeyboardInterrupt

    before = home.run(play.Stage(engine))
    with pytest.raises(KeyboardInterrupt):
        explain(home, play.Stage(stopping_at(6, engine, press)))
    assert home.job == before
    measured = [trial.number for trial in ablations(home) if isinstance(trial.result.outcome, Measured)]
    assert measured == [4, 5]


def test_a_machine_that_is_not_fit_ends_the_explanation_and_not_the_job(home: Any, engine: Script):
    before = home.run(play.Stage(engine))
    with pytest.raises(EnvironmentProblem, match="there are 0"):
        explain(home, play.Stage(engine, devices=0))
    assert home.job == before


def test_a_winner_that_does_not_start_again_is_told_at_once(home: Any, engine: Script):
    before = home.run(play.Stage(engine))
    with pytest.raises(EnvironmentProblem, match="trial 1, the recommendation, did not start again: It failed"):
        explain(
            home,
            play.Stage(failing_at(engine, 7)),
        )
    assert home.job == before


def failing_at(engine: Script, *numbers: int, failure: FailureClass = FailureClass.OOM) -> Script:
    def script(request: TrialRequest) -> Any:
        if request.number not in numbers:
            return engine(request)
        return play.interrupted(failure) if failure is FailureClass.CANCELLED else play.infeasible(failure)

    return script


def test_a_winner_that_did_not_start_once_is_launched_again_by_the_next_explanation(home: Any, engine: Script):
    home.run(play.Stage(engine))
    with pytest.raises(EnvironmentProblem):
        explain(home, play.Stage(failing_at(engine, 7)))
    stage = play.Stage(engine)
    assert explain(home, stage).result.attribution.total_tok_s.value == 200.0
    assert stage.numbers == [8, 9, 10, 11, 12, 13]


def test_a_failed_launch_of_a_baseline_that_can_run_costs_its_round_and_not_its_throughput(
    tmp_path: Path, engine: Script
):
    """Rows 4 to 7 are the first of three rounds."""
    with play.played(tmp_path, {**BUDGET, "confirm_runs": 3}, space=SPACE) as job:
        job.run(play.Stage(engine))
        found = explain(job, play.Stage(failing_at(engine, 4))).result.attribution
    assert (found.rounds, found.total_tok_s.value) == (2, 200.0)


def test_one_whole_round_is_too_few_and_the_next_explanation_mends_the_other(home: Any, engine: Script):
    before = home.run(play.Stage(engine))
    with pytest.raises(EnvironmentProblem, match="measured in 1 of 2 rounds"):
        explain(home, play.Stage(failing_at(engine, 4)))
    assert home.job == before
    stage = play.Stage(engine)
    assert explain(home, stage).result.attribution.rounds == 2
    assert stage.numbers == [12, 13]


def test_a_reset_that_was_interrupted_is_measured_by_the_next_explanation(home: Any, engine: Script):
    before = home.run(play.Stage(engine))
    with pytest.raises(EnvironmentProblem, match="trial 12 was to confirm whether knobs can be reset"):
        explain(home, play.Stage(failing_at(engine, 12, failure=FailureClass.CANCELLED)))
    assert home.job == before
    stage = play.Stage(engine)
    assert explain(home, stage).result.recommendation.trial == 13
    assert stage.numbers == [13]


def test_the_row_is_named_in_which_the_winner_did_not_start_again(tmp_path: Path, engine: Script):
    """Without a confirmation the path is rows 2 to 9, and row 10 measures the winner again."""
    with play.played(tmp_path, {**BUDGET, "confirm_top": 0}, space=SPACE) as job:
        job.run(play.Stage(engine))
        found = explain(job, play.Stage(failing_at(engine, 10))).result.attribution
    assert found.outcome == "block_size stay: trial 1 could not be confirmed, see trial 10"


def test_a_winner_that_breaks_the_sla_when_it_is_measured_again_is_no_longer_recommended(
    tmp_path: Path, engine: Script, make_point: MakePoint
):
    def script(request: TrialRequest) -> Any:
        late = make_point(900.0, 700.0, level=request.levels[0].number, value=request.levels[0].value)
        return (
            play.Play(Measured(points=(late, late), operating_level=None)) if request.number == 10 else engine(request)
        )

    with play.played(tmp_path, {**BUDGET, "confirm_top": 0}, space=SPACE) as job:
        job.run(play.Stage(engine))
        result = explain(job, play.Stage(script)).result
    assert result.recommendation.trial is None
    assert result.recommendation.reason.startswith("nothing holds the SLA when measured again; the closest was trial 1")
    assert result.attribution.outcome.startswith("trial 1, the recommendation so far, does not hold the SLA")


def test_a_reset_that_is_slower_is_not_excused_by_the_scatter_of_its_runs(
    home: Any, engine: Script, make_point: MakePoint
):
    """The second run is 13 % slower in the mean, and the interval of the difference is wide."""

    def script(request: TrialRequest) -> Any:
        if request.number != 12:
            return engine(request)
        level = request.levels[0]
        points = [
            make_point(100.0, throughput, level=level.number, value=level.value).model_copy(update={"seed": seed})
            for seed, throughput in zip(request.confirm_seeds, (710.0, 500.0), strict=True)
        ]
        return play.Play(Measured(points=tuple(points), operating_level=level.number))

    home.run(play.Stage(engine))
    result = explain(home, play.Stage(script)).result
    assert (result.recommendation.trial, result.attribution.reset) == (1, ())


@pytest.mark.parametrize("failure", [KeyboardInterrupt, EnvironmentProblem])
def test_a_run_whose_explanation_does_not_end_well_has_shown_and_written_its_result(
    failure: type[BaseException], home: Any, engine: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """And the same files go on with that job."""

    def fail() -> None:
        raise failure("no more")

    stage = play.Stage(stopping_at(6, engine, fail))
    monkeypatch.setattr(run, "open_fleet", lambda *_: contextlib.nullcontext(stage))
    console, best = Console(file=io.StringIO(), width=200), tmp_path / "best.yaml"
    wanted = pytest.raises(failure) if failure is EnvironmentProblem else contextlib.nullcontext()
    job, settings = asking(home), Settings(home=tmp_path)
    with wanted:
        assert run._work(console, job.context, settings, home.store, run.Outputs(best, None)) == INTERRUPTED
    assert "max-num-seqs: 64" in best.read_text()
    shown = console.file.getvalue()
    assert "recommendation: " in shown
    assert shown.find("explanation stopped") > shown.find("recommendation: ") or failure is EnvironmentProblem
    assert run._unfinished(home.store, home.context).id == home.context.job.id


def test_a_job_that_was_explained_is_not_gone_on_with(home: Any, engine: Script):
    home.run(play.Stage(engine))
    explain(home, play.Stage(engine))
    assert run._unfinished(home.store, home.context) is None


def test_a_total_that_may_be_nothing_is_no_clear_gain(home: Any, engine: Script):
    """In the second round, rows 8 to 11, the winner is far slower than in the first."""

    def script(request: TrialRequest) -> Any:
        played = engine(request)
        if request.number != 8:
            return played
        points = [p.model_copy(update={"output_throughput": 400.0}) for p in played.outcome.points]
        return play.Play(played.outcome.model_copy(update={"points": tuple(points)}))

    home.run(play.Stage(script))
    found = explain(home, play.Stage(script)).result.attribution
    assert found.outcome.startswith("no clear gain over the baseline; ")
    assert {step.share for step in found.steps} == {None}


def test_a_profile_whose_arguments_have_changed_since_is_refused(home: Any, engine: Script):
    home.run(play.Stage(engine))
    profile = home.context.profile.model_copy(update={"arguments": {"swap_space": 8}})
    job = dataclasses.replace(home, context=dataclasses.replace(home.context, profile=profile))
    stage = play.Stage(engine)
    with pytest.raises(InputError, match="trial 1 was launched with other arguments than the engine profile"):
        explain(job, stage)
    assert stage.launched == []


def test_a_cancel_that_comes_as_the_job_ends_stops_its_explanation(home: Any, engine: Script):
    """The last question to the job's row was answered; its end is being written."""
    store, finish = home.store, home.store.finish_job

    class Late:
        """The job's store, but somebody cancels just before the end is written."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def finish_job(self, lease: Any, *given: Any, **named: Any) -> None:
            store.request_cancel(lease.job_id)
            finish(lease, *given, **named)

    asked = asking(home)
    ended = dataclasses.replace(asked, store=Late()).run(play.Stage(engine))
    assert (ended.status, ended.result.attribution) == (JobStatus.SUCCEEDED, None)
    assert ablations(home) == []


# A job that asks for it


def asking(job: Any) -> Any:
    context = job.context
    return dataclasses.replace(
        job, context=dataclasses.replace(context, spec=context.spec.model_copy(update={"attribution": True}))
    )


def test_a_job_may_ask_for_its_explanation(home: Any, engine: Script):
    ended = asking(home).run(play.Stage(engine))
    assert ended.status is JobStatus.SUCCEEDED
    assert ended.result.attribution.total_tok_s.value == 200.0


def test_a_job_that_asks_has_succeeded_whatever_ends_its_explanation(home: Any, engine: Script):
    def press() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asking(home).run(play.Stage(stopping_at(6, engine, press)))
    assert home.job.status is JobStatus.SUCCEEDED
    assert home.job.result.recommendation.trial == 1


def test_a_job_whose_baseline_is_the_best_has_nothing_to_explain(home: Any, make_point: MakePoint, engine: Script):
    def script(request: TrialRequest) -> Any:
        point = make_point(100.0, 900.0, level=request.levels[0].number, value=request.levels[0].value)
        given = request.config.arguments.keys() & {SEATS, TOKENS, BLOCK}
        return engine(request) if given else play.Play(Measured(points=(point,) * 2, operating_level=point.level))

    stage = play.Stage(script)
    assert asking(home).run(stage).result.attribution is None
    assert len(stage.launched) == 4
    with pytest.raises(InputError, match="recommends its baseline, trial 0, so there is no gain to explain"):
        explain(home, play.Stage(script))


def test_only_a_job_that_has_succeeded_is_explained(home: Any, engine: Script):
    with pytest.raises(InputError, match="is queued; only a job that has succeeded"):
        explain(home, play.Stage(engine))
