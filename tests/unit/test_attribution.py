"""The ablation path: its order, what may be launched on it, and whose effect the gain is."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.results import KnobChange
from autotune.selection import Path, attribute, greedy_path, inert_knobs
from autotune.study.grid import Grid, Knob
from autotune.study.surrogate import Lesson, expectation

ALL = frozenset("abc")


def anything(_: frozenset[str]) -> bool:
    return True


def worth(**effects: float) -> object:
    """A throughput to which every knob adds its own."""
    return lambda changed: sum(effects[name] for name in changed)


# The order


def test_what_promises_most_comes_first():
    path = greedy_path("abc", anything, worth(a=1.0, b=5.0, c=3.0))
    assert path.steps == (("b",), ("c",), ("a",))
    assert path.stations == (frozenset(), frozenset("b"), frozenset("bc"), ALL)


def test_equal_promises_keep_the_order_of_the_space():
    assert greedy_path("cab", anything, lambda _: 0.0).steps == (("c",), ("a",), ("b",))


def test_a_configuration_that_cannot_run_is_gone_around():
    """`a` promises most, but only after `b`."""
    path = greedy_path("abc", lambda changed: "b" in changed or "a" not in changed, worth(a=9.0, b=1.0, c=2.0))
    assert path.steps == (("c",), ("b",), ("a",))


def test_an_order_that_leads_into_a_dead_end_is_given_up():
    """Once `a` is changed first, neither `b` nor `c` can follow alone."""
    dead = {frozenset("ab"), frozenset("ac")}
    path = greedy_path("abc", lambda changed: changed not in dead, worth(a=9.0, b=2.0, c=1.0))
    assert path.steps == (("b",), ("c",), ("a",))


def test_knobs_that_no_order_tells_apart_change_together():
    """`a` and `b` run only with each other."""
    path = greedy_path("abc", lambda changed: len(changed & set("ab")) != 1, worth(a=9.0, b=1.0, c=2.0))
    assert path.steps == (("c",), ("a", "b"))
    assert sorted(sum(path.steps, ())) == ["a", "b", "c"]


@given(st.sets(st.sets(st.sampled_from("abcd"), min_size=1, max_size=3).map(frozenset)))
def test_every_station_can_run_and_every_knob_changes_once(forbidden: set[frozenset[str]]):
    path = greedy_path("abcd", lambda changed: changed not in forbidden, lambda _: 0.0)
    assert sorted(sum(path.steps, ())) == ["a", "b", "c", "d"]
    assert not set(path.stations) & forbidden


def test_a_dead_end_is_looked_at_once():
    """No station has nine of the ten knobs; that way there are ten factorial orders."""
    asked: list[frozenset[str]] = []

    def allowed(changed: frozenset[str]) -> bool:
        asked.append(changed)
        assert len(asked) < 20 * 2**10
        return len(changed) != 9

    path = greedy_path("abcdefghij", allowed, lambda _: 0.0)
    assert [len(step) for step in path.steps] == [1] * 8 + [2]


TWENTY = "abcdefghijklmnopqrst"


@pytest.mark.parametrize(
    ("blocked", "steps"),
    [
        ({19}, [1] * 18 + [2]),
        (set(range(1, 20)), [20]),
        (set(range(1, 20)) - {3}, [3, 17]),
        ({10}, [1] * 9 + [2] + [1] * 9),
    ],
)
def test_twenty_knobs_are_not_searched_through_where_single_steps_are_blocked(blocked: set[int], steps: list[int]):
    """They have a million stations; those with so many changed knobs cannot run."""
    asked = 0

    def allowed(changed: frozenset[str]) -> bool:
        nonlocal asked
        asked += 1
        assert asked < 50_000
        return len(changed) not in blocked

    assert [len(step) for step in greedy_path(TWENTY, allowed, lambda _: 0.0).steps] == steps


# Stations that turn out not to run


def test_the_steps_around_a_station_that_does_not_start_are_one():
    assert Path((("a",), ("b",), ("c",))).without([1]).steps == (("a", "b"), ("c",))
    assert Path((("a",), ("b",), ("c",))).without([1, 2]).steps == (("a", "b", "c"),)
    assert Path((("a",), ("b",), ("c",))).without([]).steps == (("a",), ("b",), ("c",))


@pytest.mark.parametrize("end", [0, 2])
def test_the_ends_of_a_path_stay(end: int):
    with pytest.raises(ValueError, match="between the ends"):
        Path((("a",), ("b",))).without([end])


# Whose effect

CHANGES: Mapping[str, KnobChange] = {name: KnobChange(name=name, baseline=1, winner=2) for name in ("a", "b", "c", "d")}


def test_the_gains_add_up_to_the_total_and_the_shares_to_one():
    path = Path((("a",), ("b",), ("c",)))
    found = attribute(path, [[100.0, 102.0], [150.0, 154.0], [140.0, 142.0], [200.0, 202.0]], CHANGES, winner=7)
    assert [step.gain_tok_s.value for step in found.steps] == [51.0, -11.0, 60.0]
    assert found.total_tok_s.value == 100.0
    assert [step.share for step in found.steps] == pytest.approx([0.51, -0.11, 0.6])
    assert (found.baseline_tok_s, found.winner_tok_s, found.rounds, found.winner) == (101.0, 201.0, 2, 7)


def test_neighbours_are_compared_by_round():
    """All drift from 100 to 200; the pairs differ by 10 and by 12: standard error 1, t = 12.706."""
    (step,) = attribute(Path((("a",),)), [[100.0, 200.0], [110.0, 212.0]], CHANGES, winner=1).steps
    assert (step.gain_tok_s.low, step.gain_tok_s.high) == pytest.approx((11 - 12.706, 11 + 12.706), abs=0.001)


def test_every_verdict():
    """The baseline has 1000 tok/s: an inert knob brings less than 10, and may bring nothing."""
    rows = [
        [1000.0, 1000.0, 1000.0],
        [1100.0, 1101.0, 1102.0],  # +101, never far from it
        [1105.0, 1099.0, 1105.0],  # about +2, either way
        [1085.0, 1079.0, 1085.0],  # -20 every time
        [1140.0, 1079.0, 1120.0],  # +30, but it may be nothing
    ]
    found = attribute(Path((("a",), ("b",), ("c",), ("d",))), rows, CHANGES, winner=1)
    assert [step.verdict for step in found.steps] == ["gain", "inert", "loss", "unclear"]
    assert inert_knobs(found) == ("b",)


def test_a_small_gain_that_comes_every_time_is_a_gain():
    (step,) = attribute(Path((("a",),)), [[1000.0, 1000.0], [1001.0, 1001.0]], CHANGES, winner=1).steps
    assert step.verdict == "gain"


def test_one_round_finds_nothing_inert():
    (step,) = attribute(Path((("a",),)), [[1000.0], [1000.0]], CHANGES, winner=1).steps
    assert (step.verdict, step.gain_tok_s.low) == ("unclear", None)


def test_where_the_baseline_serves_nothing_the_winner_is_the_measure():
    found = attribute(Path((("a",), ("b",))), [[0.0, 0.0], [1000.0, 1000.0], [1004.0, 1000.0]], CHANGES, winner=1)
    assert [step.verdict for step in found.steps] == ["gain", "inert"]


def test_where_nothing_meets_the_sla_on_either_side_a_knob_is_not_called_inert():
    found = attribute(Path((("a",), ("b",))), [[0.0, 0.0], [0.0, 0.0], [1000.0, 1000.0]], CHANGES, winner=1)
    assert [step.verdict for step in found.steps] == ["unclear", "gain"]


def test_a_loss_has_no_shares():
    (step,) = attribute(Path((("a",),)), [[100.0, 100.0], [90.0, 90.0]], CHANGES, winner=1).steps
    assert step.share is None


def test_figures_belong_to_every_station():
    with pytest.raises(ValueError, match="3 stations"):
        attribute(Path((("a",), ("b",))), [[1.0], [2.0]], CHANGES, winner=1)


# What the model promises

GRID = Grid((Knob("seats", (1, 2, 4, 8, 16), ordered=True), Knob("mode", ("slow", "fast"), ordered=False)))
PLACE = {"seats": 1, "mode": "slow"}


def throughput(seats: int, mode: str) -> float:
    return 100.0 * GRID.knobs[0].levels.index(seats) + (50.0 if mode == "fast" else 0.0)


def test_the_model_tells_the_effects_of_knobs_that_never_changed_alone():
    seen = [(1, "slow"), (4, "fast"), (16, "slow"), (8, "fast"), (2, "slow"), (16, "fast")]
    expected = expectation(GRID, PLACE, [Lesson({"seats": s, "mode": m}, throughput(s, m)) for s, m in seen])
    assert expected({"seats": 4, "mode": "slow"}) == pytest.approx(200.0, abs=15)
    assert expected({"seats": 1, "mode": "fast"}) == pytest.approx(50.0, abs=25)
    assert expected({"seats": 16}) == expected({"seats": 16, "mode": "slow"})


def test_too_few_or_equal_trials_promise_the_same_of_everything():
    two = expectation(GRID, PLACE, [Lesson({"seats": 1}, 10.0), Lesson({"seats": 16}, 90.0)])
    equal = expectation(GRID, PLACE, [Lesson({"seats": seats}, 50.0) for seats in (1, 4, 16)])
    assert two({"seats": 1}) == two({"seats": 16})
    assert equal({"seats": 1}) == equal({"seats": 16})


def test_a_total_that_may_be_nothing_has_no_shares():
    """In one round 100 more, in the other 10 less."""
    change = {"seats": KnobChange(name="seats", baseline=1, winner=2)}
    found = attribute(Path((("seats",),)), [[500.0, 500.0], [600.0, 490.0]], change, winner=1)
    assert found.total_tok_s.value == 45.0
    assert found.steps[0].share is None
