"""A server's `/v1` API: our records out, our errors raised."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, SecretStr

from autotune import __version__
from autotune.client.address import Address
from autotune.client.answers import error_of, record, unreachable
from autotune.client.feed import Feed
from autotune.client.stream import Stream
from autotune.errors import InputError, NotFound
from autotune.results import Job, Trial
from autotune.spec import JobSpec
from autotune.submission import JobFilter, JobSummary, LogPart, SubmittedJob

R = TypeVar("R", bound=BaseModel)

CONNECT_S, ANSWER_S = 5.0, 60.0
MOST_TRIES = 4  # of one request
MOST_WAIT_S = 30.0  # that a server may ask for between two of them
PAUSES_S = (0.5, 2.0, 5.0)  # where it does not say
PAGE = 200  # jobs of one answer

_BUSY = frozenset({502, 503, 504})
_KEY = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_LOOPBACK = ("all://localhost", "all://127.0.0.1", "all://[::1]")


class _Answer(BaseModel):
    """The envelope of an answer; what a newer server adds to it is no concern of ours."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Reference(_Answer):
    id: str


class _JobPage(_Answer):
    jobs: tuple[JobSummary, ...]
    next_cursor: str | None = None


class _TrialPage(_Answer):
    trials: tuple[Trial, ...]
    next_after: int | None = None


class _Profile(_Answer):
    name: str
    price_per_device_hour: float | None = None


class _Profiles(_Answer):
    profiles: tuple[_Profile, ...]


class _Readiness(_Answer):
    workers: int


