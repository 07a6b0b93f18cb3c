"""Devices as their tools report them, and how engines are pinned to them."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import EnvironmentProblem
from autotune.platforms import (
    PLATFORMS,
    Device,
    DeviceProcess,
    DeviceToolFailed,
    Utilization,
    ascend,
    cpu,
    cuda,
    idle,
    tool,
)
from autotune.platforms.npu_smi import parse_complaint, parse_info, parse_mapping
from autotune.platforms.tool import run

FIXTURES = Path(__file__).parent.parent / "data" / "npu_smi"


def info(name: str) -> str:
    return (FIXTURES / f"info_{name}.txt").read_text()


def by_id(devices: tuple[Device, ...]) -> dict[str, Device]:
    return {device.id: device for device in devices}


def fake_tool(folder: Path, name: str, script: str) -> None:
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)


def test_a2_shows_eight_idle_devices_by_card_number():
    devices = parse_info(info("a2_idle"))
    assert [device.id for device in devices] == ["0", "1", "2", "3", "4", "5", "6", "7"]
    assert devices[2] == Device("2", "910B3", "OK", memory_used_mib=3376, memory_total_mib=65536, driver_mib=4096)
    assert all(device.idle and device.usable for device in devices)


def test_a2_with_32_gb_reads_a_used_value_that_touches_the_slash():
    devices = parse_info(info("a2_32g"))
    assert (devices[0].memory_used_mib, devices[0].memory_total_mib) == (26838, 32768)
    assert devices[0].processes == (DeviceProcess(7, "python", 23468),)


def test_the_drivers_own_share_of_a_32_gb_card_counts_as_idle():
    devices = parse_info(info("a2_32g"))
    assert devices[1].memory_used_mib == 3373  # more than a tenth of 32768
    assert (devices[1].idle, devices[0].idle) == (True, False)


def test_memory_that_nobody_shows_a_process_for_is_not_idle():
    assert not Device("0", "910B3", "OK", 20000, 65536, driver_mib=4096).idle


def test_alarm_and_critical_devices_are_not_usable():
    devices = by_id(parse_info(info("a2_busy_alarm")))
    assert (devices["6"].health, devices["6"].usable) == ("Alarm", False)
    assert (devices["7"].health, devices["7"].usable) == ("Critical", False)
    assert devices["0"].usable


def test_a_process_with_a_blank_name_counts():
    devices = by_id(parse_info(info("a2_busy_alarm")))
    assert devices["2"].processes == (DeviceProcess(133001, "", 37709),)
    assert not devices["2"].idle


def test_several_processes_of_one_device_are_all_listed():
    devices = by_id(parse_info(info("a2_busy_alarm")))
    assert [process.pid for process in devices["5"].processes] == [133990, 133991]


def test_a3_has_two_devices_per_card_and_processes_on_each_die():
    devices = by_id(parse_info(info("a3")))
    assert len(devices) == 16
    assert (devices["15"].name, devices["15"].memory_used_mib) == ("Ascend910", 2892)
    assert devices["0"].processes == (DeviceProcess(41007, "", 50128),)
    assert devices["1"].processes == (DeviceProcess(41009, "", 50119),)
    assert devices["2"].idle


@pytest.mark.parametrize(
    ("there", "lost", "health"),
    [("| OK  ", "| Offline", "UNKNOWN"), ("| OK  ", "| --  ", "UNKNOWN"), ("3370 / 65536", "NA   / NA   ", "UNKNOWN")],
)
def test_a_card_that_is_read_in_part_stays_and_is_not_well(there: str, lost: str, health: str):
    """Left out, it would pass for a mistake in the numbering."""
    text = info("a2_idle")
    assert there in text
    devices = parse_info(text.replace(there, lost, 1))
    assert [device.id for device in devices] == [device.id for device in parse_info(text)]
    assert [device.usable for device in devices] == [False, *[True] * 7]
    assert devices[0].health == health


def test_310p_reads_memory_usage_and_the_device_number_of_the_second_row():
    devices = parse_info(info("310p"))
    assert [(d.id, d.name, d.memory_used_mib, d.memory_total_mib) for d in devices] == [
        ("0", "310P3", 1531, 44280),
        ("1", "310P3", 1410, 43693),
    ]


def test_950_reads_hbm_and_a_device_without_bus_id():
    devices = by_id(parse_info(info("950")))
    assert (devices["0"].health, devices["0"].memory_used_mib) == ("Alarm", 90600)
    assert (devices["2"].name, devices["2"].memory_used_mib, devices["2"].memory_total_mib) == (
        "Ascend950PR",
        6640,
        131072,
    )


def test_a_950_process_row_has_no_chip_column():
    text = info("950") + "| 1                         | 4242          | python             | 512       | 17 |\n"
    assert by_id(parse_info(text))["1"].processes == (DeviceProcess(4242, "python", 512),)


def test_a3_of_a_new_driver_reads_a_wider_table_with_pids_inside_the_container():
    devices = by_id(parse_info(info("a3_wide"), parse_mapping((FIXTURES / "m_a3.txt").read_text())))
    assert {name: (d.health, d.memory_used_mib) for name, d in devices.items()} == {
        "0": ("OK", 31877),
        "1": ("Warning", 2880),
        "2": ("UNKNOWN", 3131),
        "3": ("OK", 2871),
    }
    assert devices["0"].processes == (DeviceProcess(31006, "", 28751),)
    assert [device.usable for device in devices.values()] == [True, True, False, True]


@pytest.mark.parametrize("mapping", ["", "m_310p.txt"])
def test_310p_counts_devices_from_0_whatever_the_cards_are_numbered(mapping: str):
    known = parse_mapping((FIXTURES / mapping).read_text()) if mapping else None
    devices = by_id(parse_info(info("310p_na"), known))
    assert {name: device.memory_used_mib for name, device in devices.items()} == {"0": 1478, "1": 18404}
    assert devices["1"].processes == (DeviceProcess(15544, "", 16933),)
    assert (devices["0"].idle, devices["1"].idle) == (True, False)


def test_950_names_a_process_and_counts_as_its_physical_ids_do():
    mapping = parse_mapping((FIXTURES / "m_950.txt").read_text())
    assert mapping == {(0, 0): 0, (1, 0): 1, (2, 0): 2}
    devices = by_id(parse_info(info("950_busy"), mapping))
    assert devices["0"].processes == (DeviceProcess(8812, "VLLM::Worker_TP", 103400),)
    assert (devices["1"].health, devices["1"].usable, devices["1"].idle) == ("Critical", False, True)


@pytest.mark.parametrize(
    ("file", "complaint"),
    [("health_alarm", "80E01801, node type=HBM, sensor type=ECC, event state=assertion"), ("health_ok", "")],
)
def test_what_is_wrong_with_a_chip_is_read_from_its_health(file: str, complaint: str):
    assert parse_complaint((FIXTURES / f"{file}.txt").read_text()) == complaint


@pytest.mark.parametrize(
    ("shown", "nodes", "counted"),
    [
        ("0 1 2 3", [], {"0": "0", "1": "1", "2": "2", "3": "3"}),  # no node to be seen: as npu-smi says
        ("0 1 2 3", [0, 1, 2, 3], {"0": "0", "1": "1", "2": "2", "3": "3"}),  # a host
        ("4 5", [4, 5], {"4": "0", "5": "1"}),  # a container, npu-smi with the host's numbers
        ("0 1", [4, 5], {"0": "0", "1": "1"}),  # … with its own
        ("0 1 2 3 4 5 6 7", [4, 5], {"4": "0", "5": "1"}),  # … and with all of the host
        ("0 1 2 3 4 5 6 7 8 9 10 11", [2, 10], {"2": "0", "10": "1"}),
        ("2 3 4", [2, 3, 4, 5], {"2": "0", "3": "1", "4": "2"}),  # a container whose last card is not shown
        ("4 5 7", [4, 5, 6, 7], {"4": "0", "5": "1", "7": "3"}),
        ("0 1 3", [0, 1, 2, 3], {"0": "0", "1": "1", "3": "3"}),  # a host with a card that is not shown
    ],
)
def test_in_a_container_devices_are_counted_as_the_runtime_does(shown: str, nodes: list[int], counted: dict[str, str]):
    assert ascend.runtime_ids(shown.split(), nodes) == counted


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with NPU 5 and 2 of a host, whose npu-smi goes on counting as the host does."""
    nodes = tmp_path / "dev"
    nodes.mkdir()
    for name in ("davinci2", "davinci5", "davinci_manager", "davinci_manager1"):
        (nodes / name).touch()
    monkeypatch.setattr(ascend, "_NODES", nodes)


