"""What the doctor says of gathered facts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.doctor import Finding, examine, worst
from autotune.doctor.devices import check_devices
from autotune.doctor.engine import check_engine
from autotune.doctor.facts import (
    DatabaseFacts,
    DeviceFacts,
    DiskFacts,
    EngineFacts,
    Facts,
    HostFacts,
    JobFacts,
    RayFacts,
)
from autotune.doctor.host import ASCEND_MOUNTS
from autotune.doctor.job import check_job
from autotune.doctor.system import check_database, check_disk, check_host, check_ray
from autotune.engines.examine import EngineInfo, ModelSupport
from autotune.model_card import Parallel, Shape, read_model
from autotune.platforms import Device, DeviceProcess
from autotune.settings import EngineProfile
from autotune.spec import JobSpec
from autotune.store import DatabaseState

GIB = 2**30
VERSIONS = {
    "python": "3.12.9",
    "vllm": "0.23.0+empty",
    "vllm-ascend": "0.23.0.post1",
    "torch": "2.10.0+cpu",
    "torch-npu": "2.10.0.post4",
    "triton-ascend": "3.2.2",
}
INFO = EngineInfo(
    executable="/opt/vllm", interpreter="/opt/python", versions=VERSIONS, platform="npu", arguments=frozenset()
)
JEMALLOC = "/usr/lib/aarch64-linux-gnu/libjemalloc.so.2"
PROFILE = EngineProfile(executable=Path("/opt/vllm"), platform="ascend", environment={"LD_PRELOAD": JEMALLOC})
NPUS = tuple(
    Device(str(number), "910B3", "OK", memory_used_mib=3376, memory_total_mib=65536, driver_mib=4096)
    for number in range(2)
)
HOST = HostFacts(
    architecture="aarch64",
    cores=64,
    memory_bytes=512 * GIB,
    shm_bytes=GIB,
    governors={"performance": 64},
    numa_nodes=4,
    numa_balancing=False,
    swappiness=0,
    jemalloc=(JEMALLOC,),
    listening=frozenset({22, 8000}),
    ephemeral=(32768, 60999),
    nodes=frozenset({"davinci0", "davinci1", "davinci_manager", "devmm_svm", "hisi_hdc"}),
    mounted=frozenset(ASCEND_MOUNTS),
    driver="25.5.2",
    cann="9.1.0",
    in_container=True,
)
ASCEND = Facts(
    platform="ascend",
    host=HOST,
    engine=EngineFacts("vllm", PROFILE, INFO, libraries={JEMALLOC: True}),
    devices=DeviceFacts(NPUS),
    ray=RayFacts("2.60.0", "3.11.7"),
    disk=DiskFacts(Path("/home"), 100 * GIB, writable=True),
    database=DatabaseFacts(DatabaseState("sqlite:////home/autotune.db", True, "0002", "0002")),
)


def engine(**changed: Any) -> Facts:
    return replace(ASCEND, engine=replace(ASCEND.engine, **changed))


def versions(**changed: str | None) -> Facts:
    named = {name.replace("_", "-"): version for name, version in changed.items()}
    found = {name: version for name, version in (VERSIONS | named).items() if version is not None}
    return engine(info=INFO.model_copy(update={"versions": found}))


def host(**changed: Any) -> Facts:
    return replace(ASCEND, host=replace(HOST, **changed))


def devices(*found: Device, problem: str = "") -> Facts:
    return replace(ASCEND, devices=DeviceFacts(found, problem))


def bad(findings: list[Finding]) -> list[tuple[str, str, str]]:
    return [(one.status, one.topic, one.message) for one in findings if one.status != "ok"]


def only(findings: list[Finding]) -> Finding:
    (finding,) = [one for one in findings if one.status != "ok"]
    return finding


# A machine that is well


def test_an_ascend_machine_that_is_well_has_nothing_to_mend():
    findings = examine(ASCEND)
    assert bad(findings) == []
    told = {finding.topic: finding.message for finding in findings}
    assert told["devices"] == "2 x 910B3, all OK"
    assert told["versions"].startswith("vllm-ascend 0.23.0.post1 (stable) with what belongs to it: vLLM 0.23.0")
    assert told["HCCL ports"] == "20000-20031 are free"
    assert told["driver"] == "driver 25.5.2"


def test_a_cuda_machine_is_asked_other_questions():
    info = INFO.model_copy(update={"platform": "cuda", "versions": {"python": "3.12.9", "vllm": "0.32.0"}})
    gpus = (Device("0", "NVIDIA H100 80GB HBM3", "OK", memory_used_mib=4, memory_total_mib=81559),)
    nodes = frozenset({"nvidia0", "nvidiactl", "nvidia-uvm"})
    facts = replace(
        engine(info=info, libraries={}),
        platform="cuda",
        host=replace(HOST, nodes=nodes, mounted=frozenset(), cann=None, jemalloc=()),
        devices=DeviceFacts(gpus),
    )
    findings = examine(facts)
    assert bad(findings) == []
    assert {finding.topic for finding in findings}.isdisjoint({"CANN", "HCCL ports", "mounts", "jemalloc"})


def test_every_finding_that_is_not_ok_says_what_to_do():
    facts = replace(
        devices(problem="cannot run npu-smi"),
        host=HostFacts(),
        ray=RayFacts("2.40.0", "3.11.7"),
        disk=DiskFacts(Path("/home"), 5, writable=True),
        database=DatabaseFacts(problem="no server"),
        settings_problems=("home: wrong",),
        job=JobFacts(problems=("name: missing",)),
    )
    findings = [finding for finding in examine(facts) if finding.status != "ok"]
    assert len(findings) > 8
    assert all(finding.fix for finding in findings)


def test_the_worst_finding_decides():
    fine, odd, broken = Finding("a", "ok", ""), Finding("b", "warn", ""), Finding("c", "fail", "")
    assert [worst([fine]), worst([odd, fine]), worst([odd, broken])] == ["ok", "warn", "fail"]


# Versions


@pytest.mark.parametrize(
    ("changed", "status", "told"),
    [
        ({"vllm": "0.26.0"}, "fail", "vllm is 0.26.0, vllm-ascend 0.23.0.post1 belongs to 0.23.0"),
        ({"torch": "2.11.0"}, "fail", "torch is 2.11.0, vllm-ascend 0.23.0.post1 belongs to 2.10.0"),
        ({"torch_npu": "2.13.0"}, "fail", "torch-npu is 2.13.0, vllm-ascend 0.23.0.post1 belongs to 2.10.0.post4"),
        ({"torch_npu": "2.10.0.post2"}, "warn", "torch-npu is 2.10.0.post2"),
        ({"torch_npu": None}, "fail", "torch-npu is not installed"),
        ({"triton_ascend": None}, "warn", "triton-ascend is not installed"),
        ({"python": "3.13.1"}, "fail", "Python is 3.13.1, vllm-ascend 0.23.0.post1 needs >=3.10,<3.13"),
        ({"vllm_ascend": "0.24.0rc1"}, "warn", "vllm-ascend 0.24.0rc1 is in no row of the compatibility matrix"),
        ({"vllm_ascend": None}, "fail", "/opt/python has no vllm-ascend"),
    ],
)
def test_versions_that_do_not_belong_together_are_told(changed: Any, status: str, told: str):
    finding = only(check_engine(versions(**changed)))
    assert (finding.status, finding.topic) == (status, "versions")
    assert told in finding.message


@pytest.mark.parametrize(
    ("cann", "status"),
    [
        (None, "fail"),
        ("9.0.1", "fail"),
        ("8.3.RC2", "fail"),
        ("9.1.0", "ok"),
        ("9.2.0", "warn"),
        ("8.2.RC1.alpha003", "fail"),
    ],
)
def test_cann_must_be_the_rows(cann: str | None, status: str):
    assert worst(check_engine(host(cann=cann))) == status


@pytest.mark.parametrize(
    ("driver", "status"),
    [
        (None, "fail"),
        ("24.1.rc3", "warn"),
        ("25.5.1", "ok"),
        ("26.0.rc1", "ok"),
        ("25.0.rc1.1", "warn"),
        ("odd", "warn"),
    ],
)
def test_an_old_driver_runs_out_of_streams_sooner(driver: str | None, status: str):
    assert worst(check_engine(host(driver=driver))) == status


@pytest.mark.parametrize(
    ("build", "name", "status"),
    [
        ("A2", "910B3", "ok"),
        ("A2", "Ascend910", "fail"),
        ("A3", "Ascend910", "ok"),
        ("A3", "910B3", "fail"),
        ("A2", "310P3", "fail"),
        ("_310P", "310P3", "ok"),
        ("", "Ascend910", "ok"),
        ("A2", "something new", "ok"),
    ],
)
def test_a_build_for_other_npus_is_told(build: str, name: str, status: str):
    facts = engine(info=INFO.model_copy(update={"build": build}))
    facts = replace(facts, devices=DeviceFacts((replace(NPUS[0], name=name),)))
    assert worst(check_engine(facts)) == status


def test_an_engine_that_sees_no_device_is_told_with_what_to_source():
    finding = only(check_engine(engine(info=INFO.model_copy(update={"platform": ""}))))
    assert finding.message == "vLLM sees no device, profile vllm says ascend"
    assert "set_env.sh" in finding.fix


def test_an_engine_of_another_platform_is_told():
    finding = only(check_engine(engine(info=INFO.model_copy(update={"platform": "cpu"}))))
    assert finding.message == "vLLM sees the platform 'cpu', profile vllm says ascend"


def test_what_of_an_engine_cannot_be_loaded_is_told_once():
    broken = INFO.model_copy(update={"platform": "", "problems": ("platform: ImportError: libascend_hal.so",)})
    assert "libascend_hal.so" in only(check_engine(engine(info=broken))).message


def test_no_engine_is_a_failure_with_its_reason():
    finding = only(check_engine(engine(info=None, problem="no vLLM was found")))
    assert (finding.status, finding.message) == ("fail", "no vLLM was found")


def test_an_engine_that_nobody_tried_is_a_warning():
    info = INFO.model_copy(update={"platform": "cuda", "versions": {"python": "3.11.1", "vllm": "0.9.2"}})
    facts = replace(engine(info=info), platform="cuda")
    assert only(check_engine(facts)).message.startswith("vLLM 0.9.2 is older than 0.23.0")


# Devices


def test_cards_with_an_alarm_are_a_warning_while_others_are_well():
    finding = only(check_devices(devices(NPUS[0], replace(NPUS[1], health="Alarm"))))
    assert (finding.status, finding.message) == ("warn", "not usable: 1: Alarm; trials keep away from them")


def test_no_card_that_is_well_is_a_failure():
    finding = only(check_devices(devices(*(replace(npu, health="Critical") for npu in NPUS))))
    assert (finding.status, finding.topic) == ("fail", "devices")


def test_a_card_with_a_warning_is_usable():
    finding = only(check_devices(devices(replace(NPUS[0], health="Warning", complaint="80E01801"), NPUS[1])))
    assert finding.message == "usable, but 0: Warning: 80E01801"


def test_a_card_that_npu_smi_does_not_show_is_missed():
    finding = only(check_devices(devices(NPUS[0])))
    assert (finding.status, finding.topic) == ("warn", "device nodes")
    assert finding.message.startswith("2 devices in /dev, npu-smi shows 1")


def test_who_uses_a_card_is_told():
    used = replace(NPUS[1], memory_used_mib=50000, processes=(DeviceProcess(4711, "python", 46000),))
    assert only(check_devices(devices(NPUS[0], used))).message == "in use: 1 (pid 4711 python)"


def test_memory_without_a_process_is_told_too():
    used = replace(NPUS[1], memory_used_mib=50000)
    assert only(check_devices(devices(NPUS[0], used))).message == "in use: 1 (50000 MiB, no process shown)"


@pytest.mark.parametrize(
    ("problem", "fix"),
    [
        ("dcmi module initialize failed. ret is -8020", "another container holds the NPUs"),
        ("cannot run npu-smi: No such file", "mount npu-smi and the driver"),
    ],
)
def test_a_tool_that_fails_is_told_with_what_it_means(problem: str, fix: str):
    assert fix in only(check_devices(devices(problem=problem))).fix


def test_missing_device_nodes_are_told_as_flags():
    finding = only(check_devices(host(nodes=frozenset({"davinci_manager", "hisi_hdc"}))))
    assert finding.message == "missing: /dev/davinci0, /dev/devmm_svm"
    assert finding.fix == "start the container with --device /dev/davinci0 --device /dev/devmm_svm"


def test_a_bare_host_is_not_told_of_containers():
    facts = host(in_container=False, nodes=frozenset(), mounted=frozenset())
    found = check_devices(replace(facts, devices=DeviceFacts(problem="cannot run npu-smi: No such file")))
    told = [one.fix for one in found if one.status != "ok"]
    assert len(told) == 3
    assert all("driver" in fix and "container" not in fix for fix in told)


def test_nodes_that_may_not_be_opened_are_told():
    finding = only(check_devices(host(closed_nodes=frozenset({"davinci0"}))))
    assert "/dev/davinci0" in finding.message
    assert finding.fix == "add the user to HwHiAiUser"


@pytest.mark.parametrize(
    ("missing", "status"), [("/etc/ascend_install.info", "warn"), ("/usr/local/Ascend/driver/lib64", "fail")]
)
def test_missing_mounts_are_told_as_flags(missing: str, status: str):
    finding = only(check_devices(host(mounted=frozenset(ASCEND_MOUNTS) - {missing})))
    assert (finding.status, finding.fix) == (status, f"start the container with -v {missing}:{missing}")


def test_ports_that_hccl_needs_must_be_free():
    """The second NPU's block is 20016-20031."""
    finding = only(check_devices(host(listening=frozenset({20017, 20032}))))
    assert (finding.status, finding.message) == ("fail", "HCCL ports in use: 20017")


