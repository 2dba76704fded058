"""Fits the power law of learning curves and extrapolates it, with its uncertainty. Pure.

The law is y(n) = a + b n^-c for n training examples (Hestness et al., 2017, "Deep Learning Scaling
is Predictable, Empirically", arXiv:1712.00409): a is the value that no amount of data passes, and c
the rate of learning. It describes the middle of a learning curve. Below that region a model still
guesses, so the caller leaves out sizes at which it does.

For a given c the law is linear in a and b. The fit solves that linear problem for a grid of c and
takes the best ("variable projection", Golub and Pereyra, 1973), so that it finds the optimum and
needs no starting point.

All seeds of a size train on one subset, so that their spread does not contain the luck of the
subset. We assume that luck to be as large as that of a seed: in the measurements of Bouthillier et
al. (2021, arXiv:2103.03098) the choice of the data varied results most of all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Direction: TypeAlias = Literal["maximize", "minimize"]

EXPONENTS = np.geomspace(0.02, 2.0, 140)
"""The rates to try. Hestness et al. measured 0.07 to 0.35; theory expects 0.5 to 1."""

PARAMETERS = 3
DRAWS = 2000
LEVEL = 0.95
MISFIT_LEVEL = 0.05
"""A law that misses the means by more than noise explains, at this level, is not exact; the
distances from it then count as noise."""


@dataclass(frozen=True)
class PowerLaw:
    """y(n) = limit + coefficient * n^-exponent."""

    limit: float
    coefficient: float
    exponent: float

    def at(self, size: float) -> float:
        """Return the value for this number of training examples."""
        return float(self.limit + self.coefficient * size**-self.exponent)


@dataclass(frozen=True)
class Extrapolation:
    """What the law expects of twice the largest measured size.

    `gain` is how much better the value gets from `size` to `2 * size`, with the interval `low` to
    `high`; never negative, because the law is monotone. `band` holds the interval of the law itself
    at some sizes, for the figure.
    """

    law: PowerLaw
    size: int
    gain: float
    low: float
    high: float
    band: tuple[tuple[float, float, float], ...]


def fit(values: Mapping[int, Sequence[float]], direction: Direction, bounds: tuple[float, float]) -> PowerLaw:
    """Fit the law by least squares to the values of each size, one value per seed.

    `bounds` are the lowest and the highest possible value. Needs at least three sizes.
    """
    means = np.array([[float(np.mean(values[size])) for size in values]])
    limits, coefficients, exponents = _fit_rows(_Design.of(values, direction, bounds), means)
    return PowerLaw(float(limits[0]), float(coefficients[0]), float(exponents[0]))


def extrapolate(
    values: Mapping[int, Sequence[float]], direction: Direction, bounds: tuple[float, float], seed: int
) -> Extrapolation:
    """Fit the law and draw its uncertainty by a parametric bootstrap.

    Needs at least four sizes, or three with several seeds. The noise is that around the means and
    the law; if the law misses the means by more than that explains, it is the misfit alone. Its own
    uncertainty follows from its degrees of freedom.
    """
    law, drawn = _draws(values, direction, bounds, seed)
    size = max(values)
    limits, coefficients, exponents = drawn
    at_size = limits + coefficients * size**-exponents
    gains = np.abs(limits + coefficients * (2.0 * size) ** -exponents - at_size)
    low, high = _interval(gains)
    band = []
    for shown in np.geomspace(min(values), 2 * size, 25):
        low_end, high_end = _interval(limits + coefficients * shown**-exponents)
        band.append((float(shown), max(low_end, bounds[0]), min(high_end, bounds[1])))
    gain = abs(law.at(2 * size) - law.at(size))
    return Extrapolation(law, size, gain, min(low, gain), max(high, gain), tuple(band))


def predicts_largest(
    values: Mapping[int, Sequence[float]], direction: Direction, bounds: tuple[float, float], seed: int
) -> tuple[bool, float, float]:
    """Fit the law without the largest size, and return whether it predicts the mean there.

    Also returns the interval of the prediction, which covers the noise of that mean. Needs three
    other sizes, with several seeds at some of them.
    """
    *sizes, largest = sorted(values)
    smaller = {size: values[size] for size in sizes}
    _, (limits, coefficients, exponents) = _draws(smaller, direction, bounds, seed)
    variance, freedom = _noise(smaller, fit(smaller, direction, bounds))
    rng = np.random.default_rng([seed, 1])
    noise = rng.standard_t(freedom, DRAWS) * math.sqrt(variance / mean_weight(len(values[largest])))
    low, high = _interval(limits + coefficients * float(largest) ** -exponents + noise)
    return low <= float(np.mean(values[largest])) <= high, low, high


def mean_weight(seeds: int) -> float:
    """Return the variance of a single run divided by that of the mean over seeds of one subset."""
    return 1 / (1 / seeds + 1)


@dataclass(frozen=True)
class _Design:
    """The sizes as multiples of `unit`, the weights of their means, and the limits of the law.

    `sign` is 1 where the values fall with the size, and -1 where they rise.
    """

    sizes: Floats
    weights: Floats
    unit: float
    sign: float
    bounds: tuple[float, float]

    @classmethod
    def of(cls, values: Mapping[int, Sequence[float]], direction: Direction, bounds: tuple[float, float]) -> _Design:
        sizes = np.array(list(values), dtype=np.float64)
        unit = float(np.exp(np.log(sizes).mean()))
        weights = np.array([mean_weight(len(listed)) for listed in values.values()])
        return cls(sizes / unit, weights, unit, 1.0 if direction == "minimize" else -1.0, bounds)


def _fit_rows(design: _Design, means: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit the law to each row of means (rows, sizes); return limits, coefficients and exponents.

    The law never gets worse with more data, and its limit lies within the bounds.
    """
    losses, weights = design.sign * means, design.weights
    lowest = design.bounds[0] if design.sign > 0 else -design.bounds[1]
    total = weights.sum()
    best = np.full(len(means), np.inf)
    limits, coefficients, exponents = np.zeros_like(best), np.zeros_like(best), np.zeros_like(best)
    for exponent in EXPONENTS:
        powers = design.sizes**-exponent
        mean_power, mean_losses = weights @ powers / total, losses @ weights / total
        spread = weights @ (powers - mean_power) ** 2
        slopes = (losses - mean_losses[:, None]) @ (weights * (powers - mean_power)) / spread
        bases = mean_losses - slopes * mean_power
        # At the bound, the slope alone is free.
        bounded = (losses - lowest) @ (weights * powers) / (weights @ powers**2)
        slopes = np.where(bases < lowest, bounded, slopes)
        bases = np.maximum(bases, lowest)
        flat = slopes < 0
        slopes, bases = np.where(flat, 0.0, slopes), np.where(flat, np.maximum(mean_losses, lowest), bases)
        errors = ((losses - bases[:, None] - slopes[:, None] * powers) ** 2) @ weights
        better = errors < best
        best = np.where(better, errors, best)
        limits = np.where(better, bases, limits)
        coefficients = np.where(better, slopes * design.unit**exponent, coefficients)
        exponents = np.where(better, exponent, exponents)
    return design.sign * limits, design.sign * coefficients, exponents


