"""One trial launched again to look at it; no row, no study and no front changes."""

import dataclasses
import itertools

from autotune.results import Trial, TrialResult
from autotune.trial import TrialRequest
from autotune.tuner.context import JobContext
from autotune.tuner.events import Event, Observer
from autotune.tuner.loop import POLL_S, Devices
from autotune.tuner.requests import search_request


def rerun_request(context: JobContext, trial: Trial, *, debug: bool) -> TrialRequest:
    """The launch, with its artifacts in a new folder beside the trial's own."""
    request = dataclasses.replace(search_request(context, trial), debug=debug)
    labelled = (dataclasses.replace(request, label=f"rerun-{count}") for count in itertools.count(1))
    return next(candidate for candidate in labelled if not candidate.artifacts.exists())


def rerun(request: TrialRequest, fleet: Devices, observe: Observer) -> TrialResult:
    """Run it and wait for its end; a KeyboardInterrupt ends it and is raised again."""
    fleet.check_fits(request.config.devices)
    fleet.start(request)
    while True:
        ended = fleet.finished(timeout_s=POLL_S)
        if ended:
            return ended[0][1]
        observe(Event("re-run", 0, 1, running=fleet.progress()))
