"""Looks for what keeps jobs from running here, or makes them slow: facts are gathered, then judged."""

from autotune.doctor.devices import check_devices
from autotune.doctor.engine import check_engine
from autotune.doctor.facts import Facts
from autotune.doctor.finding import Finding, Status, worst
from autotune.doctor.gather import Asked, gather
from autotune.doctor.job import check_job
from autotune.doctor.system import check_database, check_disk, check_host, check_ray, check_settings


def examine(facts: Facts) -> list[Finding]:
    """Every finding, in the order in which things have to be mended. Pure."""
    return [
        *check_settings(facts.settings_problems),
        *check_devices(facts),
        *check_engine(facts),
        *check_host(facts),
        *check_ray(facts.ray),
        *(check_disk(facts.disk) if facts.disk else []),
        *(check_database(facts.database) if facts.database else []),
        *check_job(facts),
    ]


__all__ = ["Asked", "Facts", "Finding", "Status", "examine", "gather", "worst"]