def _draws(
    values: Mapping[int, Sequence[float]], direction: Direction, bounds: tuple[float, float], seed: int
) -> tuple[PowerLaw, tuple[Floats, Floats, Floats]]:
    """Return the law and bootstrap draws of its limits, coefficients and exponents."""
    law = fit(values, direction, bounds)
    variance, freedom = _noise(values, law)
    rng = np.random.default_rng([seed, 0])
    design = _Design.of(values, direction, bounds)
    fitted = np.array([law.at(size) for size in values])
    deviations = np.sqrt(variance * freedom / rng.chisquare(freedom, DRAWS))
    noise = rng.standard_normal((DRAWS, len(fitted))) * deviations[:, None] / np.sqrt(design.weights)
    return law, _fit_rows(design, fitted + noise)


def _noise(values: Mapping[int, Sequence[float]], law: PowerLaw) -> tuple[float, int]:
    """Return the variance of a single run on one subset, and its degrees of freedom."""
    from scipy.stats import f

    means = {size: float(np.mean(listed)) for size, listed in values.items()}
    within = math.fsum((value - means[size]) ** 2 for size, listed in values.items() for value in listed)
    misfit = math.fsum(mean_weight(len(listed)) * (means[size] - law.at(size)) ** 2 for size, listed in values.items())
    within_freedom = sum(len(listed) - 1 for listed in values.values())
    misfit_freedom = len(values) - PARAMETERS
    if within_freedom + misfit_freedom <= 0:
        raise ValueError("the values leave no degree of freedom for the noise")
    if within_freedom and misfit_freedom > 0 and within > 0:
        ratio = (misfit / misfit_freedom) / (within / within_freedom)
        if f.sf(ratio, misfit_freedom, within_freedom) < MISFIT_LEVEL:
            return misfit / misfit_freedom, misfit_freedom
    return (within + misfit) / (within_freedom + max(0, misfit_freedom)), within_freedom + max(0, misfit_freedom)


def _interval(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
