"""The proposer's view of a search space: every knob is an index into at most 16 levels."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from autotune.engine_config import Value
from autotune.search_space import SearchSpace, is_ordered, levels

Point = tuple[int, ...]  # one index for each knob, in the grid's order

MAX_LISTED = 4096  # a grid up to this size is searched exhaustively for a free point
MAX_NEIGHBOURS = 20_000  # points looked at around a proposal in a larger grid


@dataclass(frozen=True, slots=True)
class Knob:
    """One dimension: its name, its levels as real values, and whether their order means anything."""

    name: str
    levels: tuple[Value, ...]
    ordered: bool


@dataclass(frozen=True, slots=True)
class Grid:
    """All knobs that are searched, in one fixed order; parameters with a single level are not among them."""

    knobs: tuple[Knob, ...]

    @classmethod
    def of(cls, space: SearchSpace) -> "Grid":
        """The grid of a search space."""
        return cls(
            tuple(
                Knob(name, levels(parameter), is_ordered(parameter))
                for name, parameter in space.parameters.items()
                if len(levels(parameter)) > 1
            )
        )

    @property
    def size(self) -> int:
        """Number of points, conditional knobs counted as if always active."""
        return int(np.prod([len(knob.levels) for knob in self.knobs], dtype=object)) if self.knobs else 1

    def values(self, point: Point) -> dict[str, Value]:
        """The real knob values at a point."""
        return {knob.name: knob.levels[i] for knob, i in zip(self.knobs, point, strict=True)}

    def point(self, knobs: Mapping[str, Value], default: Mapping[str, Value]) -> Point:
        """The point nearest to real values; a knob that is missing (an inactive one) sits at its default."""
        return tuple(_nearest_level(knob, knobs.get(knob.name, default.get(knob.name))) for knob in self.knobs)

    def sobol(self, index: int, seed: int) -> Point:
        """The `index`-th point of the scrambled Sobol sequence of this seed (Owen scrambling, scipy's)."""
        if not self.knobs:
            return ()
        engine = qmc.Sobol(len(self.knobs), scramble=True, rng=np.random.default_rng(seed))
        unit = engine.random_base2(index.bit_length())[index]  # the first 2^m points, m the smallest that holds it
        return tuple(min(int(u * len(k.levels)), len(k.levels) - 1) for u, k in zip(unit, self.knobs, strict=True))

    def nearest_free(self, start: Point, accept: Callable[[dict[str, Value]], bool]) -> Point | None:
        """The accepted point nearest to `start` (steps of ordered knobs, changes of unordered ones); None: none found.

        Exhaustive up to `MAX_LISTED` points; in a larger grid `MAX_NEIGHBOURS` points around `start` are looked at.
        """
        candidates = self._by_distance(start) if self.size <= MAX_LISTED else self._around(start)
        return next((point for point in candidates if accept(self.values(point))), None)

    def _by_distance(self, start: Point) -> Sequence[Point]:
        every = itertools.product(*(range(len(knob.levels)) for knob in self.knobs))
        return sorted(every, key=lambda point: (self._distance(start, point), point))

    def _around(self, start: Point) -> Iterator[Point]:
        seen, ring = {start}, [start]
        while ring and len(seen) < MAX_NEIGHBOURS:
            yield from ring
            ring = [*dict.fromkeys(p for near in ring for p in self._steps(near) if p not in seen)]
            seen.update(ring)

    def _steps(self, point: Point) -> Iterator[Point]:
        for axis, knob in enumerate(self.knobs):
            here = point[axis]
            reach = (here - 1, here + 1) if knob.ordered else range(len(knob.levels))
            for there in reach:
                if there != here and 0 <= there < len(knob.levels):
                    yield (*point[:axis], there, *point[axis + 1 :])

    def _distance(self, one: Point, other: Point) -> int:
        return sum(
            abs(a - b) if knob.ordered else int(a != b) for knob, a, b in zip(self.knobs, one, other, strict=True)
        )


def _nearest_level(knob: Knob, value: Value | None) -> int:
    if value in knob.levels:
        return knob.levels.index(value)
    if not isinstance(value, int | float):
        return 0
    numeric = [(abs(level - value), i) for i, level in enumerate(knob.levels) if isinstance(level, int | float)]
    return min(numeric)[1] if numeric else 0
