"""Logs are events: `log.info("trial_measured", job=…, trial=…)`, past tense, stable names, to stderr."""

import logging
import sys
from typing import Any

import structlog


def configure(*, verbose: bool = False) -> None:
    """Send events to stderr as readable lines: warnings, or everything."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Plain tracebacks: the rich ones print local variables, and those hold tokens and database URLs.
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # whatever that is when something is logged
    )


def get_logger() -> Any:
    """A logger of events."""
    return structlog.get_logger()