def test_the_ports_of_an_npu_at_work_are_its_engines():
    at_work = replace(NPUS[1], processes=(DeviceProcess(7, "VLLM::Worker", 60000),))
    facts = replace(devices(NPUS[0], at_work), host=replace(HOST, listening=frozenset({20017})))
    found = [one for one in check_devices(facts) if one.topic == "HCCL ports"]
    assert [(one.status, one.message) for one in found] == [("warn", "NPUs at work use theirs: 1")]


def test_the_ports_of_an_npu_follow_its_number_on_the_host():
    """Two mounted NPUs are counted from 0; their engines take the blocks of 4 and 5."""
    nodes = (HOST.nodes - {"davinci0", "davinci1"}) | {"davinci4", "davinci5"}
    finding = only(check_devices(host(nodes=nodes, listening=frozenset({20000 + 16 * 5}))))
    assert (finding.status, finding.message) == ("fail", "HCCL ports in use: 20080")


def test_ports_that_anyone_may_get_are_a_warning():
    finding = only(check_devices(host(ephemeral=(20020, 60999))))
    assert finding.message == "the ports 20016-20031 lie in net.ipv4.ip_local_port_range: anyone may get them"


# Host


@pytest.mark.parametrize(("mib", "status"), [(None, "fail"), (64, "fail"), (512, "warn"), (1024, "ok")])
def test_shared_memory_is_what_the_official_recipes_use(mib: int | None, status: str):
    assert worst(check_host(host(shm_bytes=None if mib is None else mib * 2**20))) == status


