"""Trials in virtual time: what comes out of a level, and that equal requests have equal results."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from autotune.engine_config import EngineConfig
from autotune.engines.simulated import options
from autotune.engines.simulated.core import Core
from autotune.engines.simulated.launch import prepare
from autotune.engines.simulated.model import read
from autotune.engines.simulated.replay import play
from autotune.engines.simulated.scheduler import Request
from autotune.level_run import Hopeless, LevelWatch, RequestRecord, ended_early
from autotune.loading import load
from autotune.model_card import read_model
from autotune.results import FailureClass, Infeasible, Interrupted, Load, Measured
from autotune.settings import built_in_profiles
from autotune.spec import Sla
from autotune.trial.request import Control, TrialRequest
from autotune.trial.virtual import run_virtual
from autotune.workload import LevelPlan, PlannedRequest, Workload, given_levels

ROOT = Path(__file__).parents[2]
TINY = ROOT / "autotune" / "demo" / "tiny-llama"
DEMO = load((ROOT / "workloads" / "demo.yaml").read_text(), Workload, source="demo")


def trial(folder: Path, knobs: dict[str, Any] | None = None, **changes: Any) -> TrialRequest:
    base = TrialRequest(
        job="virtual",
        number=1,
        config=EngineConfig(
            arguments={"load_format": "dummy", "enforce_eager": True, "max_model_len": 64, **(knobs or {})},
            environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
        ),
        profile=built_in_profiles()["simulated"],
        resource="CPU",
        model=read_model(TINY),
        engine_version="vllm-simulated",
        workload=DEMO,
        sla=Sla(p99_ttft_ms=5000.0),
        levels=given_levels(DEMO),
        search_seed=1,
        confirm_seeds=(),
        folder=folder,
    )
    return dataclasses.replace(base, **changes)


def measured(request: TrialRequest) -> Measured:
    outcome = run_virtual(request).outcome
    assert isinstance(outcome, Measured), outcome
    return outcome


def core(*words: str) -> Core:
    asked = options.read(["serve", str(TINY), "--max-model-len", "256", *words], {"VLLM_CPU_KVCACHE_SPACE": "1"})
    return Core(prepare(asked, read(TINY)))


def plan(*requests: tuple[float, int, int], users: int | None = None, timeout_s: float = 300.0) -> LevelPlan:
    """A level of (offset in s, prompt tokens, answer tokens)."""
    planned = tuple(
        PlannedRequest(index, offset_s, tuple(range(index, index + prompt)), answer)
        for index, (offset_s, prompt, answer) in enumerate(requests)
    )
    kind = "request_rate" if users is None else "max_concurrency"
    return LevelPlan(Load(kind=kind, value=1.0), planned, users, timeout_s, seed=0)


def played(engine: Core, level: LevelPlan) -> list[RequestRecord]:
    return list(play(engine, level, LevelWatch()).records)


def test_every_request_gets_its_tokens() -> None:
    records = played(core(), plan((0.0, 10, 5), (0.5, 20, 3)))
    assert [(r.index, r.input_tokens, r.output_tokens, len(r.token_times_s), r.error) for r in records] == [
        (0, 10, 5, 5, None),
        (1, 20, 3, 3, None),
    ]


def test_an_open_loop_sends_at_its_offsets_and_the_engine_waits_for_them() -> None:
    records = played(core(), plan((0.25, 10, 2), (3.0, 10, 2)))
    assert [record.sent_s for record in records] == [0.25, 3.0]
    assert records[0].end_s < 1.0
    assert records[1].token_times_s[0] > 3.0


def test_a_user_of_a_closed_loop_sends_when_the_last_answer_is_there() -> None:
    records = played(core(), plan((0.0, 10, 4), (0.0, 10, 4), (0.0, 10, 4), users=1))
    assert [records[1].sent_s, records[2].sent_s] == [records[0].end_s, records[1].end_s]


def behind_a_gateway(level: LevelPlan, places: int) -> LevelPlan:
    """The same open loop with this many requests in flight at most."""
    return dataclasses.replace(level, max_concurrency=places)


def test_an_open_loop_with_a_limit_sends_when_a_place_is_free() -> None:
    """The first waits for none, the second and third in their order, the last comes when all is done."""
    level = behind_a_gateway(plan((0.0, 10, 8), (0.001, 10, 4), (0.002, 10, 4), (5.0, 10, 2)), 1)
    records = played(core(), level)
    assert [record.scheduled_s for record in records] == [0.0, 0.001, 0.002, 5.0]
    assert [record.free_s for record in records] == [None, records[0].end_s, records[1].end_s, None]
    assert [record.sent_s for record in records] == [0.0, records[0].end_s, records[1].end_s, 5.0]
    assert [record.lag_s for record in records] == [0.0, 0.0, 0.0, 0.0]


def test_a_request_that_comes_just_before_a_place_is_free_waits_for_it() -> None:
    """It comes during the step of the engine in which the one before ends, or is given up."""
    (alone,) = played(core(), plan((0.0, 10, 8)))
    _, after_an_answer = played(core(), behind_a_gateway(plan((0.0, 10, 8), (alone.end_s - 1e-6, 10, 8)), 1))
    assert after_an_answer.free_s == alone.end_s
    level = plan((0.0, 10, 200), (1.0 - 1e-6, 10, 8), timeout_s=1.0)
    _, after_a_time_out = played(core("--enforce-eager"), behind_a_gateway(level, 1))
    assert after_a_time_out.free_s == 1.0


def test_the_time_out_of_a_request_that_waited_counts_from_its_sending() -> None:
    level = behind_a_gateway(plan((0.0, 10, 200), (0.0, 10, 200), timeout_s=1.0), 1)
    records = played(core("--enforce-eager"), level)
    assert [(record.sent_s, record.end_s) for record in records] == [(0.0, 1.0), (1.0, 2.0)]


def test_a_limit_that_is_never_reached_changes_nothing() -> None:
    level = plan(*((0.05 * n, 20, 10) for n in range(20)))
    assert played(core(), behind_a_gateway(level, 20)) == played(core(), level)


def in_one_conversation(level: LevelPlan, *turns: int, pause_s: float = 0.0) -> LevelPlan:
    """The same plan with these requests as the turns of one conversation."""
    before = dict(zip(turns[1:], turns, strict=False))
    requests = tuple(
        dataclasses.replace(one, follows=before[one.index], pause_s=pause_s) if one.index in before else one
        for one in level.requests
    )
    return dataclasses.replace(level, requests=requests)


def test_a_turn_is_scheduled_a_pause_after_the_end_of_the_one_before() -> None:
    level = in_one_conversation(plan((0.5, 10, 4), (0.0, 10, 4), (0.0, 10, 4)), 0, 2, pause_s=0.25)
    records = played(core(), level)
    assert [record.scheduled_s for record in records] == [0.5, 0.0, records[0].end_s + 0.25]


def test_a_user_of_a_closed_loop_takes_a_whole_conversation_before_the_next() -> None:
    level = plan((0.0, 10, 4), (0.0, 10, 4), (0.0, 10, 4), users=1)
    first, other, second = played(core(), in_one_conversation(level, 0, 2, pause_s=0.25))
    assert second.scheduled_s == pytest.approx(first.end_s + 0.25)
    assert other.scheduled_s == second.end_s


def test_after_a_failed_turn_the_next_is_sent_all_the_same() -> None:
    first, second = played(core(), in_one_conversation(plan((0.0, 250, 20), (0.0, 10, 2)), 0, 1, pause_s=0.1))
    assert (first.error is None, second.error) == (False, None)
    assert second.scheduled_s == pytest.approx(0.1)


HOPELESS = Hopeless("ttft", 0.05, 3)
OVERLOAD = plan(*((0.01 * n, 20, 10) for n in range(50)))


def test_a_level_out_of_reach_ends_early() -> None:
    """Too many wait for their first token: the late ones come home unfinished, those that are not late do not."""
    engine = core("--enforce-eager", "--max-num-seqs", "2")
    run = play(engine, OVERLOAD, LevelWatch(hopeless=(HOPELESS,)))
    late = [record for record in run.records if record.unfinished]
    assert (run.aborted, run.planned) == (True, 50)
    assert late
    assert len(run.records) < 50
    assert {record.error for record in late} == {"the level was ended early: the SLA was out of reach"}
    assert all(record.end_s - record.scheduled_s > 0.05 for record in late)
    assert (engine.idle, engine.state.pool.used) == (True, 0)


def test_a_level_that_ends_early_is_the_beginning_of_the_whole_one() -> None:
    """What was answered until then is the same, and the end is the next step after the time that the records tell."""
    whole = played(core("--enforce-eager", "--max-num-seqs", "2"), OVERLOAD)
    run = play(core("--enforce-eager", "--max-num-seqs", "2"), OVERLOAD, LevelWatch(hopeless=(HOPELESS,)))
    early_s = ended_early(whole, (HOPELESS,))
    ended_s = max(record.end_s for record in run.records)
    assert early_s is not None
    assert early_s <= ended_s
    assert not [time_s for record in whole for time_s in record.token_times_s if early_s < time_s < ended_s]
    answered = [record for record in run.records if not record.unfinished]
    assert answered == [record for record in whole if record.end_s <= ended_s]


def test_running_ahead_does_not_move_an_early_end(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = LevelWatch(hopeless=(Hopeless("e2el", 0.4, 2),))
    level = plan(*((0.0, 10, 100) for _ in range(8)))
    jumped = play(core("--max-num-seqs", "4"), level, watch)
    monkeypatch.setattr(Core, "skip", lambda _self, _until_s: None)
    assert play(core("--max-num-seqs", "4"), level, watch) == jumped
    assert jumped.aborted


def test_a_request_that_waits_for_a_place_is_late_too() -> None:
    run = play(core("--enforce-eager"), behind_a_gateway(OVERLOAD, 1), LevelWatch(hopeless=(HOPELESS,)))
    waiting = [record for record in run.records if record.unfinished and not record.token_times_s]
    assert run.aborted
    assert waiting
    assert {record.lag_s for record in waiting} == {0.0}


def test_a_level_within_its_rules_is_as_without_them() -> None:
    watch = LevelWatch(hopeless=(Hopeless("ttft", 60.0, 0), Hopeless("e2el", 60.0, 0)))
    assert play(core(), OVERLOAD, watch) == play(core(), OVERLOAD, LevelWatch())


def test_a_level_starts_where_the_last_one_ended() -> None:
    """The prefix cache stays warm; times are from the level's own start."""
    engine = core("--block-size", "32")
    level = plan((0.0, 100, 2), users=1)
    first, second = played(engine, level)[0], played(engine, level)[0]
    assert engine.state.cache_hits == 96
    assert second.token_times_s[0] < first.token_times_s[0]