@pytest.mark.usefixtures("container")
def test_a_container_shows_its_own_npus_only_by_the_ids_that_engines_are_given(npu_smi):
    npu_smi("info_a2_busy_alarm.txt", "m_a2.txt")
    devices = ascend.discover()
    shown = [(device.id, [process.pid for process in device.processes]) for device in devices]
    assert shown == [("0", [133001]), ("1", [133990, 133991])]


@pytest.mark.usefixtures("container")
def test_containers_on_one_network_have_hccl_ports_by_the_hosts_numbers():
    assert ascend.environment(["0", "1"])["HCCL_IF_BASE_PORT"] == str(20000 + 16 * 2)
    assert ascend.environment(["1"])["HCCL_IF_BASE_PORT"] == str(20000 + 16 * 5)


@pytest.mark.usefixtures("container")
def test_a_container_asks_for_the_utilization_of_the_cards_that_are_meant(npu_smi, tmp_path: Path):
    npu_smi("info_a2_idle.txt", "m_a2.txt", usages="usages_a2.txt")
    found = ascend.utilization(["1"])
    assert found == Utilization(compute=0.37, memory_bandwidth=0.41)
    assert (tmp_path / "asked").read_text().splitlines()[-1] == "info -t usages -i 5"


def test_an_unwell_device_says_what_npu_smi_says_of_it(npu_smi):
    npu_smi("info_a2_busy_alarm.txt", "m_a2.txt", health="health_alarm.txt")
    devices = by_id(ascend.discover())
    assert devices["6"].health_text == "Alarm: 80E01801, node type=HBM, sensor type=ECC, event state=assertion"
    assert devices["0"].health_text == "OK"


