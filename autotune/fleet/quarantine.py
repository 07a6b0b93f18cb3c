"""Devices that are not well: who holds them so that no trial gets them."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from autotune.fleet.actor import holder, place_of
from autotune.results import TrialResult
from autotune.telemetry import get_logger

log = get_logger()

ANSWER_TIMEOUT_S = 10.0  # of an actor that has just finished a trial
SORTING_S = 60.0  # until every freed device should have been found again; who else has one finds out for himself


@dataclass(frozen=True, slots=True)
class _Held:
    """Devices that left the pool, held by an actor that runs nothing."""

    actor: Any
    count: int
    node: str  # Ray's id of it


@dataclass(slots=True)
class _Sorting:
    """The devices of one trial, each asked for by an actor of its own to find out which one it is."""

    node: str
    unwell: frozenset[str]
    holders: dict[Any, Any]  # its answer -> the actor
    deadline_s: float
    found: set[str] = field(default_factory=set)


class Quarantine:
    """Keeps devices that are not well out of the pool, and gives their siblings in the same trial back.

    Ray cannot be asked for a device by its number. So the devices of a trial are freed and asked for again one by one,
    by actors that hold them: the unwell ones are kept, the others let go. Should somebody be faster, his trial meets
    the alarm before it launches anything, and ends here as well.
    """

    def __init__(self, resource: str) -> None:
        self._resource = resource
        self._held: list[_Held] = []
        self._sorting: list[_Sorting] = []
        self._why = ""

    @property
    def why(self) -> str:
        """The cause of the last one; empty when there is none."""
        return self._why

    def admit(self, actor: Any, width: int, result: TrialResult, why: str) -> None:
        """Take the devices of a trial that has ended; its actor is ours from now on."""
        try:
            node, devices = ray.get(place_of(actor, self._resource), timeout=ANSWER_TIMEOUT_S)
        except RayError:  # it is gone, and whoever has its devices next sees for himself
            return
        self._why = why
        unwell = frozenset(result.unwell) & frozenset(devices)
        all_of_them = result.node_unwell or not unwell or len(unwell) == width
        log.warning("devices_quarantined", node=node, devices=sorted(devices if all_of_them else unwell), why=why)
        if all_of_them:
            self._held.append(_Held(actor, width, node))
        else:
            self._sort(actor, node, unwell, width)
        if result.node_unwell:
            self._take_the_rest(node)

    def _sort(self, actor: Any, node: str, unwell: frozenset[str], width: int) -> None:
        holders = [holder(self._resource, node) for _ in range(width)]  # in line before the devices are free
        answers = {place_of(one, self._resource): one for one in holders}
        self._sorting.append(_Sorting(node, unwell, answers, time.monotonic() + SORTING_S))
        ray.kill(actor)

    def _take_the_rest(self, node: str) -> None:
        """Nobody can be told what is wrong with the node's other devices: as they become free they are held too."""
        total = next((one["Resources"].get(self._resource, 0) for one in ray.nodes() if one["NodeID"] == node), 0)
        for _ in range(int(total) - self.lost()[node]):
            self._held.append(_Held(holder(self._resource, node), 1, node))

    def settle(self) -> None:
        """Look at the answers that have come. Never waits."""
        for sorting in self._sorting:
            ready, _ = ray.wait(list(sorting.holders), num_returns=len(sorting.holders), timeout=0)
            for answer in ready:
                self._judge(sorting, answer)
            if sorting.holders and time.monotonic() >= sorting.deadline_s:
                log.warning("devices_not_found", node=sorting.node, devices=sorted(sorting.unwell - sorting.found))
                _end(sorting.holders.values())
                sorting.holders.clear()
        self._sorting = [sorting for sorting in self._sorting if sorting.holders]

    def _judge(self, sorting: _Sorting, answer: Any) -> None:
        actor = sorting.holders.pop(answer, None)
        if actor is None:  # all were found among the answers before it, and it was ended
            return
        try:
            _, (device,) = ray.get(answer)
        except RayError:
            return
        if device in sorting.unwell:
            sorting.found.add(device)
            self._held.append(_Held(actor, 1, sorting.node))
        else:
            ray.kill(actor)
        if sorting.found == sorting.unwell:  # what still waits would only take a device from somebody
            _end(sorting.holders.values())
            sorting.holders.clear()

    def lost(self) -> Counter[str]:
        """Devices that have left the pool, by node; those of a node that is gone went with it."""
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        lost: Counter[str] = Counter()
        for held in self._held:
            lost[held.node] += held.count
        for sorting in self._sorting:
            lost[sorting.node] += len(sorting.unwell - sorting.found)
        return Counter({node: count for node, count in lost.items() if node in alive})

    def withheld(self) -> int:
        """Devices that are well and not free yet: it is being found out which they are."""
        return sum(max(0, len(one.holders) - len(one.unwell - one.found)) for one in self._sorting)

    def release(self) -> None:
        """End every holder."""
        _end(held.actor for held in self._held)
        for sorting in self._sorting:
            _end(sorting.holders.values())
        self._held.clear()
        self._sorting.clear()


def _end(actors: Iterable[Any]) -> None:
    for actor in actors:
        ray.kill(actor)
