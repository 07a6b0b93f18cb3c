"""When a level's SLA is out of reach: counting while it runs, and from its records."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.level_run import Hopeless, Overdue, RequestRecord, ended_early

TTFT = Hopeless("ttft", limit_s=1.0, allowed=1)
E2EL = Hopeless("e2el", limit_s=3.0, allowed=0)


def record(
    index: int, scheduled_s: float, first_s: float | None, end_s: float, *, error: str | None = None
) -> RequestRecord:
    tokens = () if first_s is None else (first_s, end_s)
    return RequestRecord(index, scheduled_s, scheduled_s, tokens, end_s, 1, 2, 2, error)


def test_an_open_request_is_beyond_a_limit_when_its_age_is() -> None:
    overdue = Overdue((TTFT,))
    overdue.scheduled(0, 0.0)
    overdue.scheduled(1, 0.5)
    assert not overdue.out_of_reach(1.2)  # the first one is late; one may be
    assert overdue.beyond == {0}
    assert overdue.out_of_reach(1.6)
    assert overdue.beyond == {0, 1}


def test_a_request_exactly_at_the_limit_is_not_beyond_it() -> None:
    """0.45 is more than 0.1 + 0.35 in binary fractions, but the measured latency is 350 ms and no more."""
    rule = Hopeless("ttft", 0.35, 0)
    assert 0.45 > 0.1 + 0.35
    assert (0.45 - 0.1) * 1e3 <= 350
    overdue = Overdue((rule,))
    overdue.scheduled(0, 0.1)
    overdue.first_token(0, 0.45)
    assert not overdue.out_of_reach(9.0)
    assert ended_early([record(0, 0.1, 0.45, 9.0)], (rule,)) is None


def test_a_first_token_in_time_settles_ttft_but_not_e2el() -> None:
    overdue = Overdue((TTFT, E2EL))
    overdue.scheduled(0, 0.0)
    overdue.first_token(0, 0.9)
    assert not overdue.out_of_reach(2.9)
    assert overdue.out_of_reach(3.1)
    assert overdue.beyond == {0}


def test_a_first_token_that_came_too_late_counts_though_nobody_looked_meanwhile() -> None:
    overdue = Overdue((Hopeless("ttft", 1.0, 0),))
    overdue.scheduled(0, 0.0)
    overdue.first_token(0, 1.1)
    assert overdue.out_of_reach(1.1)


def test_an_answer_in_time_is_never_counted_later() -> None:
    overdue = Overdue((TTFT, E2EL))
    overdue.scheduled(0, 0.0)
    overdue.first_token(0, 0.5)
    overdue.ended(record(0, 0.0, 0.5, 2.5))
    assert not overdue.out_of_reach(100.0)
    assert overdue.beyond == frozenset()


def test_a_failure_is_infinite_in_every_metric_at_once() -> None:
    overdue = Overdue((Hopeless("ttft", 60.0, 0),))
    overdue.scheduled(0, 0.0)
    overdue.first_token(0, 0.1)
    overdue.ended(record(0, 0.0, 0.1, 0.2, error="HTTP 500"))
    assert overdue.out_of_reach(0.2)


def test_every_rule_has_its_own_count() -> None:
    """One late first token and one late end: neither rule allows less than that."""
    overdue = Overdue((TTFT, Hopeless("e2el", 3.0, 1)))
    for index in (0, 1):
        overdue.scheduled(index, 0.0)
    overdue.first_token(0, 1.5)
    overdue.ended(record(0, 0.0, 1.5, 2.0))
    overdue.first_token(1, 0.5)
    assert not overdue.out_of_reach(3.5)
    assert overdue.beyond == {0, 1}


def test_without_rules_nothing_is_out_of_reach() -> None:
    overdue = Overdue(())
    overdue.scheduled(0, 0.0)
    assert not overdue.out_of_reach(1e9)


@pytest.mark.parametrize(
    ("records", "time_s"),
    [
        ([record(0, 0.0, 2.0, 9.0), record(1, 0.5, 2.0, 9.0)], 1.5),  # the second one's age
        ([record(0, 0.0, 2.0, 9.0), record(1, 0.5, 1.4, 9.0)], None),  # one may be late
        ([record(0, 0.0, 2.0, 9.0), record(1, 0.5, None, 0.7, error="refused")], 1.0),  # failed early
        ([record(0, 0.0, 0.5, 9.0, error="cut"), record(1, 0.0, 0.5, 8.0, error="cut")], None),  # known at the end only
    ],
)
def test_the_time_at_which_a_recorded_level_would_have_ended(
    records: list[RequestRecord], time_s: float | None
) -> None:
    assert ended_early(records, (TTFT,)) == (None if time_s is None else pytest.approx(time_s))


def test_the_first_rule_that_is_broken_ends_the_level() -> None:
    records = [record(0, 0.0, 0.5, 9.0), record(1, 0.0, 2.0, 9.0)]
    assert ended_early(records, (TTFT, E2EL)) == pytest.approx(3.0)
    assert ended_early(records, (Hopeless("ttft", 1.0, 0), E2EL)) == pytest.approx(1.0)


TIMES = st.integers(0, 40).map(lambda tenths: tenths / 10)


@st.composite
def levels(draw: st.DrawFn) -> list[RequestRecord]:
    records = []
    for index in range(draw(st.integers(1, 12))):
        scheduled_s = draw(TIMES)
        first_s = draw(st.none() | TIMES.map(lambda wait_s, at_s=scheduled_s: at_s + wait_s))
        end_s = (scheduled_s if first_s is None else first_s) + draw(TIMES)
        failed = first_s is None or draw(st.booleans())
        records.append(record(index, scheduled_s, first_s, end_s, error="x" if failed else None))
    return records


RULES = st.builds(
    Hopeless, st.sampled_from(["ttft", "e2el"]), st.integers(1, 30).map(lambda n: n / 10), st.integers(0, 4)
)


@given(levels(), st.lists(RULES, min_size=1, max_size=3).map(tuple))
def test_counting_while_it_runs_and_reading_the_records_give_the_same_time(
    records: list[RequestRecord], rules: tuple[Hopeless, ...]
) -> None:
    """Events are replayed in the order of time, and somebody looks just after each possible change.

    "Just after" is long beside the rounding of sums of tenths: whatever has happened by then is told first.
    """
    overdue = Overdue(rules)
    events = sorted(
        [(one.scheduled_s, 0, one) for one in records]
        + [(one.token_times_s[0], 1, one) for one in records if one.token_times_s]
        + [(one.end_s, 2, one) for one in records],
        key=lambda event: event[:2],
    )
    ages_s = [one.scheduled_s + rule.limit_s for one in records for rule in rules]
    last_s = max(one.end_s for one in records)
    seen_s: float | None = None
    for look_s in sorted({at_s + 1e-6 for at_s in (*ages_s, *(at_s for at_s, _, _ in events))}):
        while events and events[0][0] <= look_s:
            at_s, kind, one = events.pop(0)
            if kind == 0:
                overdue.scheduled(one.index, at_s)
            elif kind == 1:
                overdue.first_token(one.index, at_s)
            else:
                overdue.ended(one)
        if overdue.out_of_reach(look_s):
            seen_s = look_s
            break
    expected_s = ended_early(records, rules)
    if expected_s is None:
        assert seen_s is None or seen_s >= last_s
    else:
        assert seen_s == pytest.approx(expected_s, abs=1e-5)
