"""Schemathesis against the whole application: it keeps what its description promises, whatever it is sent."""

from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from autotune.access import Role
from autotune.results import Trial
from autotune.service.app import api
from autotune.settings import ServiceSettings

from .conftest import Service

pytestmark = pytest.mark.process  # half a minute

BOUNDED = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
NAME = "demo"  # of a search space, a workload and an artifact


class Current:
    """The application of the test that runs: the operations are known before there is one."""

    app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def described(**parameters: Any) -> Any:
    """The operations; with parameters that are the same in every request."""
    schema = schemathesis.openapi.from_dict(api().openapi())
    schema.app = Current()
    schema.config.update(parameters={f"path.{name}": value for name, value in parameters.items()})
    return schema


anything = described()
known = described(job_id="done-1", number=1, name=NAME)


@pytest.fixture
def served(serve: Callable[..., Service], trials: tuple[Trial, ...]) -> Service:
    """A service with a finished job, which answers to the host name that schemathesis uses."""
    service = serve(service=ServiceSettings(rate_per_s=1e6, rate_burst=10**9, allowed_hosts=("testserver",)))
    lease = service.begin("done-1")
    for trial in trials:
        service.play(lease, trial)
    service.finish(lease, trials)
    folder = service.home / "jobs" / "done-1" / "trial-0001"
    folder.mkdir(parents=True)
    (folder / NAME).write_text("one\ntwo\n")
    headers = {"Authorization": f"Bearer {service.token('ops', Role.ADMIN)}"}
    for schema in (anything, known):
        schema.app.app = service.app
        schema.config.update(headers=headers)
    return service


@anything.parametrize()
@BOUNDED
def test_whatever_is_sent_the_answer_is_as_described(case: schemathesis.Case, served: Service):
    case.call_and_validate()


@known.parametrize()
@BOUNDED
def test_whatever_is_asked_about_a_job_that_exists_the_answer_is_as_described(case: schemathesis.Case, served: Service):
    case.call_and_validate()
