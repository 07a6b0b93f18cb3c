"""The pages people see in a browser: rendered here, complete without scripts, and nothing is loaded from elsewhere."""

from autotune.service.pages import job, jobs, login, submit

ROUTERS = (jobs.router, job.router, submit.router, login.router)