def test_a_request_that_takes_too_long_fails_and_is_dropped() -> None:
    engine = core("--enforce-eager", "--max-num-seqs", "1")
    records = played(engine, plan((0.0, 10, 200), (0.0, 10, 20), timeout_s=1.0))
    assert [record.error for record in records] == ["no complete answer within 1 s"] * 2
    assert [record.end_s for record in records] == [1.0, 1.0]
    assert (engine.idle, engine.state.pool.used) == (True, 0)


def test_an_answer_whose_last_token_comes_after_the_deadline_is_a_failure() -> None:
    """The one step takes longer than 1 ms; the user gives up at the deadline and sends the next question then."""
    engine = core()
    records = played(engine, plan((0.0, 10, 1), (0.0, 10, 1), users=1, timeout_s=0.001))
    assert [record.error for record in records] == ["no complete answer within 0.001 s"] * 2
    assert [(record.sent_s, record.end_s) for record in records] == [(0.0, 0.001), (0.001, 0.002)]
    assert [record.token_times_s for record in records] == [(), ()]
    assert (engine.idle, engine.state.pool.used) == (True, 0)


def test_an_answer_that_is_complete_at_the_deadline_counts() -> None:
    (record,) = played(core(), plan((0.0, 10, 5)))
    (again,) = played(core(), plan((0.0, 10, 5), timeout_s=record.end_s))
    assert again == record


