"""The form that submits a job."""

import secrets

from fastapi import APIRouter
from fastapi.responses import Response

from autotune.access import Role
from autotune.errors import InputError
from autotune.service.admission import submit
from autotune.service.pages import offers
from autotune.service.pages.form import MORE_LINES, Form, FormErrors, filled, idempotency_key, placed, request_of
from autotune.service.pages.visit import Sender, Sent, Visit, Visitor
from autotune.service.pages.web import PageRoute, see_other
from autotune.settings import Settings
from autotune.spec import Budget, JobSpec

router = APIRouter(prefix="/submit", route_class=PageRoute, include_in_schema=False)

_TRY_OUT = {  # what runs on any machine, where the operator has set up nothing yet
    "name": "demo",
    "model": "tiny-llama",
    "engine": "simulated",
    "resource": "CPU",
    "max_per_trial": "1",
    "search_space": "demo",
    "workload": "demo",
    "p99_ttft_ms": "700",
    "p99_tpot_ms": "24",
    "trials": "8",
    "confirm_top": "2",
}


@router.get("")
def submit_page(visit: Visitor) -> Response:
    """The empty form; on a machine without settings filled with a job that tries the service out."""
    visit.need(Role.SUBMITTER)
    return _page(visit, _empty(visit.state.settings))


@router.post("")
def submit_form(visit: Sender, fields: Sent) -> Response:
    """Put the job into the queue and show it, or show the form with its problems."""
    visit.need(Role.SUBMITTER)
    form = filled(fields)
    try:
        admitted = submit(visit.state, visit.principal, request_of(form), idempotency_key(form))
    except FormErrors as exc:
        return _page(visit, Form(form.values, form.lines, exc.errors), status=422)
    except InputError as exc:
        return _page(visit, Form(form.values, form.lines, placed(exc.problems, form)), status=422)
    return see_other(f"/jobs/{admitted.id}")


def _empty(settings: Settings) -> Form:
    first = {"nonce": secrets.token_hex(8), "confirm_runs": str(Budget().confirm_runs), "sampler": _sampler()}
    usual = {"trials": str(Budget().trials), "confirm_top": str(Budget().confirm_top), "max_per_trial": "all"}
    return Form(first | (usual if settings.profiles or settings.model_roots else _TRY_OUT), (("", ""),) * MORE_LINES)


def _sampler() -> str:
    return str(JobSpec.model_fields["sampler"].default)


def _page(visit: Visit, form: Form, status: int = 200) -> Response:
    settings = visit.state.settings
    return visit.page(
        "submit.html",
        status,
        form=form,
        engines=offers.engines(settings),
        models=offers.models(settings),
        search_spaces=[(name, f"{name} – {about}") for name, about in offers.search_spaces().items()],
        workloads=[(name, f"{name} – {about}") for name, about in offers.workloads().items()],
        is_try_out=form.value("name") == _TRY_OUT["name"] and not settings.profiles,
    )
