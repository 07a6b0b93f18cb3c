"""Reads what `npu-smi info` prints for A2, A3, 310P and 950, old and new drivers."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autotune.platforms.device import Device, DeviceProcess, Utilization

UNKNOWN = "UNKNOWN"
HEALTH_WORDS = ("OK", "Warning", "Alarm", "Critical", UNKNOWN)

_DRIVER_MIB = 4096  # idle A2 cards show 3360-3455 MiB, which is more than a tenth of a 32 GB card
_BUS_ID = re.compile(r"^(?:[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]|NA)$")
_USAGE = re.compile(r"^\s*(Aicore Usage Rate\(%\)|HBM Bandwidth Usage Rate\(%\)|Chip ID)\s*:\s*(\d+)\s*$")
_HEALTH = re.compile(r"^\s*(Error Code|Error Information)\s*:(.*)$", re.MULTILINE)
_PAIR = re.compile(r"(\d+)\s*/\s*(\d+)")

Place = tuple[int, int]  # card ("NPU ID") and chip on it


@dataclass(frozen=True, slots=True)
class _Chip:
    place: Place
    logic_id: int | None  # "Phy-ID" (A3) or "Device" (310P) where the table has it
    name: str
    health: str
    used_mib: int | None
    total_mib: int | None


def parse_info(text: str, logic_ids: Mapping[Place, int] | None = None) -> tuple[Device, ...]:
    """The devices in the output of `npu-smi info`, by logic id, with their processes; empty when it shows none.

    A device's id is its logic id, which ASCEND_RT_VISIBLE_DEVICES counts: from `logic_ids` (see `parse_mapping`) if
    given, else from the table's second row, else the card's number. Memory in MiB is the last `used / total` pair of
    a device: on 910 and 950 the first pair is not HBM and reads 0 / 0. Raises nothing on unknown lines.
    """
    table, _, process_table = text.partition("Process id")
    chips = _chips(table)
    processes = _processes(process_table)
    known = logic_ids or {}
    devices = []
    for chip in chips:
        own = chip.place[0] if chip.logic_id is None else chip.logic_id
        devices.append(
            Device(
                id=str(known.get(chip.place, own)),
                name=chip.name,
                health=chip.health,
                memory_used_mib=chip.used_mib,
                memory_total_mib=chip.total_mib,
                processes=tuple(processes.get(chip.place, ())),
                driver_mib=_DRIVER_MIB,
            )
        )
    return tuple(sorted(devices, key=lambda device: int(device.id)))


def parse_mapping(text: str) -> dict[Place, int]:
    """Card and chip -> logic id, from `npu-smi info -m`; management chips (Mcu) have none and are left out.

    The table of a 950 has no logic ids; its physical ones are taken, which on the host are the same.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return {}
    columns = re.split(r"\s{2,}", lines[0])
    counted = next((name for name in ("Chip Logic ID", "Chip Phy-ID") if name in columns), None)
    if counted is None or not {"NPU ID", "Chip ID"} <= set(columns):
        return {}
    card, chip, logic = (columns.index(name) for name in ("NPU ID", "Chip ID", counted))
    mapping: dict[Place, int] = {}
    for line in lines[1:]:
        cells = re.split(r"\s{2,}", line)
        if len(cells) > logic and all(cells[place].isdigit() for place in (card, chip, logic)):
            mapping[int(cells[card]), int(cells[chip])] = int(cells[logic])
    return mapping


def parse_complaint(text: str) -> str:
    """What is wrong with a chip, from `npu-smi info -t health -i CARD -c CHIP`; empty when it does not say."""
    said = {match[1]: match[2].strip() for match in _HEALTH.finditer(text)}
    told = (said.get("Error Code", ""), said.get("Error Information", ""))
    return ", ".join(words for words in told if words not in ("", "NA"))


def parse_usages(text: str) -> dict[int, Utilization]:
    """Chip -> shares (0-1), from `npu-smi info -t usages -i CARD`; the chip's number ends the lines about it.

    An A3 does not show its bandwidth. `HBM Usage Rate` is how full the memory is, and is left out.
    """
    found: dict[int, Utilization] = {}
    percent: dict[str, int] = {}
    for line in text.splitlines():
        match = _USAGE.match(line)
        if match is None:
            continue
        if match[1] != "Chip ID":
            percent[match[1]] = int(match[2])
            continue
        core, bandwidth = percent.get("Aicore Usage Rate(%)"), percent.get("HBM Bandwidth Usage Rate(%)")
        found[int(match[2])] = Utilization(_share(core), _share(bandwidth))
        percent = {}
    return found


def _share(percent: int | None) -> float | None:
    return None if percent is None else percent / 100


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _chips(table: str) -> list[_Chip]:
    chips: list[_Chip] = []
    card: tuple[int, str, str] | None = None  # first row: card number, name, health; the second row completes it
    for line in table.splitlines():
        cells = _cells(line)
        if card is None:
            card = _card(cells)
            continue
        pairs = _PAIR.findall(line)
        if any(map(_BUS_ID.match, cells)):
            numbers = [int(word) for word in cells[0].split() if word.isdigit()]
            used, total = map(int, pairs[-1]) if pairs and int(pairs[-1][1]) else (None, None)
            place = (card[0], numbers[0] if numbers else 0)
            logic_id = numbers[1] if len(numbers) > 1 else None
            health = UNKNOWN if total is None else card[2]  # what its driver does not tell the size of it has lost
            chips.append(_Chip(place, logic_id, card[1], health, used, total))
        card = None
    return chips


def _card(cells: list[str]) -> tuple[int, str, str] | None:
    """Number, name and health of a card's first row. A word that is no health known here is told as UNKNOWN."""
    health = next((cell for cell in cells[1:] if cell in HEALTH_WORDS), None)
    words = cells[0].split()
    if not words or not words[0].isdigit():
        return None
    if health is None:
        is_row = len(cells) > 2 and len(words) > 1 and not words[1].isdigit() and not any(map(_BUS_ID.match, cells))
        if not is_row:
            return None
        health = UNKNOWN
    return int(words[0]), " ".join(words[1:]) or cells[1], health


def _processes(table: str) -> dict[Place, list[DeviceProcess]]:
    """Rows are `card chip | pid | name | MB`; a 950 has no chip, new drivers add a column, the name may be blank."""
    found: dict[Place, list[DeviceProcess]] = {}
    for line in table.splitlines():
        cells = _cells(line)
        place = [int(word) for word in cells[0].split() if word.isdigit()]
        if len(cells) < 4 or not place or not cells[1].isdigit():
            continue
        memory = int(cells[3]) if cells[3].isdigit() else None
        chip = place[1] if len(place) > 1 else 0
        found.setdefault((place[0], chip), []).append(DeviceProcess(int(cells[1]), cells[2], memory))
    return found