def test_a_container_is_told_the_flag():
    assert only(check_host(host(shm_bytes=2**26))).fix == "start the container with --shm-size=1g"


def test_a_310p_wants_more_shared_memory():
    """As its recipes start it."""
    facts = replace(host(shm_bytes=2**30), devices=DeviceFacts((replace(NPUS[0], name="310P3"),)))
    assert only(check_host(facts)).fix == "start the container with --shm-size=10g"


def test_slow_cores_are_told():
    finding = only(check_host(host(governors={"performance": 60, "powersave": 4})))
    assert finding.message == "the governor is powersave on 4 cores"


@pytest.mark.parametrize(("nodes", "warned"), [(4, True), (1, False)])
def test_numa_balancing_matters_where_there_are_several_nodes(nodes: int, warned: bool):
    assert (worst(check_host(host(numa_balancing=True, numa_nodes=nodes))) == "warn") is warned


def test_too_few_cores_for_binding_are_told():
    assert "9 cores for 2 NPUs" in only(check_host(host(cores=9))).message


@pytest.mark.parametrize(
    ("libraries", "found", "told"),
    [
        ({}, (JEMALLOC,), f"{JEMALLOC} is there but engines do not preload it"),
        ({}, (), "not installed"),
        ({"/usr/lib64/libjemalloc.so.2": False}, (JEMALLOC,), "LD_PRELOAD names /usr/lib64/libjemalloc.so.2"),
    ],
)
def test_jemalloc_must_be_preloaded(libraries: Any, found: Any, told: str):
    facts = replace(host(jemalloc=found), engine=replace(ASCEND.engine, libraries=libraries))
    finding = only(check_host(facts))
    assert finding.topic == "jemalloc"
    assert told in finding.message


