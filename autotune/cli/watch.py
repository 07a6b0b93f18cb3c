"""`autotune watch`: a job while it runs, as a live table, as lines, or as JSON lines."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from autotune.cli.console import console as open_console
from autotune.cli.outcome import INTERRUPTED
from autotune.cli.place import Events, Place, place
from autotune.cli.progress import trial_line
from autotune.cli.recommendation import print_recommendation
from autotune.cli.standing import code_of, course_of
from autotune.errors import NotFound
from autotune.report.course import course_view
from autotune.report.rows import baseline_trial
from autotune.results import ENDED, Trial
from autotune.submission import JobEvent, SubmittedJob

LOOK_S = 2.0  # between two looks at the job while nothing happens
LAST_WORDS_S = 5.0  # for the events of a job that has ended to arrive
FRAME = 13  # lines of the live view besides its rows
FEWEST_ROWS = 4


class Watched:
    """A job as it is known here: its last state, and its trials as the events told of them."""

    def __init__(self, there: Place, submitted: SubmittedJob) -> None:
        self.there, self.submitted = there, submitted
        self._trials = {trial.number: trial for trial in there.trials(submitted.job.id)}

    @property
    def trials(self) -> tuple[Trial, ...]:
        """By number."""
        return tuple(trial for _, trial in sorted(self._trials.items()))

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self.submitted.job.status in ENDED

    def look(self) -> None:
        """Read the job again."""
        self.submitted = self.there.job(self.submitted.job.id)

    def hear(self, event: JobEvent) -> None:
        """Read the trial that an event tells of, unless its end is known already."""
        known = self._trials.get(event.trial) if event.trial is not None else None
        if event.trial is None or (known is not None and known.result is not None):
            return
        self._trials[event.trial] = self.there.trial(self.submitted.job.id, event.trial)

    def trial(self, number: int) -> Trial:
        """One of its trials."""
        return self._trials[number]


Show = Callable[[Watched, JobEvent | None], None]


def watch(server: str | None, key: str, *, as_json: bool) -> int:
    """Show a job until it has ended; returns the exit code of its outcome. Ctrl-C leaves the job running."""
    console = open_console()
    with place(server) as there:
        return watch_there(console, there, there.find(key), as_json=as_json)


def watch_there(console: Console, there: Place, submitted: SubmittedJob, *, as_json: bool) -> int:
    """Show a job of a place until it has ended; returns the exit code of its outcome."""
    watched = Watched(there, submitted)
    job_id = submitted.job.id
    try:
        with _shown(console, as_json=as_json) as show:
            _follow(watched, show)
    except KeyboardInterrupt:
        if not as_json:
            console.print(
                f"{job_id} goes on without you; look again with: autotune watch {job_id}{there.options}\n"
                f"to stop it: autotune cancel {job_id}{there.options}",
                highlight=False,
                soft_wrap=True,
            )
        return INTERRUPTED
    if not as_json:
        _print_end(console, watched)
    return code_of(watched.submitted.job)


def _follow(watched: Watched, show: Show) -> None:
    """Show what has happened and what happens, until the job has ended and its last events are told."""
    events = watched.there.follow(watched.submitted.job.id)
    try:
        show(watched, None)
        while not watched.has_ended:
            _tell(watched, _arrived(events, LOOK_S), show)
            watched.look()
            show(watched, None)
        deadline = time.monotonic() + LAST_WORDS_S
        while (left_s := deadline - time.monotonic()) > 0:
            last = [event.kind for event in _tell(watched, _arrived(events, min(left_s, 1.0)), show)]
            if last and last[-1] == "job_finished":
                break
        show(watched, None)
    finally:
        events.close()


def _arrived(events: Events, within_s: float) -> Iterator[JobEvent]:
    """The events that are there, after the first has been waited for."""
    event = events.next(within_s)
    while event is not None:
        yield event
        event = events.next(0)


def _tell(watched: Watched, events: Iterable[JobEvent], show: Show) -> list[JobEvent]:
    told = []
    for event in events:
        try:
            watched.hear(event)
        except NotFound:  # its row is gone: the job was deleted, the next look says so
            continue
        show(watched, event)
        told.append(event)
    return told


@contextmanager
def _shown(console: Console, *, as_json: bool) -> Iterator[Show]:
    """How the course is shown: JSON lines, a live table in a terminal, a line per event elsewhere."""
    if as_json:
        yield _print_json
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            yield lambda watched, event: _update(live, watched, event)
    else:
        yield Lines(console)


def _print_json(_watched: Watched, event: JobEvent | None) -> None:
    if event is not None:
        print(event.model_dump_json(), flush=True)


def _update(live: Live, watched: Watched, event: JobEvent | None) -> None:
    if event is None:  # events only say that something is to be read again
        course = course_of(watched.there, watched.submitted, watched.trials)
        live.update(course_view(course, rows=max(FEWEST_ROWS, live.console.height - FRAME)))


class Lines:
    """A line for every event, and one whenever the job begins to wait for something else."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._note = ""

    def __call__(self, watched: Watched, event: JobEvent | None) -> None:
        """Print what is new."""
        if event is not None:
            line = event_line(watched, event)
            self._console.print(f"{event.at:%H:%M:%S}  {line}", highlight=False, soft_wrap=True)
            return
        note = "" if watched.has_ended else course_of(watched.there, watched.submitted, ()).note
        if note and note != self._note:
            self._console.print(note, markup=False, highlight=False, soft_wrap=True)
        self._note = note


def event_line(watched: Watched, event: JobEvent) -> str:
    """What an event says, with what is known of its trial; as markup."""
    if event.trial is None:
        return escape(_job_line(event))
    if event.kind == "trial_finished":
        base = baseline_trial(watched.trials)
        return trial_line(watched.trial(event.trial), base.knobs if base else {})
    if event.kind == "trial_relaunched":
        return f"trial {event.trial:>2} launched again, for the {event.data.get('attempt', '?')}. time"
    origin = str(event.data.get("origin", ""))
    if event.data.get("purpose") == "confirmation":
        origin = f"re-run of {origin.removeprefix('trial ')}"
    return escape(f"trial {event.trial:>2} {origin} started")


def _job_line(event: JobEvent) -> str:
    name = str(event.data.get("worker") or "").partition(" (")[0]  # what tells two processes of one number apart
    worker = f" by {name}" if name else ""
    words = {
        "job_queued": "queued again" if event.data.get("resumed") else "queued",
        "job_started": f"started{worker}",
        "job_resumed": f"goes on{worker}",
        "cancel_requested": "somebody asked for its end",
        "job_finished": f"ended: {event.data.get('status', '')}",
    }
    return words.get(event.kind, event.kind)


def _print_end(console: Console, watched: Watched) -> None:
    job, options = watched.submitted.job, watched.there.options
    if job.message and not console.is_terminal:  # the live view holds it
        console.print(job.message, markup=False, highlight=False)
    if job.result is not None:
        print_recommendation(console, job.result)
    if job.result is not None and job.result.front.points:
        console.print(
            f"the front: autotune pareto {job.id}{options}; a file: autotune export {job.id}{options}",
            highlight=False,
            soft_wrap=True,
        )
