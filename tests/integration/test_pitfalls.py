# ruff: noqa: E501 - a line of the table is a rule and its proof
"""Rules that tuners of serving engines are known to break, and where each is proven here.

Search
------
a proposal is compared with everything launched as soon as it has its knobs: unit/test_candidates.py::test_every_point_but_the_baselines_is_proposed_exactly_once
nothing runs twice within a parallel batch: unit/test_candidates.py::test_running_trials_are_not_proposed_again
a value that runs as another is no new configuration: unit/test_effective.py::test_a_value_that_runs_as_another_is_that_other
failed launches never make the search run in circles: integration/test_tuner_properties.py::test_a_space_in_which_nothing_launches_is_infeasible
a space that never meets the SLA ends: integration/test_tuner_properties.py::test_a_space_that_never_meets_the_sla_ends_by_its_budget_with_an_empty_front
time and device-hours end a search: unit/test_budget.py::test_the_device_hours_end_a_search
a failed launch is no success with the number nought: unit/test_proposer.py::test_a_failed_launch_is_told_as_the_median_of_the_successes_with_its_constraint
the sampler hears the SLA as constraints: unit/test_proposer.py::test_every_told_trial_has_every_constraint_in_one_order
a violator is shown as one: integration/test_persisted_study.py::test_a_violator_is_infeasible_for_the_dashboard_too
samplers are seeded, a restart proposes the same: unit/test_proposer.py::test_a_restart_proposes_the_same
levels of a range keep their type and do not collapse: unit/test_search_space.py::test_levels_are_the_real_values_in_order

Every trial is told once
------------------------
whatever happens, rows and study agree in the end: integration/test_tuner_properties.py::test_a_job_keeps_its_promises_whatever_happens
a lost actor is an outcome with its trial's number: integration/test_fleet.py::test_a_killed_actor_is_an_interrupted_trial_whose_engine_ends_too
an open trial of nobody is closed: integration/test_persisted_study.py::test_sync_ends_a_running_trial_that_our_rows_do_not_know
a resumed job repeats neither baseline nor trial: integration/test_tuner_properties.py::test_a_disturbed_job_tells_the_same_story_as_one_that_was_left_alone
numbers that could not be measured are not made up: integration/test_persisted_study.py::test_a_trial_without_a_p99_shows_no_invented_number
two studies never share a name: integration/test_pitfalls.py::test_two_jobs_of_one_name_are_two_studies

Measurement
-----------
every level of the ladder is another load: integration/test_trial.py::test_every_level_is_measured_with_every_request
failed requests count as late: unit/test_measurement.py::test_a_failed_request_counts_as_infinitely_late
the SLA is about percentiles, never about means: unit/test_measurement.py::test_percentiles_are_nearest_rank
the error rate is part of the SLA: unit/test_confirm.py::test_failed_requests_count_against_the_error_rate
an engine that is up and answers nothing is not ready: unit/test_vllm.py::test_an_engine_that_is_up_and_answers_nothing_is_not_ready
an engine that serves nobody is no success: integration/test_trial.py::test_an_engine_that_serves_nobody_is_measured_and_a_file_says_why
raw records outlive the trial: integration/test_trial.py::test_a_request_record_is_kept_for_every_request
the winner is measured again: unit/test_confirm.py::test_a_mean_within_the_limit_is_not_enough

Failures and what they leave
----------------------------
the cause is read from the engine's log, not from an exit code: unit/test_diagnosis.py::test_every_signature_is_the_diagnosis_of_its_own_sample
a cancel is heard while the engine starts: integration/test_trial.py::test_a_cancel_is_heard_within_five_seconds_and_leaves_nothing
grandchildren end with their engine: integration/test_supervisor.py::test_a_grandchild_in_a_session_of_its_own_that_ignores_sigterm_is_ended
a device is free only when it is idle: integration/test_supervisor.py::test_the_idle_check_is_repeated_until_it_succeeds
the port is held until the engine has it: integration/test_supervisor.py::test_the_port_is_held_before_the_engine_listens
the engine listens on loopback, with a key: integration/test_trial.py::test_the_engine_listens_on_loopback_only
a request that can never fit is refused: integration/test_fleet.py::test_a_trial_that_no_node_could_ever_run_is_refused_with_what_the_cluster_has
no wait is for ever: integration/test_tuner_properties.py::test_a_trial_that_waits_for_devices_that_have_left_ends_the_job_instead_of_waiting
resume needs nothing but the job: integration/test_tuner_properties.py::test_interruptions_in_a_row_end_the_job_and_a_resume_goes_on

Secrets
-------
settings do not show the database's password: unit/test_settings.py::test_a_database_password_is_never_printed
nor does a server that cannot be reached: unit/test_migrations.py::test_an_unreachable_server_is_named_without_its_password
the engine's key is not in its arguments: integration/test_trial.py::test_the_api_key_is_in_the_environment_and_never_in_argv
"""

import ast
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import structlog
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection

import autotune
from autotune.errors import InputError, StoreError
from autotune.results import LoadPoint, Measured, Trial, TrialResult
from autotune.search_space import levels
from autotune.search_space.parameters import FloatParameter
from autotune.store import Store
from autotune.study import proposer
from autotune.study.grid import Grid
from autotune.study.persisted import PersistedStudy, open_storage
from autotune.study.proposer import propose
from autotune.tuner.candidates import Candidates, proposer_plan
from autotune.tuner.context import JobContext
from autotune.tuner.requests import confirmation_request, search_request
from autotune.workload import given_levels

TESTS = Path(__file__).parents[1]
TINY = runpy.run_path(str(TESTS / "data" / "tiny_job.py"))
SOURCES = sorted(Path(autotune.__file__).parent.rglob("*.py"))

