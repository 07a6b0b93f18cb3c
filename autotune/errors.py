"""Every error a user can meet.

AutotuneError
  ├── InputError            a file, option or name the user gave is wrong (exit code 2)
  │     ├── NotFound        a named thing does not exist
  │     ├── Conflict        the thing is in no state for it
  │     ├── LimitReached    the tenant has all that it may have
  │     └── NotAllowed      the server does not know the token, or its role does not suffice
  ├── EnvironmentProblem    the machine cannot run the job: no engine, no device, library missing (exit code 3)
  │     └── ServerUnavailable  the server cannot be reached, or does not answer as it should
  └── StoreError            the database cannot be reached or is of another version (exit code 3)
        ├── JobTaken        another process runs the job
        └── LeaseLost       another process has taken the job over; nothing more may be written

A message says what happened with the value, what to do, and where to look. A trial that
fails is not an error but data: see `autotune.results`.
"""

from collections.abc import Sequence


class AutotuneError(Exception):
    """Something went wrong that a person can act on; shown without a traceback."""

    exit_code = 3


class InputError(AutotuneError):
    """The input is wrong. Carries every problem that was found, not only the first."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class NotFound(InputError):
    """No job, trial, space, workload or profile has that name."""


class Conflict(InputError):
    """The job is in no state for what was asked, or the idempotency key was used for another one."""


class LimitReached(InputError):
    """The tenant has all that it may have."""


class NotAllowed(InputError):
    """The server does not know the token, or its role does not suffice."""


class EnvironmentProblem(AutotuneError):
    """The machine cannot run the job as it is."""


class ServerUnavailable(EnvironmentProblem):
    """The server cannot be reached, or does not answer as it should."""


class StoreError(AutotuneError):
    """The database cannot be used."""


class JobTaken(StoreError):
    """Another process runs the job."""


class LeaseLost(StoreError):
    """Another process has taken the job over."""
