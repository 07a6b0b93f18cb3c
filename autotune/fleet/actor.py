"""A process pinned to devices, in which trials run one after the other."""

from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autotune.results import TrialResult
from autotune.trial import Control, Grant, TrialRequest, run_trial

Place = tuple[str, tuple[str, ...]]
"""Ray's id of a node, and the devices that Ray gave there."""


class TrialActor:
    """Runs one trial at a time; threaded: `progress` and `cancel` always answer."""

    def __init__(self) -> None:
        self._control = Control()

    def run(self, request: TrialRequest, count: int) -> TrialResult:
        """Run one trial on the `count` devices Ray gave this actor."""
        # Ray counts CPUs but does not say which: there the trial takes free cores itself.
        assigned = ray.get_runtime_context().get_accelerator_ids().get(request.resource, [])
        try:
            return run_trial(request, Grant(tuple(assigned), count), self._control)
        finally:
            self._control = Control()  # after the trial, not before it: a cancel may come earlier than the trial does

    def place(self, resource: str) -> Place:
        """Where it is."""
        return _place(resource)

    def progress(self) -> Mapping[str, Any]:
        """The phase the trial is in, and how far it is."""
        return self._control.progress

    def cancel(self) -> None:
        """Ask the trial to stop; it is heard in every phase."""
        self._control.cancel()


class Holder:
    """Holds devices and does nothing with them."""

    def place(self, resource: str) -> Place:
        """Where it is."""
        return _place(resource)


def _place(resource: str) -> Place:
    context = ray.get_runtime_context()
    return str(context.get_node_id()), tuple(context.get_accelerator_ids().get(resource, ()))


def holder(resource: str, node: str) -> Any:
    """A handle of an actor that gets one device of that node as soon as one is free."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Holder).options(**_options(resource, 1), scheduling_strategy=there).remote()


def place_of(actor: Any, resource: str) -> Any:
    """The answer of an actor or holder to where it is, which comes once it has its devices."""
    return actor.place.remote(resource)


def pinned_actor(resource: str, count: int) -> Any:
    """A handle of a new actor that Ray places where `count` devices are free, waiting for them if need be."""
    return ray.remote(TrialActor).options(**_options(resource, count)).remote()


def _options(resource: str, count: int) -> dict[str, Any]:
    shared = {"max_concurrency": 4, "max_restarts": 0, "max_task_retries": 0}
    if resource == "CPU":
        return {**shared, "num_cpus": count}
    if resource == "GPU":
        return {**shared, "num_cpus": 0, "num_gpus": count}
    return {**shared, "num_cpus": 0, "resources": {resource: count}}