MakePoint = Callable[..., LoadPoint]
MakeTrial = Callable[..., Trial]


def proofs() -> list[tuple[str, str]]:
    """File and test of every line of the table above."""
    lines = [line for line in (__doc__ or "").splitlines() if "::" in line]
    return [(place[0], place[1]) for line in lines if (place := line.rpartition(": ")[2].split("::"))]


@pytest.mark.parametrize(("file", "name"), proofs())
def test_the_proof_of_every_rule_exists(file: str, name: str):
    tree = ast.parse((TESTS / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.fixture
def context(tmp_path: Path) -> JobContext:
    return TINY["job_context"](tmp_path, {"trials": 8, "start_points": 1}, spec={"sampler": "tpe"})


@pytest.fixture
def baseline(context: JobContext, make_point: MakePoint) -> Trial:
    """The measured baseline, as the search has it."""
    outcome = Measured(points=(make_point(),), operating_level=0)
    return Candidates(context).baseline(0).model_copy(update={"result": TrialResult(outcome=outcome)})


# The baseline


def test_the_baseline_leaves_the_sampler_its_whole_search_space(context: JobContext, baseline: Trial):
    """It is launched without any knob; a trial without parameters would leave nothing to the samplers that model."""
    plan = proposer_plan(context)
    frozen = proposer._frozen_trials(plan, [baseline], proposer._distributions(plan.grid))
    assert intersection_search_space(frozen).keys() == {"max_num_seqs", "block_size", "tensor_parallel_size"}


def test_the_baseline_is_measured_at_every_level_and_confirmed_at_the_one_that_counts(
    context: JobContext, baseline: Trial, make_point: MakePoint
):
    assert search_request(context, baseline).levels == given_levels(context.workload)
    again = confirmation_request(context, baseline, make_point(100.0, 500.0, level=1, value=16.0))
    assert (again.levels, len(set(again.confirm_seeds))) == (given_levels(context.workload)[1:], 3)
    assert context.spec.seed not in again.confirm_seeds


# The grid


def test_a_range_of_floats_has_no_two_levels_that_are_one():
    grid = levels(FloatParameter(type="float", low=0.8, high=0.95, step=0.05))
    assert grid == (0.8, 0.85, 0.9, 0.95)
    assert {type(level) for level in grid} == {float}


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2", "gp", "qmc"])
def test_every_sampler_follows_the_seed_of_the_job(
    sampler: str, tmp_path: Path, baseline: Trial, make_trial: MakeTrial, make_point: MakePoint
):
    """The same seed proposes the same, and of four seeds not all propose alike."""
    history = [baseline, make_trial(1, {**TINY["DEFAULTS"], "max_num_seqs": 4}, make_point())]

    def proposed(seed: int) -> Any:
        context = TINY["job_context"](
            tmp_path, {"trials": 8, "start_points": 1}, spec={"sampler": sampler, "seed": seed}
        )
        proposal = propose(proposer_plan(context), history, lambda _: True)
        return proposal and proposal.knobs

    several = [proposed(seed) for seed in range(4)]
    assert several[0] == proposed(0)
    assert any(knobs != several[0] for knobs in several)


# The study


def test_the_study_maximises_throughput_and_minimises_latency(context: JobContext, tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    PersistedStudy(open_storage(url), "job-1", context.spec.sla, Grid.of(context.space))
    study = optuna.load_study(study_name="job-1", storage=url)
    assert study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]


def test_two_jobs_of_one_name_are_two_studies(make_context: Callable[..., JobContext], tmp_path: Path):
    """A study is named after its job's id."""
    one, other = make_context(tmp_path), make_context(tmp_path)
    assert one.job.name == other.job.name
    assert one.job.id != other.job.id
    assert one.folder != other.folder


# Secrets


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tuner:hunter2@127.0.0.1:1/nowhere",
        "postgres://tuner:hunter2@127.0.0.1:1/nowhere",
        "mysql://tuner:hunter2@127.0.0.1:1/nowhere",
        "postgresql://tuner:hunter2@127.0.0.1:port/nowhere",
    ],
)
def test_the_databases_password_is_in_no_message_and_no_log(url: str):
    with (
        structlog.testing.capture_logs() as logged,
        pytest.raises((InputError, StoreError)) as refused,
        Store.open(url, pause=lambda _: None),
    ):
        pass
    assert "hunter2" not in f"{refused.value!s} {refused.value!r} {logged}"


def test_optuna_does_not_give_the_databases_password_away_either():
    with pytest.raises(StoreError) as refused:
        open_storage("postgresql+psycopg://tuner:hunter2@127.0.0.1:1/nowhere")
    assert "hunter2" not in f"{refused.value!s} {refused.value!r}"


# What the package never does


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the name it is called by: `eval`, `os.system`."""
    return ((ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call))


FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "os.killpg",
    "pickle.loads",
    "yaml.load",
}
PATTERN_KILLERS = ("pkill", "killall", "fuser -k")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(SOURCES[0].parent)))
def test_no_text_is_run_as_code_and_nothing_is_killed_by_name(source: Path):
    tree = ast.parse(source.read_text())
    for name, call in calls(tree):
        assert name not in FORBIDDEN_CALLS, f"line {call.lineno}: {name}"
        shell = [word.value for word in call.keywords if word.arg == "shell"]
        assert all(isinstance(value, ast.Constant) and value.value is False for value in shell), f"line {call.lineno}"
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in texts if any(killer in text for killer in PATTERN_KILLERS)]


def test_the_scan_sees_what_it_looks_for():
    tree = ast.parse("import os\nos.system('pkill -f ray::')\n")
    assert [name for name, _ in calls(tree)] == ["os.system"]