def test_a_driver_that_refuses_the_mapping_is_read_by_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = FIXTURES / "info_a3.txt"
    fake_tool(tmp_path, "npu-smi", f'[ "$2" = -m ] && exit 1; cat {table}')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert [device.id for device in ascend.discover()] == [str(number) for number in range(16)]


def test_hccl_ports_lie_below_those_that_linux_gives_away_whatever_a_chip_is_numbered():
    assert 20000 <= int(ascend.environment(["32768"])["HCCL_IF_BASE_PORT"]) < 32768 - 16


def test_the_error_of_a_device_held_elsewhere_shows_no_device():
    assert parse_info((FIXTURES / "err_dcmi.txt").read_text()) == ()


def test_the_mapping_leaves_management_chips_out():
    mapping = parse_mapping((FIXTURES / "m_a3.txt").read_text())
    assert len(mapping) == 16
    assert (mapping[0, 1], mapping[7, 0]) == (1, 14)
    assert parse_mapping((FIXTURES / "m_a2.txt").read_text())[5, 0] == 5


def test_a_given_mapping_decides_the_ids():
    devices = parse_info(info("310p"), {(2, 0): 4, (2, 1): 5})
    assert [device.id for device in devices] == ["4", "5"]


@given(st.text())
def test_any_text_is_read_without_an_error(text: str):
    assert isinstance(parse_info(text), tuple)
    assert isinstance(parse_mapping(text), dict)


def test_visible_npus_are_sorted_by_number():
    assert ascend.visibility(["10", "9", "2"]) == {"ASCEND_RT_VISIBLE_DEVICES": "2,9,10"}


def test_engines_on_neighbouring_npus_have_hccl_port_blocks_of_sixteen_that_do_not_meet():
    assert ascend.environment(["4", "3"])["HCCL_IF_BASE_PORT"] == "20048"
    assert ascend.environment(["5"])["HCCL_IF_BASE_PORT"] == "20080"


def test_every_platform_names_its_cluster_resource():
    assert {name: module.RESOURCE for name, module in PLATFORMS.items()} == {
        "ascend": "NPU",
        "cuda": "GPU",
        "cpu": "CPU",
        "simulated": "any",
    }


