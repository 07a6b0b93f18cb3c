"""A process pinned to devices, in which trials run one after the other."""

from collections.abc import Mapping
from typing import Any

import ray

from autotune.results import TrialResult
from autotune.trial import Control, Grant, TrialRequest, run_trial


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

    def node(self) -> str:
        """Ray's id of the node it runs on."""
        return str(ray.get_runtime_context().get_node_id())

    def progress(self) -> Mapping[str, Any]:
        """The phase the trial is in, and how far it is."""
        return self._control.progress

    def cancel(self) -> None:
        """Ask the trial to stop; it is heard in every phase."""
        self._control.cancel()


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
