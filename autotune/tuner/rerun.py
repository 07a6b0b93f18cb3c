"""One trial launched again to look at it; no row, no study and no front changes."""

import dataclasses
import itertools
from collections.abc import Sequence

from autotune.results import Measured, Trial, TrialResult
from autotune.trial import TrialRequest
from autotune.tuner.context import JobContext
from autotune.tuner.events import Event, Observer
from autotune.tuner.loop import POLL_S, Devices
from autotune.tuner.requests import confirmation_request, search_request


def rerun_request(context: JobContext, trial: Trial, trials: Sequence[Trial], *, debug: bool) -> TrialRequest:
    """The launch, with its artifacts in a new folder beside the trial's own."""
    request = dataclasses.replace(_request(context, trial, trials), attempt=1, failures=0, debug=debug)
    labelled = (dataclasses.replace(request, label=f"rerun-{count}") for count in itertools.count(1))
    return next(candidate for candidate in labelled if not candidate.artifacts.exists())


def _request(context: JobContext, trial: Trial, trials: Sequence[Trial]) -> TrialRequest:
    """What the trial was asked to do: all levels, or for a confirmation its one level with the same seeds."""
    confirmed = next((t for t in trials if t.number == trial.confirms), None)
    outcome = confirmed.result.outcome if confirmed and confirmed.result else None
    if isinstance(outcome, Measured):
        return confirmation_request(context, trial, outcome.closest_point)
    return search_request(context, trial)


def rerun(request: TrialRequest, fleet: Devices, observe: Observer) -> TrialResult:
    """Run it and wait for its end; a KeyboardInterrupt ends it and is raised again."""
    fleet.check_fits(request.config.devices)
    fleet.start(request)
    while True:
        ended = fleet.finished(timeout_s=POLL_S)
        if ended:
            return ended[0][1]
        observe(Event("re-run", 0, 1, running=fleet.progress()))