def test_tcmalloc_will_do():
    facts = engine(libraries={"/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4": True})
    assert bad(check_host(facts)) == []


# Ray, disk, database


def test_an_old_ray_is_a_failure():
    assert [worst(check_ray(RayFacts(version, "3.11"))) for version in ("2.46.0", "2.47.1")] == ["fail", "ok"]


def test_a_cluster_must_have_the_same_versions():
    (finding,) = check_ray(RayFacts("2.60.0", "3.11.7", "10.0.0.1:6379"))
    assert "Ray 2.60.0, Python 3.11.7; the cluster at 10.0.0.1:6379" in finding.message


@pytest.mark.parametrize(
    ("gib", "writable", "status"), [(0.5, True, "fail"), (5, True, "warn"), (50, True, "ok"), (50, False, "fail")]
)
def test_the_disk_has_room_for_logs(gib: float, writable: bool, status: str):
    assert worst(check_disk(DiskFacts(Path("/home"), int(gib * GIB), writable))) == status


@pytest.mark.parametrize(
    ("exists", "revision", "status"),
    [(False, None, "ok"), (True, None, "ok"), (True, "0001", "ok"), (True, "9999", "fail")],
)
def test_a_database_of_a_newer_version_is_a_failure(exists: bool, revision: str | None, status: str):
    state = DatabaseState("sqlite:////home/autotune.db", exists, revision, "0002")
    assert worst(check_database(DatabaseFacts(state))) == status


