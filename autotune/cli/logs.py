"""`autotune logs`: what a trial's engine says, now and while it runs."""

import codecs
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator

from autotune.choice import trial_of
from autotune.cli.outcome import DONE
from autotune.cli.place import Place, place
from autotune.errors import NotFound
from autotune.results import Job, Trial

POLL_S = 1.0


def show_log(server: str | None, key: str, number: int, *, follow: bool, tail: int | None) -> int:
    """Print the log of a trial's engine, to its end or, with `follow`, until the trial has ended."""
    with place(server) as there:
        job = there.find(key).job
        trial = _trial(there, job, number)
        reading = Reading(there, job.id, trial)
        text = reading.rest()
        if not text and not follow:
            raise NotFound(f"trial {number} of job {job.id} has no engine log, or an empty one{_why(trial)}")
        _print(text if tail is None else _last_lines(text, tail))
        if follow:
            for part in following(reading, there, time.sleep):
                _print(part)
    return DONE


class Reading:
    """A log as far as it has been read; it begins anew when the trial is launched again."""

    def __init__(self, there: Place, job_id: str, trial: Trial) -> None:
        self._there, self.job_id, self.trial = there, job_id, trial
        self._begin()

    def _begin(self) -> None:
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def rest(self) -> str:
        """What has been written since the last time."""
        return "".join(self._parts())

    def launched_again(self, trial: Trial) -> bool:
        """Take the trial as it is now; whether that is another launch, with another log."""
        again = trial.attempts != self.trial.attempts
        self.trial = trial
        if again:
            self._begin()
        return again

    def _parts(self) -> Iterator[str]:
        while True:
            part = self._there.log(self.job_id, self.trial, self._offset)
            if part.next_offset < self._offset:
                self._begin()
                continue
            self._offset = part.next_offset
            if not part.content:
                return
            yield self._decoder.decode(part.content)


def following(reading: Reading, there: Place, pause: Callable[[float], None]) -> Iterator[str]:
    """What is written from now on, until the trial has ended."""
    while True:
        trial = there.trial(reading.job_id, reading.trial.number)  # before the log, so that its last lines are read
        if reading.launched_again(trial):
            yield f"--- launched again, for the {trial.attempts}. time ---\n"
        yield reading.rest()
        if trial.result is not None:
            return
        pause(POLL_S)


def _trial(there: Place, job: Job, number: int) -> Trial:
    try:
        return there.trial(job.id, number)
    except NotFound:
        return trial_of(job, there.trials(job.id), number)  # says which there are


def _why(trial: Trial) -> str:
    return "; it was just started, wait with -f" if trial.result is None else ""


def _last_lines(text: str, count: int) -> str:
    return "".join(deque(text.splitlines(keepends=True), maxlen=count))


def _print(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
