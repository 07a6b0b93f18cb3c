"""What a failure means to the search: a bad configuration, bad luck, or a broken environment."""

from typing import Literal

from autotune.results import FailureClass

Verdict = Literal["infeasible", "retry", "interrupted", "abort"]

# At the first attempt, and at every later one.
_VERDICTS: dict[FailureClass, tuple[Verdict, Verdict]] = {
    FailureClass.OOM: ("infeasible", "infeasible"),
    FailureClass.CONFIG: ("infeasible", "infeasible"),
    FailureClass.GRAPH: ("infeasible", "infeasible"),
    FailureClass.OPERATOR: ("infeasible", "infeasible"),
    FailureClass.UNKNOWN: ("infeasible", "infeasible"),
    FailureClass.PORT: ("retry", "interrupted"),
    FailureClass.BUSY: ("retry", "interrupted"),
    FailureClass.CLIENT: ("retry", "interrupted"),
    FailureClass.NODE: ("retry", "interrupted"),
    FailureClass.SHARED_MEMORY: ("retry", "interrupted"),
    FailureClass.HARDWARE: ("retry", "interrupted"),
    FailureClass.COMMUNICATION: ("retry", "infeasible"),
    FailureClass.HANG: ("retry", "infeasible"),
    FailureClass.ENVIRONMENT: ("abort", "abort"),
    FailureClass.DEFECT: ("abort", "abort"),  # it would hit every trial, and burn the budget
    FailureClass.CANCELLED: ("interrupted", "interrupted"),
}


def outcome_of(failure: FailureClass, *, attempt: int) -> Verdict:
    """What becomes of a trial whose attempt (counted from 1) failed this way.

    `infeasible`: the configuration cannot run, never launch it again. `retry`: launch it once more. `interrupted`:
    nothing was learnt about it. `abort`: every trial would fail like this, so the job ends.
    """
    first, later = _VERDICTS[failure]
    return first if attempt <= 1 else later