def test_no_request_that_can_never_fit_gets_into_the_engine() -> None:
    with pytest.raises(ValueError, match="250 \\+ 20 tokens, of 256"):
        core().submit(Request(number=1, arrival_s=0.0, prompt_tokens=250, max_tokens=20))


def test_a_request_beyond_the_models_length_is_refused() -> None:
    records = played(core(), plan((0.0, 250, 20), (0.0, 10, 2), users=1))
    assert [record.error for record in records] == [
        "HTTP 400: This model's maximum context length is 256 tokens.",
        None,
    ]


@pytest.mark.parametrize("places", [4, 7, 60])
def test_running_ahead_changes_nothing(places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are jumped over give the same stamps, to the last bit, as steps taken one by one."""
    level = plan(*((0.07 * n, 5 + 7 * n % 40, 1 + 13 * n % 60) for n in range(60)))
    level = in_one_conversation(behind_a_gateway(level, places), 3, 17, 29, 40, pause_s=0.2)
    words = ("--max-num-seqs", "5", "--max-num-batched-tokens", "24", "--block-size", "32")
    ahead = core(*words)
    jumped = played(ahead, level)
    monkeypatch.setattr(Core, "skip", lambda _self, _until_s: None)
    single = core(*words)
    assert played(single, level) == jumped
    assert (single.totals, single.state.preemptions) == (ahead.totals, ahead.state.preemptions)


def test_the_same_request_has_the_same_result(tmp_path: Path) -> None:
    first, second = run_virtual(trial(tmp_path / "a")), run_virtual(trial(tmp_path / "b"))
    assert first == second


def test_few_slots_keep_tokens_fast_and_make_others_wait(tmp_path: Path) -> None:
    few = measured(trial(tmp_path / "few", {"max_num_seqs": 8})).points[-1]
    many = measured(trial(tmp_path / "many", {"max_num_seqs": 64})).points[-1]
    assert few.ttft.at(99).value_ms > 2 * many.ttft.at(99).value_ms
    assert few.tpot.at(99).value_ms < many.tpot.at(99).value_ms
    assert few.output_throughput < many.output_throughput


def test_throughput_rises_with_load(tmp_path: Path) -> None:
    rates = [point.output_throughput for point in measured(trial(tmp_path)).points]
    assert rates == sorted(rates)


def test_eager_mode_is_slower(tmp_path: Path) -> None:
    eager = measured(trial(tmp_path / "eager")).points[-1].output_throughput
    compiled = measured(trial(tmp_path / "compiled", {"enforce_eager": False})).points[-1].output_throughput
    assert compiled > 1.2 * eager


def test_the_engines_counters_are_in_every_load_point(tmp_path: Path) -> None:
    for point in measured(trial(tmp_path)).points:
        assert point.engine["generation_tokens"] == 16 * 300
        assert point.engine["mean_queue_time_ms"] >= 0
        assert point.engine["requests_running"] == 0


def test_what_runs_is_read_back(tmp_path: Path) -> None:
    outcome = measured(trial(tmp_path, {"block_size": 64, "max_num_batched_tokens": 512}))
    assert outcome.overridden == {}
    assert {name: outcome.effective_config[name] for name in ("block_size", "max_num_batched_tokens")} == {
        "block_size": "64",
        "max_num_batched_tokens": "512",
    }


def test_a_confirmation_measures_its_level_with_each_seed(tmp_path: Path) -> None:
    points = measured(trial(tmp_path, levels=given_levels(DEMO)[1:2], confirm_seeds=(5, 6, 7))).points
    assert [(point.level, point.seed) for point in points] == [(1, 5), (1, 6), (1, 7)]


def test_a_failed_start_is_explained_as_that_of_a_real_process(tmp_path: Path) -> None:
    request = trial(tmp_path, {"block_size": 16})
    outcome = run_virtual(request).outcome
    assert isinstance(outcome, Infeasible)
    assert (outcome.evidence.failure, outcome.evidence.signature) == (FailureClass.CONFIG, "block_size_kernel")
    assert "No common block size for 16" in Path(outcome.evidence.log_path).read_text()


def test_a_cancelled_trial_is_interrupted(tmp_path: Path) -> None:
    control = Control()
    control.cancel()
    outcome = run_virtual(trial(tmp_path), control).outcome
    assert isinstance(outcome, Interrupted)
    assert outcome.evidence.failure is FailureClass.CANCELLED
