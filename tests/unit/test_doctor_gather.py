"""What the doctor gathers: from files below a root, from scripted tools, from an engine's interpreter."""

import importlib
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from autotune.cli.main import app
from autotune.doctor import Asked, gather
from autotune.doctor.host import gather_host, missing_libraries
from autotune.settings import EngineProfile
from autotune.store import Store, look

DATA = Path(__file__).parents[1] / "data"
ASCEND_FILES = {
    "dev/davinci0": "",
    "dev/davinci1": "",
    "dev/davinci_manager": "",
    "dev/devmm_svm": "",
    "dev/hisi_hdc": "",
    "dev/shm/.keep": "",
    "etc/ascend_install.info": "",
    "usr/local/dcmi/.keep": "",
    "usr/local/bin/npu-smi": "",
    "usr/local/Ascend/driver/lib64/.keep": "",
    "usr/local/Ascend/driver/version.info": "Version=25.5.2\nascendhal_version=7.35.23\n",
    "usr/local/Ascend/cann/aarch64-linux/ascend_toolkit_install.info": "package_name=Ascend-cann\nversion=9.1.0\n",
    "usr/lib/aarch64-linux-gnu/libjemalloc.so.2": "",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/node/node0/.keep": "",
    "sys/devices/system/node/node1/.keep": "",
    "proc/sys/kernel/numa_balancing": "1\n",
    "proc/sys/vm/swappiness": "60\n",
    "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    "proc/meminfo": "MemTotal:       24686592 kB\nMemFree: 1 kB\n",
    "proc/net/tcp": "  sl  local_address rem_address   st\n"
    "   0: 0100007F:4E21 00000000:0000 0A 00000000\n"  # 20001 listens
    "   1: 0100007F:4E22 0100007F:1F40 01 00000000\n",  # 20002 talks
    "proc/net/tcp6": "  sl  local_address rem_address   st\n"
    "   0: 00000000000000000000000000000000:1F40 00000000000000000000000000000000:0000 0A 00000000\n",  # 8000
    ".dockerenv": "",
}

gathering = importlib.import_module("autotune.doctor.gather")  # the package exports a function of this name


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in ASCEND_FILES.items():
        file = tmp_path / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "root"


# Files


def test_the_files_of_an_ascend_host_are_read(root: Path):
    host = gather_host(root, {})
    assert host.nodes == {"davinci0", "davinci1", "davinci_manager", "devmm_svm", "hisi_hdc"}
    assert len(host.mounted) == 5
    assert (host.driver, host.cann) == ("25.5.2", "9.1.0")
    assert host.jemalloc == ("/usr/lib/aarch64-linux-gnu/libjemalloc.so.2",)
    assert host.governors == {"performance": 1, "powersave": 1}
    assert (host.numa_nodes, host.numa_balancing, host.swappiness) == (2, True, 60)
    assert host.ephemeral == (32768, 60999)
    assert host.memory_bytes == 24686592 * 1024
    assert host.shm_bytes
    assert host.in_container


def test_only_sockets_that_listen_hold_a_port(root: Path):
    assert gather_host(root, {}).listening == {20001, 8000}


def test_files_that_are_missing_are_left_out(tmp_path: Path):
    host = gather_host(tmp_path, {})
    assert (host.shm_bytes, host.driver, host.cann, host.ephemeral, host.memory_bytes) == (None,) * 5
    assert (host.nodes, host.mounted, host.listening, host.jemalloc) == (frozenset(), frozenset(), frozenset(), ())


def test_cann_is_where_the_environment_says_before_where_it_is_by_default(root: Path):
    file = root / "opt/cann/x86_64-linux/ascend_toolkit_install.info"
    file.parent.mkdir(parents=True)
    file.write_text("version=8.5.1\n")
    assert gather_host(root, {"ASCEND_HOME_PATH": "/opt/cann"}).cann == "8.5.1"


def test_older_cann_lies_elsewhere(root: Path):
    (root / "usr/local/Ascend/cann").rename(root / "usr/local/Ascend/elsewhere")
    file = root / "usr/local/Ascend/ascend-toolkit/latest/aarch64-linux/ascend_toolkit_install.info"
    file.parent.mkdir(parents=True)
    file.write_text("package_name=Ascend-cann-toolkit\nversion=8.3.RC2\n")
    assert gather_host(root, {}).cann == "8.3.RC2"


def test_the_driver_of_nvidia_is_read(tmp_path: Path):
    file = tmp_path / "proc/driver/nvidia/version"
    file.parent.mkdir(parents=True)
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.119.02  Wed Nov  5\nGCC version: 12\n")
    assert gather_host(tmp_path, {}).driver == "580.119.02"


