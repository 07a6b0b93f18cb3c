"""The command line as people use it: what it prints, which files it writes, and how it exits."""

import csv
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import jsonschema
import optuna
import pytest
import ray
import yaml

from autotune.cli.control import cancel_job
from autotune.cli.run import Outputs, run_here
from autotune.engine_config import EngineConfig
from autotune.engines import procfs
from autotune.results import Evidence, FailureClass, Infeasible, Job, JobStatus, Trial, TrialResult
from autotune.store import Lease, Store
from autotune.tuner.context import JobContext
from autotune.tuner.owner import owner, utc_now

pytestmark = pytest.mark.process

DONE, WRONG_INPUT, WRONG_MACHINE, NOTHING_MEETS_SLA, INTERRUPTED = 0, 2, 3, 4, 130
DATA = Path(__file__).parents[1] / "data"
JOB = DATA / "job" / "job.yaml"
DEMO = Path(__file__).parents[2] / "autotune" / "demo" / "job.yaml"


def database(cli: Any) -> str:
    return f"sqlite:///{cli.home / 'autotune.db'}"


@pytest.fixture
def cli(make_cli: Callable[..., Any], tmp_path: Path) -> Any:
    """The command line with an empty home."""
    return make_cli(tmp_path)


# Job files


def test_a_good_job_file_is_valid_and_says_what_it_would_do(cli: Any):
    done = cli("validate", JOB)
    assert done.returncode == DONE
    assert "space 'tiny': 12 configurations of 2 knobs" in done.stdout
    assert "levels 4, 16" in done.stdout


BROKEN = """\
version: 1
name: tiny
model: tiny-llama
devices: {resource: NPUU}
search_space: demo
workload: demo
sla: {p99_ttft_ms: -5}
budgett: {trials: 3}
"""


def test_every_problem_of_a_job_file_is_told_with_its_line_and_what_was_probably_meant(cli: Any, tmp_path: Path):
    (tmp_path / "broken.yaml").write_text(BROKEN)
    done = cli("run", "broken.yaml")
    assert done.returncode == WRONG_INPUT
    problems = done.stderr.splitlines()
    assert len(problems) == 3
    assert "broken.yaml:4" in problems[0]
    assert "'NPU'" in problems[0]
    assert "broken.yaml:7" in problems[1]
    assert "-5" in problems[1]
    assert "broken.yaml:8" in problems[2]
    assert "did you mean 'budget'" in problems[2]


def test_a_missing_job_file_is_named(cli: Any):
    done = cli("run", "nowhere.yaml")
    assert (done.returncode, done.stderr) == (WRONG_INPUT, "error: nowhere.yaml: no such job file\n")


def test_a_typo_in_set_is_told_with_what_was_probably_meant(cli: Any):
    done = cli("validate", JOB, "--set", "budget.trails=3")
    assert done.returncode == WRONG_INPUT
    assert "did you mean 'trials'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_sla_line_is_told_with_the_form_of_one(cli: Any):
    done = cli("validate", JOB, "--sla", "p99_tttft_ms=3")
    assert done.returncode == WRONG_INPUT
    assert "p99_ttft_ms" in done.stderr


def test_sla_is_short_for_set(cli: Any):
    done = cli("validate", JOB, "--set", "sla.p99_ttft_ms=-7", "--sla", "p99_tpot_ms=-8")
    assert done.returncode == WRONG_INPUT
    assert "-7" in done.stderr
    assert "-8" in done.stderr


@pytest.fixture(scope="module")
def schema(archive: Any) -> dict[str, Any]:
    return json.loads(archive.cli("schema").stdout)


def test_the_printed_schema_is_valid_and_accepts_the_shipped_job(schema: dict[str, Any]):
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(DEMO.read_text()), schema)


@pytest.mark.parametrize("typo", [{"budgett": {}}, {"sla": {"p99_tttft_ms": 200}}, {"sampler": "gpp"}])
def test_the_printed_schema_refuses_a_typo(typo: dict[str, Any], schema: dict[str, Any]):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(DEMO.read_text()) | typo, schema)


# Finished jobs