def test_a_database_that_cannot_be_reached_is_a_failure():
    assert only(check_database(DatabaseFacts(problem="no server"))).message == "no server"


# Jobs


SPEC = JobSpec.model_validate(
    {
        "version": 1,
        "name": "chat",
        "model": "/models/llama",
        "devices": {"resource": "NPU"},
        "search_space": "ascend-dense",
        "workload": "chat",
        "sla": {"p99_ttft_ms": 800},
    }
)
LLAMA_70B = {
    "model_type": "llama",
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "vocab_size": 128256,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}


def job(folder: Path, *ranks: int, changed: Any = None) -> JobFacts:
    (folder / "config.json").write_text(json.dumps({**LLAMA_70B, **(changed or {})}))
    shapes = tuple(Shape(8192, Parallel(tensor=number)) for number in ranks)
    return JobFacts(spec=SPEC, card=read_model(folder), shapes=shapes)


def test_widths_with_room_and_without_are_told_apart(tmp_path: Path):
    findings = check_job(replace(ASCEND, job=job(tmp_path, 2, 4)))
    assert [one.status for one in findings] == ["ok", "ok", "ok", "warn"]
    assert "70.55 billion parameters, 131.4 GiB of weights" in findings[1].message
    assert findings[2].message.startswith("TP 4: 32.9 GiB of weights on each of 4 x 61.0 GiB, ")
    assert "TP 2: 65.7 GiB of weights on each of 2 x 61.0 GiB leave no room" in findings[3].message


