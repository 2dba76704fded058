"""The Optuna sampler that a sweep file names, and the points of a grid search."""

from __future__ import annotations

import itertools
import random
import warnings
from typing import assert_never

import optuna

from backends.contract import Scalar
from search_spaces.space import ResolvedSpace
from sweeps.spec.sweep_file import SearchSpec


def make_sampler(search: SearchSpec, space: ResolvedSpace, past_trials: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that the sweep file names.

    Some samplers keep their random state in memory. They are seeded by the sweep's seed and the
    number of past trials, so that a resumed sweep does not propose its first points again.
    """
    seed = search.seed + 10_007 * past_trials
    startup = search.startup_trials if search.startup_trials is not None else max(3, min(10, search.trials // 3))
    with warnings.catch_warnings():  # Optuna marks some samplers as experimental; our tests cover the installed version
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _sampler(search, seed, startup)


def _sampler(search: SearchSpec, seed: int, startup: int) -> optuna.samplers.BaseSampler:
    match search.sampler:
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        case "qmc":
            return optuna.samplers.QMCSampler(seed=search.seed, scramble=True, warn_independent_sampling=False)
        case "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, search.trials // 4)))
        case "random" | "grid":  # a new study queues the points of a grid
            return optuna.samplers.RandomSampler(seed=seed)
        case _ as unreachable:
            assert_never(unreachable)


def grid_points(space: ResolvedSpace, seed: int) -> list[dict[str, Scalar]]:
    """Return every point of the space, shuffled by the seed.

    A search that ends early has then tried points without a pattern.
    """
    values = space.grid()
    points = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    random.Random(seed).shuffle(points)
    return points


def random_point(space: ResolvedSpace, seed: int) -> dict[str, Scalar]:
    """Return a point drawn uniformly from the space."""
    return space.suggest(optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask())