def test_jobs_lists_every_job_with_its_result(archive: Any):
    done = archive.cli("jobs", "--json")
    assert {job["id"]: job["status"] for job in json.loads(done.stdout)} == {
        archive.job.id: "succeeded",
        archive.hopeless.id: "succeeded",
    }


def test_trials_tells_the_cause_the_advice_and_the_line_of_a_failure(archive: Any):
    done = archive.cli("trials", archive.job.id)
    assert done.returncode == DONE
    assert "trial 3: Out of device memory. Lower gpu_memory_utilization." in done.stdout
    assert "NPU out of memory. Tried to allocate 22.00 MiB" in done.stdout


@pytest.fixture
def failed(cli: Any, make_context: Callable[..., JobContext]) -> str:
    """A job of two trials that could not run; the log's end is known by heart."""
    context = make_context(cli.home)
    with Store.open(database(cli)) as store:
        store.create_job(context.job)
        lease = store.claim(context.job.id, "a test", now=utc_now())
        for number, line in enumerate(("ValueError: No available memory", "")):
            row = Trial(
                number=number,
                purpose="search",
                origin="sobol",
                knobs={},
                config=EngineConfig(arguments={}),
                started_at=utc_now(),
            )
            tail = "\n".join(f"trial {number} said {count} [INFO]" for count in range(1, 9))
            evidence = Evidence(
                failure=FailureClass.OOM,
                signature=None,
                cause="No memory.",
                advice="Ask for less.",
                line=line,
                log_tail=tail,
                log_path="engine.log",
            )
            store.start_trial(lease, row)
            store.finish_trial(lease, number, TrialResult(outcome=Infeasible(evidence=evidence)), utc_now())
        store.finish_job(lease, JobStatus.FAILED, None, finished_at=utc_now())
    return context.job.id


def test_one_trial_is_shown_with_the_whole_end_of_its_log(cli: Any, failed: str):
    done = cli("trials", failed, "0")
    assert done.returncode == DONE
    lines = done.stdout.splitlines()
    shown = lines.index("trial 0: No memory. Ask for less.")
    assert lines[shown + 1 :] == [
        "    ValueError: No available memory",
        *(f"    | trial 0 said {count} [INFO]" for count in range(1, 9)),
        "    log: engine.log",
    ]


def test_among_other_trials_the_end_of_a_log_is_short_and_left_out_where_one_line_tells(cli: Any, failed: str):
    said = [line for line in cli("trials", failed).stdout.splitlines() if " said " in line]
    assert said == [f"    | trial 1 said {count} [INFO]" for count in range(4, 9)]


def test_one_trial_as_json_is_its_row(cli: Any, failed: str):
    assert [trial["number"] for trial in json.loads(cli("trials", failed, "1", "--json").stdout)] == [1]


def test_an_unknown_trial_is_told_with_those_there_are(cli: Any, failed: str):
    done = cli("trials", failed, "7")
    assert done.returncode == WRONG_INPUT
    assert done.stderr == f"error: job '{failed}' has no trial 7; its trials are 0 to 1\n"


def test_resuming_a_job_that_has_succeeded_brings_its_study_into_line_and_says_that_nothing_is_left(archive: Any):
    job = archive.hopeless.id  # a study that is made again gets another number, and the dashboard's tests ask for 1
    optuna.delete_study(study_name=job, storage=database(archive.cli))
    done = archive.cli("resume", job)
    assert done.returncode == WRONG_INPUT
    assert "has succeeded, nothing is left to do" in done.stderr
    shown = optuna.load_study(study_name=job, storage=database(archive.cli)).trials
    assert [trial.state.name for trial in shown] == ["COMPLETE"]


def test_trials_as_json_are_the_rows(archive: Any):
    trials = json.loads(archive.cli("trials", archive.job.id, "--json").stdout)
    assert [trial["result"]["outcome"]["kind"] for trial in trials] == [
        "measured",
        "measured",
        "measured",
        "infeasible",
    ]


