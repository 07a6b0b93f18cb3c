"""The grid: knobs as indices, Sobol points, and the nearest configuration that may be launched."""

from hypothesis import given
from hypothesis import strategies as st

from autotune.study.grid import Grid, Knob

GRID = Grid(
    (
        Knob("max_num_seqs", (4, 8, 16, 32), ordered=True),
        Knob("cudagraph_mode", ("NONE", "PIECEWISE", "FULL"), ordered=False),
    )
)


def test_size_counts_every_combination() -> None:
    assert GRID.size == 12


def test_values_are_the_real_ones() -> None:
    assert GRID.values((2, 1)) == {"max_num_seqs": 16, "cudagraph_mode": "PIECEWISE"}


def test_a_value_between_levels_sits_at_the_nearest_one() -> None:
    assert GRID.point({"max_num_seqs": 20, "cudagraph_mode": "FULL"}, {}) == (2, 2)


def test_an_inactive_knob_sits_at_its_default() -> None:
    assert GRID.point({"max_num_seqs": 8}, {"cudagraph_mode": "FULL"}) == (1, 2)


def test_the_same_seed_gives_the_same_sobol_points() -> None:
    assert [GRID.sobol(i, 7) for i in range(4)] == [GRID.sobol(i, 7) for i in range(4)]


def test_the_first_four_sobol_points_take_every_level_of_a_knob_of_four() -> None:
    assert {GRID.sobol(i, 3)[0] for i in range(4)} == {0, 1, 2, 3}


def test_a_proposal_that_is_acceptable_is_kept() -> None:
    assert GRID.nearest_free((1, 1), lambda _knobs: True) == (1, 1)


def test_a_refused_proposal_is_replaced_by_a_neighbour() -> None:
    found = GRID.nearest_free((1, 1), lambda knobs: knobs != {"max_num_seqs": 8, "cudagraph_mode": "PIECEWISE"})
    assert found == (0, 1)


def test_nothing_is_found_where_everything_is_refused() -> None:
    assert GRID.nearest_free((1, 1), lambda _knobs: False) is None


@given(st.integers(0, 11), st.sets(st.integers(0, 11), max_size=11))
def test_a_free_point_is_found_whenever_there_is_one(start: int, refused: set[int]) -> None:
    points = [(a, b) for a in range(4) for b in range(3)]
    taken = [GRID.values(points[i]) for i in refused]
    found = GRID.nearest_free(points[start], lambda knobs: knobs not in taken)
    assert found is not None
    assert points.index(found) not in refused


def test_a_large_grid_is_searched_around_the_proposal() -> None:
    large = Grid(tuple(Knob(f"k{i}", tuple(range(16)), ordered=True) for i in range(6)))
    start = (5,) * 6
    assert large.nearest_free(start, lambda knobs: knobs["k5"] == 7) == (5, 5, 5, 5, 5, 7)