def test_visible_gpus_are_numbered_as_nvidia_smi_does():
    assert cuda.visibility(["1", "0"]) == {"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_gpu_processes_belong_to_the_gpu_with_their_uuid():
    gpus = "0, GPU-aa, NVIDIA L4, 1, 23034\n1, GPU-bb, NVIDIA L4, 20000, 23034\n"
    processes = "GPU-bb, 77, python3, 19990\n"
    first, second = cuda.parse(gpus, processes)
    assert first == Device("0", "NVIDIA L4", "OK", 1, 23034, ())
    assert second.processes == (DeviceProcess(77, "python3", 19990),)
    assert (first.idle, second.idle) == (True, False)


def test_a_gpu_with_unified_memory_has_none_of_its_own():
    (device,) = cuda.parse("0, GPU-aa, NVIDIA GB10, [N/A], [N/A]\n", "")
    assert (device.memory_used_mib, device.idle) == (None, True)


def test_a_core_is_left_to_the_api_server():
    assert cpu.thread_binding(["0", "1", "2", "3"], 1, {}) == "0,1,2"


def test_a_single_core_is_used_whole():
    assert cpu.thread_binding(["5"], 1, {}) == "5"


def test_ranks_get_blocks_of_equal_size():
    assert cpu.thread_binding(["0", "1", "2", "3", "4", "5"], 2, {}) == "0,1|3,4"


def test_one_hardware_thread_of_each_physical_core_is_bound():
    siblings = {"0": "0,2", "2": "0,2", "1": "1,3", "3": "1,3"}
    assert cpu.thread_binding(["0", "1", "2", "3"], 1, siblings) == "2"


@given(st.integers(1, 64), st.integers(1, 8))
def test_every_rank_is_bound_to_cores_of_its_own_when_there_are_enough(cores: int, ranks: int):
    if cores < ranks:
        return
    binding = cpu.thread_binding([str(core) for core in range(cores)], ranks, {})
    blocks = [block.split(",") for block in binding.split("|")]
    bound = [core for block in blocks for core in block]
    assert len(blocks) == ranks
    assert len(set(bound)) == len(bound)


def test_the_cpu_has_nothing_to_wait_for():
    assert cpu.idle_command(["0"]) is None


def test_the_cpu_shows_the_cores_this_process_may_use():
    assert {int(device.id) for device in cpu.discover()} == os.sched_getaffinity(0)


@pytest.fixture
def npu_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a scripted npu-smi on the PATH that prints these files."""

    def put(
        layout: str, mapping: str, exit_code: int = 0, *, health: str = "health_ok.txt", usages: str = "usages_a2.txt"
    ) -> None:
        script = (
            f'echo "$@" >> {tmp_path}/asked\n'
            f'case "$*" in *" -m") cat {FIXTURES / mapping} ;; *health*) cat {FIXTURES / health} ;; '
            f"*usages*) cat {FIXTURES / usages} ;; *) cat {FIXTURES / layout} ;; esac; exit {exit_code}"
        )
        fake_tool(tmp_path, "npu-smi", script)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return put


@pytest.mark.parametrize(("devices", "code"), [(["0", "1"], 0), (["2"], 1), (["0", "5"], 1), (["12"], 1)])
def test_the_idle_command_judges_the_named_devices_only(npu_smi, devices: list[str], code: int):
    npu_smi("info_a2_busy_alarm.txt", "m_a2.txt")
    assert idle.main(["ascend", *devices]) == code


def test_the_idle_command_exits_2_when_the_tool_fails(npu_smi):
    npu_smi("err_dcmi.txt", "err_dcmi.txt", exit_code=1)
    assert idle.main(["ascend", "0"]) == 2


def test_a_tool_that_shows_no_device_is_a_problem_with_advice(npu_smi):
    npu_smi("err_dcmi.txt", "m_a2.txt")
    with pytest.raises(EnvironmentProblem, match="another container"):
        ascend.discover()


def test_a_missing_tool_is_a_problem_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="cannot run nvidia-smi"):
        cuda.discover()


def test_a_tool_that_hangs_is_given_up(tmp_path: Path):
    fake_tool(tmp_path, "wedged", "exec sleep 60")
    with pytest.raises(DeviceToolFailed, match=r"did not answer within 0\.2 s"):
        run((str(tmp_path / "wedged"),), timeout_s=0.2)


def test_a_hanging_npu_smi_does_not_pass_for_an_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A question that is only refused has another answer; after one that hangs none is asked."""
    fake_tool(tmp_path, "npu-smi", f'[ "$2" = -m ] && exec sleep 60; cat {FIXTURES / "info_a2_idle.txt"}')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(tool, "TIMEOUT_S", 0.5)
    with pytest.raises(DeviceToolFailed, match="`npu-smi info -m` did not answer"):
        ascend.discover()
