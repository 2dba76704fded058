"""How much of a difference chance explains: sampling errors of losses and metrics.

benchmarks/fit chose the constants.
"""

from __future__ import annotations

import math

SIGNIFICANT = 2.0
"""How many standard errors a difference must exceed to count; about 95 % of chance differences
stay within."""

RESOLUTION = 0.1
"""A validation set with an error band wider than ten points cannot show that nothing was
learned."""

ASSUMED_EXAMPLES = 200
"""The assumed number of evaluated examples if it is unknown: so few that a doubtful difference
does not count."""

LOSS_SPREAD = 0.6
"""The standard deviation of the change of one example's loss between two evaluations, as a share
of the mean loss."""

RISE_SPREAD_OF_LOW, RISE_SPREAD_OF_RISE = 0.36, 1.7
"""The same where the mean loss rises: shares of its minimum and of the rise. A few examples
cause a rise: those that the model is sure of and wrong about. So the fewer examples there are,
the less certain a rise is, however large. Fitted to the overfitted runs of benchmarks/fit,
whose oracle knows the spread."""


def evaluated_examples(known: int | None) -> int:
    """Return the number of examples that an error is computed from."""
    return known if known is not None and known > 0 else ASSUMED_EXAMPLES


def standard_error(share: float, count: int) -> float:
    """Return the binomial standard error of a share of `count` examples.

    One success and one failure are added, because no share is certain (Agresti and Coull 1998).
    """
    likely = (min(max(share, 0.0), 1.0) * count + 1) / (count + 2)
    return math.sqrt(likely * (1 - likely) / count)


def metric_noise(share: float, examples: int | None) -> float:
    """Return the half-width of the error band of a metric that is a share of the examples."""
    return SIGNIFICANT * standard_error(share, evaluated_examples(examples))


def loss_noise(level: float, examples: int | None, roughness: float) -> float:
    """Return how far a validation loss near `level` may move by chance between two evaluations."""
    return max(SIGNIFICANT * LOSS_SPREAD / math.sqrt(evaluated_examples(examples)) * abs(level), 3 * roughness)


def rise_noise(low: float, height: float, examples: int | None, roughness: float) -> float:
    """Return how much of a rise of the validation loss from `low` by `height` chance explains."""
    spread = RISE_SPREAD_OF_LOW * abs(low) + RISE_SPREAD_OF_RISE * max(height, 0.0)
    return max(SIGNIFICANT * spread / math.sqrt(evaluated_examples(examples)), 3 * roughness)