def test_libraries_to_preload_are_looked_for(root: Path):
    preload = "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2:/usr/lib64/nothing.so"
    assert missing_libraries(root, preload) == {
        "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2": True,
        "/usr/lib64/nothing.so": False,
    }


def test_the_real_machine_is_read_without_a_problem():
    host = gather_host(Path("/"), {})
    assert host.cores > 0
    assert host.memory_bytes


# The whole, with scripted tools


PROBE = {
    "versions": {
        "python": "3.12.9",
        "vllm": "0.23.0",
        "vllm-ascend": "0.23.0.post1",
        "torch": "2.10.0",
        "torch-npu": "2.10.0.post4",
        "triton-ascend": "3.2.2",
    },
    "platform": "npu",
    "arguments": ["max_num_seqs", "tensor_parallel_size"],
    "model": {"architectures": ["LlamaForCausalLM"], "unsupported": []},
    "build": "A2",
    "problems": [],
}


def executable(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


Doctor = Callable[..., Result]


@pytest.fixture
def doctor(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install_npu_smi: Callable[[Path, str], None]
) -> Doctor:
    """The command on a machine with eight scripted NPUs and an engine whose Python prints a document."""
    engine = tmp_path / "engine" / "bin"
    (tmp_path / "probe.json").write_text(json.dumps(PROBE))
    executable(engine / "python3", f"#!/bin/sh\necho noise\ncat {tmp_path}/probe.json\n")
    executable(engine / "vllm", f"#!{engine}/python3\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    install_npu_smi(tools, "info_a2_idle")
    settings = {
        "home": str(tmp_path / "home"),
        "profiles": {
            "vllm": {
                "executable": str(engine / "vllm"),
                "platform": "ascend",
                "environment": {"LD_PRELOAD": "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2"},
            }
        },
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("AUTOTUNE_SETTINGS", str(tmp_path / "settings.yaml"))
    monkeypatch.delenv("AUTOTUNE_HOME", raising=False)
    monkeypatch.delenv("AUTOTUNE_DATABASE_URL", raising=False)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, ["doctor", "--root", str(root), *map(str, arguments)])

    return run


def findings(result: Result) -> dict[str, list[tuple[str, str]]]:
    by_topic: dict[str, list[tuple[str, str]]] = {}
    for one in json.loads(result.stdout)["findings"]:
        by_topic.setdefault(one["topic"], []).append((one["status"], one["message"]))
    return by_topic


def test_a_machine_is_examined_from_its_driver_to_its_database(doctor: Doctor):
    result = doctor("--json")
    told = findings(result)
    assert told["devices"] == [("ok", "8 x 910B3, all OK")]
    assert told["versions"][0][0] == "ok"
    assert told["HCCL ports"] == [("fail", "HCCL ports in use: 20001")]
    assert told["jemalloc"][0][0] == "ok"
    assert told["database"][0][1].endswith("is made by the first job")
    assert result.exit_code == 3


def test_nothing_to_mend_exits_with_zero(doctor: Doctor, root: Path):
    (root / "proc/net/tcp").unlink()
    result = doctor()
    assert result.exit_code == 0
    assert "0 to mend" in result.stdout
    assert "to do: cpupower frequency-set -g performance (on the host)" in result.stdout


def test_a_wedged_driver_is_told(doctor: Doctor, tmp_path: Path):
    script = f"#!/bin/sh\ncat {DATA}/npu_smi/err_dcmi.txt\nexit 1\n"
    executable(tmp_path / "tools" / "npu-smi", script)
    (status, message), *_ = findings(doctor("--json"))["devices"]
    assert status == "fail"
    assert "dcmi" in message


def test_an_engine_that_does_not_answer_is_told(doctor: Doctor, tmp_path: Path):
    executable(tmp_path / "engine" / "bin" / "python3", "#!/bin/sh\necho broken >&2\nexit 1\n")
    ((status, message),) = findings(doctor("--json"))["engine"]
    assert status == "fail"
    assert "broken" in message


def test_a_profile_that_nobody_wrote_is_told(doctor: Doctor):
    ((status, message),) = findings(doctor("--engine", "vlm", "--json"))["engine"]
    assert (status, message.startswith("no engine profile 'vlm'; did you mean 'vllm'?")) == ("fail", True)


def test_settings_that_cannot_be_read_do_not_hide_the_rest(doctor: Doctor, tmp_path: Path):
    (tmp_path / "settings.yaml").write_text("hom: /x\n")
    told = findings(doctor("--json"))
    assert "unknown key 'hom'" in told["settings"][0][1]
    assert "devices" in told
    assert "database" not in told


def written_job(folder: Path, **changed: Any) -> Path:
    model = folder / "models" / "llama"
    model.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "vocab_size": 128256,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    }
    (model / "config.json").write_text(json.dumps(config))
    space = {
        "version": 1,
        "name": "wide",
        "parameters": {"tensor_parallel_size": {"type": "int", "values": [1, 4, 8, 16]}},
        "starting_points": {"baseline": {"tensor_parallel_size": 4}},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    job = {
        "version": 1,
        "name": "large",
        "model": str(model),
        "devices": {"resource": "NPU", "max_per_trial": 8},
        "search_space": "space.yaml",
        "workload": "guide-128x128",
        "sla": {"p99_ttft_ms": 800},
        **changed,
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def test_a_jobs_model_is_judged_at_every_width_that_it_may_launch(doctor: Doctor, tmp_path: Path):
    """16 devices are more than a trial of this job may take."""
    told = findings(doctor(written_job(tmp_path), "--json"))
    assert told["job"] == [("ok", "large: SLA error_rate <= 0.01, p99_ttft_ms <= 800")]
    assert "70.55 billion parameters" in told["model"][0][1]
    (ok, fitting), (warn, misfit) = told["memory"]
    assert (ok, warn) == ("ok", "warn")
    assert [part.split(":")[0] for part in fitting.split("; ")] == ["TP 4", "TP 8"]
    assert misfit.startswith("TP 1: 131.4 GiB of weights on each of 1 x 61.0 GiB leave no room")


def test_a_job_file_with_mistakes_is_told_beside_the_rest(doctor: Doctor, tmp_path: Path):
    result = doctor(written_job(tmp_path, sla={"p99_ttft_ms": -1}), "--json")
    told = findings(result)
    assert told["job"][0][0] == "fail"
    assert "devices" in told
    assert result.exit_code == 3


def test_a_model_that_is_not_there_is_told(doctor: Doctor, tmp_path: Path):
    told = findings(doctor(written_job(tmp_path, model="/nowhere"), "--json"))
    assert told["model"][0][1].startswith("model '/nowhere': no folder with a config.json")


def test_the_simulated_engine_needs_no_devices(doctor: Doctor):
    told = findings(doctor("--engine", "simulated", "--json"))
    assert told["devices"] == [("ok", "the engine is simulated and needs none")]
    assert sys.version.split()[0] in told["engine"][0][1]


def test_nothing_is_made_by_looking(doctor: Doctor, tmp_path: Path):
    doctor()
    assert not (tmp_path / "home").exists()


def test_gathering_never_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AUTOTUNE_SETTINGS", str(tmp_path / "nowhere.yaml"))
    facts = gather(Asked(job_file=tmp_path / "job.yaml", root=tmp_path))
    assert facts.settings_problems
    assert facts.job is not None
    assert facts.job.problems


# The database


def test_an_sqlite_file_that_is_not_there_is_not_made(tmp_path: Path):
    state = look(f"sqlite:///{tmp_path}/deep/autotune.db")
    assert (state.exists, state.revision, state.known) == (False, None, True)
    assert list(tmp_path.iterdir()) == []


def test_a_database_is_known_by_its_revision(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/autotune.db"
    Store.open(url).close()
    state = look(url)
    assert state.exists
    assert state.revision == state.newest


def test_the_jemalloc_that_the_profile_asks_for_is_preloaded(root: Path):
    asked = EngineProfile(executable=Path("/nowhere/vllm"), platform="ascend", jemalloc=True)
    found = {"/usr/lib/aarch64-linux-gnu/libjemalloc.so.2": True}
    assert gathering._engine("vllm", asked, "", None, root).libraries == found
    plain = asked.model_copy(update={"jemalloc": False})
    assert gathering._engine("vllm", plain, "", None, root).libraries == {}


def test_a_home_that_may_not_be_made_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file in its way, or a folder that this user may not look into, which raises."""
    (tmp_path / "file").write_text("")
    assert not gathering._disk(tmp_path / "file").writable
    assert not gathering._disk(tmp_path / "file" / "below").writable
    assert gathering._disk(tmp_path / "new" / "home").writable

    def refuse(_path: object) -> None:
        raise PermissionError("closed")

    monkeypatch.setattr(gathering.shutil, "disk_usage", refuse)
    assert not gathering._disk(tmp_path / "new").writable