def test_pareto_as_json_is_the_stored_result(archive: Any):
    result = json.loads(archive.cli("pareto", archive.job.id, "--json").stdout)
    front = [(p["trial"], p["output_throughput_per_device"], p["p99_ttft_ms"]) for p in result["front"]["points"]]
    assert front == [(0, 500.0, 100.0), (1, 700.0, 150.0)]
    assert result["recommendation"]["trial"] == 1


def test_pareto_compares_the_front_with_the_baseline(archive: Any):
    done = archive.cli("pareto", archive.job.id)
    assert done.returncode == DONE
    assert "The baseline keeps the SLA (p99_ttft_ms ≤ 400) with 500.0 tok/s" in done.stdout
    assert "1.40×" in done.stdout


def test_pareto_writes_the_front_as_a_page(archive: Any, tmp_path: Path):
    archive.cli("pareto", archive.job.id, "--page", tmp_path / "front.html")
    page = (tmp_path / "front.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "misses the SLA" in page


@pytest.mark.parametrize(
    ("policy", "seqs"),
    [("max-throughput", 32), ("min-latency", 256), ("knee", 32), ("trial=0", 256), ("trial=1:0", 32)],
)
def test_every_policy_selects_its_configuration(policy: str, seqs: int, archive: Any):
    done = archive.cli("export", archive.job.id, "--select", policy)
    assert done.returncode == DONE, done.stderr
    assert yaml.safe_load(done.stdout)["max-num-seqs"] == seqs


def export(archive: Any, form: str) -> str:
    done = archive.cli("export", archive.job.id, "--format", form)
    assert done.returncode == DONE, done.stderr
    return done.stdout


def test_the_vllm_export_is_a_config_file_with_its_evidence(archive: Any):
    text = export(archive, "vllm")
    document = yaml.safe_load(text)
    assert (document["max-num-seqs"], document["block-size"]) == (32, 64)
    assert "# measured at 4 concurrent per device: 700.0 tok/s per device, P99 TTFT 150 ms" in text


def test_the_command_export_is_a_shell_line(archive: Any):
    text = export(archive, "command")
    assert "vllm serve" in text
    assert "--max-num-seqs 32" in text


def test_the_env_export_says_that_there_is_nothing_to_set(archive: Any):
    assert "# this configuration needs no environment variables" in export(archive, "env")


def test_the_json_export_has_arguments_and_evidence(archive: Any):
    document = json.loads(export(archive, "json"))
    assert document["arguments"] == {"max_num_seqs": 32, "block_size": 64}
    assert document["throughput_versus_baseline"] == pytest.approx(1.4)


def test_the_csv_export_is_the_front(archive: Any):
    rows = list(csv.DictReader(export(archive, "csv").splitlines()))
    assert [(row["trial"], row["max_num_seqs"], row["selected"]) for row in rows] == [
        ("0", "256", "False"),
        ("1", "32", "True"),
    ]


def test_an_export_can_go_to_a_file(archive: Any, tmp_path: Path):
    done = archive.cli("export", archive.job.id, "-o", tmp_path / "best.yaml")
    assert (done.returncode, done.stdout) == (DONE, "")
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["max-num-seqs"] == 32


def test_an_export_of_a_job_in_which_nothing_meets_the_sla_exits_4_and_names_the_closest(archive: Any):
    done = archive.cli("export", archive.hopeless.id)
    assert (done.returncode, done.stdout) == (NOTHING_MEETS_SLA, "")
    assert "nothing meets the SLA; the closest was trial 2: P99 TTFT 600 ms" in done.stderr


def test_an_unknown_job_is_told_with_what_was_probably_meant(archive: Any):
    done = archive.cli("pareto", "tinny")
    assert done.returncode == WRONG_INPUT
    assert done.stderr == "error: no job has the id or name 'tinny'; did you mean 'tiny'?\n"


def test_an_unknown_policy_is_told_with_what_was_probably_meant(archive: Any):
    done = archive.cli("export", archive.job.id, "--select", "max-througput")
    assert done.returncode == WRONG_INPUT
    assert "did you mean max-throughput?" in done.stderr


def test_an_unknown_format_is_told_with_what_was_probably_meant(archive: Any):
    done = archive.cli("export", archive.job.id, "--format", "jsn")
    assert done.returncode == WRONG_INPUT
    assert "did you mean json?" in done.stderr


# The machine


def test_a_missing_engine_is_a_problem_of_the_machine(cli: Any):
    cli.environment["AUTOTUNE_VLLM"] = "/nowhere/vllm"
    done = cli("run", JOB, "--set", "engine=vllm")
    assert done.returncode == WRONG_MACHINE
    assert done.stderr == "error: AUTOTUNE_VLLM names /nowhere/vllm, which is no executable\n"


HEAVY = ("ray", "optuna", "sqlalchemy", "aiohttp", "httpx", "pandas", "plotly", "torch", "numpy", "scipy", "pydantic")


def test_help_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['autotune', '--help']\n"
        "from autotune.cli.main import main\n"
        "try: main()\n"
        f"finally: sys.stderr.write(' '.join(name for name in {HEAVY} if name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "Tune an LLM serving engine" in done.stdout
    assert done.stderr == ""


# Whole jobs


def launches(home: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(home.glob("jobs/*/*/launch.json"))]


@pytest.mark.ray
def test_run_tunes_writes_its_files_and_exits_0(cli: Any, working_below: Callable[[Path], list[int]]):
    small = ("--set", "budget.trials=3", "--set", "budget.confirm_top=1")
    done = cli("run", JOB, *small, "--sla", "p99_ttft_ms=5000", "--best", "best.yaml", "--page", "front.html")
    assert done.returncode == DONE, done.stdout + done.stderr
    assert "confirmed by 2 re-runs" in " ".join(done.stdout.split())
    assert "serve --config best.yaml" in done.stdout
    assert yaml.safe_load((cli.home / "best.yaml").read_text())["max-model-len"] == 64
    assert "Pareto front" in (cli.home / "front.html").read_text()
    assert [job["status"] for job in json.loads(cli("jobs", "--json").stdout)] == ["succeeded"]
    assert working_below(cli.home / "jobs") == []


@pytest.mark.ray
def test_an_sla_that_nothing_meets_exits_4_names_the_closest_and_writes_no_file(cli: Any):
    done = cli("run", JOB, "--set", "budget.trials=1", "--sla", "p99_ttft_ms=1", "--best", "best.yaml")
    assert done.returncode == NOTHING_MEETS_SLA, done.stdout + done.stderr
    assert "the closest was trial" in " ".join(done.stdout.split())
    assert not (cli.home / "best.yaml").exists()


@pytest.mark.ray
def test_a_broken_environment_exits_3_with_advice_after_one_launch(cli: Any, fake_vllm: Path):
    shutil.copytree(fake_vllm.parent, cli.home / "broken")
    (cli.home / "broken" / "vllm").write_text(
        "#!/bin/sh\necho launched >> ../../../launches.txt\n"
        "echo 'ImportError: libascend_hal.so: cannot open shared object file: No such file or directory'\nexit 1\n"
    )
    settings = yaml.safe_load((cli.home / "settings.yaml").read_text())
    settings["profiles"]["fake"]["executable"] = str(cli.home / "broken" / "vllm")
    (cli.home / "settings.yaml").write_text(yaml.safe_dump(settings))
    done = cli("run", JOB)
    assert done.returncode == WRONG_MACHINE, done.stdout + done.stderr
    assert done.stderr.startswith("error: the engine's environment is broken, every trial would fail")
    assert (cli.home / "launches.txt").read_text() == "launched\n"


# Stopping


@dataclass(frozen=True)
class Held:
    """A job that a living process holds while it is being cancelled."""

    store: Store
    lease: Lease
    holder: "subprocess.Popen[bytes]"

    @property
    def job(self) -> Job:
        return self.store.job(self.lease.job_id)


@pytest.fixture
def held(cli: Any, make_context: Callable[..., JobContext], monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """The commands run in this process, with the settings of the command line."""
    monkeypatch.setenv("AUTOTUNE_SETTINGS", cli.environment["AUTOTUNE_SETTINGS"])
    context = make_context(cli.home)
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    stat = procfs.stat(holder.pid)
    assert stat is not None
    name = re.sub(r"process \d+", f"process {holder.pid}", owner())
    name = re.sub(r"tick \d+", f"tick {stat.start_time}", name)
    with Store.open(database(cli)) as store:
        store.create_job(context.job)
        lease = store.claim(context.job.id, name, now=utc_now())
        store.set_status(lease, JobStatus.RUNNING)
        yield Held(store, lease, holder)
    holder.communicate()


def meanwhile(monkeypatch: pytest.MonkeyPatch, event: Callable[[], object]) -> None:
    """Let something happen when the command waits for the first time."""
    pauses = count()
    monkeypatch.setattr(time, "sleep", lambda _: event() if next(pauses) == 0 else None)


def test_cancelling_a_job_whose_holder_dies_meanwhile_closes_it(
    held: Held, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    meanwhile(monkeypatch, held.holder.communicate)
    cancel_job(held.job.id)
    assert held.job.status is JobStatus.CANCELLED
    said = capsys.readouterr().out
    assert f"asked process {held.holder.pid} on " in said
    assert said.endswith(f"{held.job.id} is cancelled; to go on: autotune resume {held.job.id}\n")


def test_cancelling_a_job_that_succeeds_meanwhile_says_so(
    held: Held, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    ended = functools.partial(held.store.finish_job, held.lease, JobStatus.SUCCEEDED, None, finished_at=utc_now())
    meanwhile(monkeypatch, ended)
    cancel_job(held.job.id)
    assert capsys.readouterr().out.endswith(f"\n{held.job.id} is succeeded\n")


def test_a_job_that_was_stopped_before_it_was_made_promises_no_resume(
    cli: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Ctrl-C while Ray starts."""

    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("AUTOTUNE_SETTINGS", cli.environment["AUTOTUNE_SETTINGS"])
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", press)
    assert run_here(JOB, [], Outputs(None, None), resume=False) == INTERRUPTED
    assert "resume" not in capsys.readouterr().out
    assert json.loads(cli("jobs", "--json").stdout) == []


@pytest.mark.ray
def test_a_cancel_that_nobody_was_left_to_obey_does_not_cancel_the_resume(
    cli: Any, make_context: Callable[..., JobContext]
):
    context = make_context(cli.home, "budget.trials=1", "budget.confirm_top=0")
    with Store.open(database(cli)) as store:
        store.create_job(context.job)
        lease = store.claim(context.job.id, "a tuner that was killed", now=utc_now())
        store.set_status(lease, JobStatus.RUNNING)
        store.request_cancel(context.job.id)
        store.release(lease)
    done = cli("resume", context.job.id)
    assert "stopped by trials" in done.stdout, done.stdout + done.stderr


def _hears_ctrl_c() -> None:
    """A shell starts background jobs with SIGINT ignored, and whoever runs the tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.ray
def test_ctrl_c_cancels_the_job_keeps_its_results_and_leaves_nothing(
    cli: Any, working_below: Callable[[Path], list[int]]
):
    """As a terminal does it: SIGINT to the whole foreground group, once the first trial has been told."""
    command = cli.command("run", JOB)
    with subprocess.Popen(
        command,
        env=cli.environment,
        cwd=cli.home,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hears_ctrl_c,  # noqa: PLW1509 -- no threads here
    ) as running:
        assert running.stdout is not None
        told = next(line for line in running.stdout if line.startswith("trial"))
        os.killpg(running.pid, signal.SIGINT)
        rest = running.stdout.read()
        code = running.wait(60)
    assert told.split()[:3] == ["trial", "0", "baseline"]
    assert code == INTERRUPTED, rest
    assert "cancelled; what was measured is kept" in " ".join(rest.split())
    (job,) = json.loads(cli("jobs", "--json").stdout)
    trials = json.loads(cli("trials", job["id"], "--json").stdout)
    assert job["status"] == "cancelled"
    assert trials[0]["result"]["outcome"]["kind"] == "measured"
    assert all(trial["result"] is not None for trial in trials)
    assert working_below(cli.home / "jobs") == []