def test_of_a_910_the_drivers_share_is_not_counted(tmp_path: Path):
    """npu-smi says 65536 MiB, torch_npu 60.96 GiB; of other devices the tool says what there is."""
    others = tuple(replace(npu, name="310P3", memory_total_mib=44216) for npu in NPUS)
    facts = replace(ASCEND, devices=DeviceFacts(others), job=job(tmp_path, 4))
    assert "on each of 4 x 43.2 GiB" in check_job(facts)[2].message


def test_a_job_that_fits_nowhere_is_a_failure(tmp_path: Path):
    finding = only(check_job(replace(ASCEND, job=job(tmp_path, 1))))
    assert (finding.status, finding.topic) == ("fail", "memory")


def test_a_width_that_vllm_refuses_is_told(tmp_path: Path):
    facts = replace(ASCEND, job=job(tmp_path, 4, 8, changed={"num_attention_heads": 28, "num_key_value_heads": 4}))
    assert "TP 8: 28 attention heads cannot be divided by 8" in only(check_job(facts)).message


def test_a_model_that_this_vllm_does_not_know_is_a_failure(tmp_path: Path):
    support = ModelSupport(architectures=("NovelForCausalLM",), unsupported=("NovelForCausalLM",))
    facts = replace(engine(info=INFO.model_copy(update={"model": support})), job=job(tmp_path, 4))
    assert "NovelForCausalLM is not among the architectures" in only(check_job(facts)).message


def test_a_job_for_other_devices_is_a_failure(tmp_path: Path):
    facts = replace(ASCEND, platform="cuda", job=job(tmp_path, 4))
    finding = only(check_job(facts))
    assert finding.message == "the job wants NPU, profile vllm runs on GPU"


def test_without_an_engine_nothing_is_said_of_the_jobs_devices(tmp_path: Path):
    nowhere = EngineFacts("vllm", problem="no vLLM was found")
    assert [
        one
        for one in check_job(replace(ASCEND, platform="cpu", engine=nowhere, job=job(tmp_path, 4)))
        if one.topic == "job" and one.status != "ok"
    ] == []


def test_every_problem_of_a_job_file_is_told():
    findings = check_job(replace(ASCEND, job=JobFacts(problems=("line 3: name", "line 5: sla"))))
    assert [finding.message for finding in findings] == ["line 3: name", "line 5: sla"]


def test_a_model_that_is_nowhere_is_a_failure():
    facts = replace(ASCEND, job=JobFacts(problems=("model 'x': no folder",), spec=SPEC))
    assert only(check_job(facts)).topic == "model"


def test_the_memory_of_weights_that_are_not_known_is_not_judged(tmp_path: Path):
    finding = only(check_job(replace(ASCEND, job=job(tmp_path, 1, changed={"model_type": "novel"}))))
    assert finding.message == "not judged: the size of the weights is not known"


def test_on_a_cpu_the_main_memory_counts(tmp_path: Path):
    spec = SPEC.model_copy(update={"devices": SPEC.devices.model_copy(update={"resource": "CPU"})})
    facts = replace(ASCEND, platform="cpu", job=replace(job(tmp_path, 1), spec=spec))
    assert worst(check_job(facts)) == "ok"
    small = replace(facts, host=replace(HOST, memory_bytes=16 * GIB))
    assert only(check_job(small)).topic == "memory"