class Server:
    """A server with its connections: close it, or use it in a `with`.

    The token goes to this address only: redirects are not followed, and plain connections to this machine use no proxy.
    Requests that may be repeated are, in bounded tries; every other failure is told at once.
    """

    def __init__(
        self,
        address: Address,
        token: SecretStr | None,
        *,
        pause: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.address = address
        self._pause = pause
        headers = {"User-Agent": f"vllm-autotune/{__version__}", "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token.get_secret_value()}"
        self._http = httpx.Client(
            base_url=address.url,
            headers=headers,
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            follow_redirects=False,
            transport=transport,
            mounts=None if transport else {pattern: httpx.HTTPTransport() for pattern in _LOOPBACK},
        )

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def options(self) -> str:
        """What other commands have to be typed with to mean this server."""
        return f" --server {self.address.url}"

    # What is read

    def jobs(self, wanted: JobFilter, *, most: int) -> tuple[JobSummary, ...]:
        """The jobs that the token may see, newest first. Raises what every call raises, see `errors`."""
        given: dict[str, Any] = wanted.model_dump(mode="json", exclude_none=True)
        found: list[JobSummary] = []
        while len(found) < most:
            page = self._read("/v1/jobs", _JobPage, given | {"limit": min(PAGE, most - len(found))})
            found += page.jobs
            if page.next_cursor is None:
                break
            given["cursor"] = page.next_cursor
        return tuple(found)

    def find(self, key: str) -> SubmittedJob:
        """The job with this id, else the newest with this name, else the only one whose id starts so.

        Raises NotFound, and InputError when several ids start so.
        """
        if not _KEY.match(key):
            raise NotFound(f"no job {key!r}: an id or a name has letters, digits, '.', '_' and '-'")
        try:
            return self.job(key)
        except NotFound:
            return self.job(self._named(key))

    def job(self, job_id: str) -> SubmittedJob:
        """The job with this id. Raises NotFound."""
        return self._read(job_path(job_id), SubmittedJob)

    def trials(self, job_id: str) -> tuple[Trial, ...]:
        """Its trials by number, those that still run included."""
        after, found = -1, list[Trial]()
        while True:
            page = self._read(f"{job_path(job_id)}/trials", _TrialPage, {"after": after})
            found += page.trials
            if page.next_after is None:
                return tuple(found)
            after = page.next_after

    def trial(self, job_id: str, number: int) -> Trial:
        """One trial. Raises NotFound."""
        return self._read(f"{job_path(job_id)}/trials/{number}", Trial)

    def log(self, job_id: str, trial: Trial, offset: int) -> LogPart:
        """What the trial's engine has logged from a byte on; nothing while there is no log."""
        path = f"{job_path(job_id)}/trials/{trial.number}/artifacts/engine.log"
        try:
            answer = self._ask("GET", path, params={"offset": offset}, headers={"Accept": "*/*"})
        except NotFound:
            return LogPart(content=b"", next_offset=0)
        onward = answer.headers.get("X-Next-Offset", "")
        read_to = int(onward) if onward.isdigit() else offset + len(answer.content)
        return LogPart(content=answer.content, next_offset=read_to)

    def price(self, job: Job) -> float | None:
        """What a device-hour of the job's engine costs, as the server's settings say today."""
        named = JobSpec.model_validate(job.spec).engine
        profiles = self._read("/v1/profiles", _Profiles).profiles
        return next((profile.price_per_device_hour for profile in profiles if profile.name == named), None)

    def export(self, job: Job, select: str, form: str) -> str | None:
        """The selected configuration as text; None when nothing meets the SLA."""
        try:
            return self._ask("GET", f"{job_path(job.id)}/export", params={"select": select, "format": form}).text
        except NotFound:
            if job.result is not None and not job.result.front.points:
                return None
            raise

    def workers(self) -> int:
        """How many workers the server has heard of within a minute."""
        return self._read("/readyz", _Readiness).workers

    def follow(self, job_id: str, *, after: int = 0) -> Feed:
        """What happens to a job from now on, or after the event with that id; close it, or use it in a `with`."""
        return Feed(Stream(self._http, self.address, job_path(job_id), after), partial(self._look, job_id))

    def _look(self, job_id: str) -> tuple[SubmittedJob, tuple[Trial, ...]]:
        return self.job(job_id), self.trials(job_id)

    # What is changed

    def submit(self, document: Mapping[str, Any], key: str) -> str:
        """Put a job into the queue and return its id; with the same key it may be asked again and makes one job."""
        answer = self._ask("POST", "/v1/jobs", json=document, headers={"Idempotency-Key": key})
        return record(answer, _Reference, self.address.url).id

    def cancel(self, job_id: str) -> None:
        """Ask for the job's end. Raises Conflict when it has ended."""
        self._ask("POST", f"{job_path(job_id)}/cancel", repeatable=False)

    def resume(self, job_id: str) -> None:
        """Put a failed or cancelled job into the queue again. Raises Conflict for others."""
        self._ask("POST", f"{job_path(job_id)}/resume")

    def _named(self, key: str) -> str:
        """The id that a name or the start of an id stands for."""
        found = self.jobs(JobFilter(search=key), most=PAGE)
        named = [job.id for job in found if job.name == key]
        begun = [job.id for job in found if job.id.startswith(key)]
        if named:
            return named[0]
        if len(begun) > 1:
            raise InputError(f"several jobs start with {key!r}: {', '.join(begun[:5])}; write more of the id")
        if not begun:
            raise NotFound(f"{self.address.url} has no job {key!r} that you may see; look with: autotune list")
        return begun[0]

    def _read(self, path: str, model: type[R], given: Mapping[str, Any] | None = None) -> R:
        return record(self._ask("GET", path, params=given), model, self.address.url)

    def _ask(self, method: str, path: str, *, repeatable: bool = True, **request: Any) -> httpx.Response:
        """The answer to a request. Raises the error that a refusal stands for, and ServerUnavailable."""
        for pause_s in self._pauses():
            try:
                answer = self._http.request(method, path, **request)
            except httpx.ConnectError as exc:
                raise unreachable(self.address.url, exc) from exc
            except httpx.TransportError as exc:
                if pause_s is None or not repeatable:
                    raise unreachable(self.address.url, exc) from exc
                self._pause(pause_s)
                continue
            wait_s = _asked_wait_s(answer, pause_s, repeatable=repeatable)
            if wait_s is None:
                break
            self._pause(wait_s)
        if answer.is_success:
            return answer
        raise error_of(answer, self.address.url)

    def _pauses(self) -> Iterator[float | None]:
        yield from PAUSES_S[: MOST_TRIES - 1]
        yield None


def _asked_wait_s(answer: httpx.Response, pause_s: float | None, *, repeatable: bool) -> float | None:
    """How long to wait before the request is sent again; None: its answer stands."""
    if pause_s is None:
        return None
    told = answer.headers.get("Retry-After", "")
    if answer.status_code == 429 and told.isdigit():
        return float(told) if float(told) <= MOST_WAIT_S else None
    if answer.status_code in _BUSY and repeatable:
        return min(float(told), MOST_WAIT_S) if told.isdigit() else pause_s
    return None


def job_path(job_id: str) -> str:
    """The address of a job below the server's."""
    return f"/v1/jobs/{quote(job_id, safe='')}"
