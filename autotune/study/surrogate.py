"""What a model of the job's own trials expects of a configuration that was never launched."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from autotune.engine_config import Value
from autotune.study.grid import Grid, Point

Floats = NDArray[np.float64]

FEWEST = 3  # trials; fewer teach a model nothing
_LENGTHS = (0.05, 20.0)  # bounds of a knob's length scale, in widths of its range
_NOISES = (1e-4, 1.0)  # bounds of the noise's variance, in variances of the figures


@dataclass(frozen=True, slots=True)
class Lesson:
    """One trial's knobs, and its throughput under the SLA."""

    knobs: Mapping[str, Value]
    figure: float


def expectation(
    grid: Grid, placement: Mapping[str, Value], lessons: Sequence[Lesson]
) -> Callable[[Mapping[str, Value]], float]:
    """What the job's trials let one expect of a choice of knobs, as a function of it.

    The posterior mean of a Gaussian process over the proposer's grid, as its GP sampler has one: Matérn 5/2 with a
    length scale per knob, both these and the noise by maximum marginal likelihood (Rasmussen, Williams: Gaussian
    Processes for Machine Learning, 2006, sections 2.2, 4.2 and 5.4). Computed here with numpy, so that the answer is
    the same with and without torch, and whatever sampler the job has. A knob that is missing sits at `placement`.
    The same for all when there are fewer than 3 lessons, or nothing in which they differ.
    """
    figures = np.array([lesson.figure for lesson in lessons], dtype=np.float64)
    if len(lessons) < FEWEST or not figures.std() or not grid.knobs:
        return lambda _knobs: 0.0
    mean, spread = float(figures.mean()), float(figures.std())
    known = [grid.point(lesson.knobs, placement) for lesson in lessons]
    among, scaled = _squares(grid, known, known), (figures - mean) / spread
    lengths, noise = _fitted(among, scaled)
    covariance = _matern(among, lengths) + noise * np.eye(len(known))
    weights = cho_solve(cho_factor(covariance, lower=True), scaled)

    def expected(knobs: Mapping[str, Value]) -> float:
        towards = _squares(grid, [grid.point(knobs, placement)], known)
        return float(mean + spread * (_matern(towards, lengths) @ weights)[0])

    return expected


def _squares(grid: Grid, rows: Sequence[Point], columns: Sequence[Point]) -> Floats:
    """Squared distances per knob, shape (rows, columns, knobs): steps over the knob's range, 1 for another category."""
    a, b = np.array(rows, dtype=np.float64)[:, None, :], np.array(columns, dtype=np.float64)[None, :, :]
    ordered = np.array([knob.ordered for knob in grid.knobs])
    widths = np.array([len(knob.levels) - 1 for knob in grid.knobs], dtype=np.float64)
    distances: Floats = np.where(ordered, (a - b) / widths, (a != b).astype(np.float64))
    return distances**2


def _matern(squares: Floats, lengths: Floats) -> Floats:
    """Matérn 5/2 with unit variance (Rasmussen, Williams, equation 4.17)."""
    distance = np.sqrt(5 * (squares / lengths**2).sum(axis=-1))
    kernel: Floats = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return kernel


def _fitted(squares: Floats, figures: Floats) -> tuple[Floats, float]:
    """Length scales and noise of the highest marginal likelihood, from one fixed start: equal trials, equal answer."""
    knobs = squares.shape[-1]

    def cost(logs: Floats) -> float:
        covariance = _matern(squares, np.exp(logs[:-1])) + np.exp(logs[-1]) * np.eye(len(figures))
        factor = cho_factor(covariance, lower=True)
        return float(0.5 * figures @ cho_solve(factor, figures) + np.log(np.diag(factor[0])).sum())

    bounds = [tuple(np.log(_LENGTHS))] * knobs + [tuple(np.log(_NOISES))]
    found = minimize(cost, np.array([0.0] * knobs + [np.log(1e-2)]), method="L-BFGS-B", bounds=bounds)
    return np.exp(found.x[:-1]), float(np.exp(found.x[-1]))
