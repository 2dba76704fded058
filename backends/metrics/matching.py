"""Metrics that are right or wrong for each example: the same text, or a part of it."""

from __future__ import annotations

from backends.metrics.built_in import MeanMetric
from backends.metrics.normalization import ComparisonOptions, normalized


class ExactMatch(MeanMetric[ComparisonOptions]):
    """The share of predictions that equal an acceptable text.

    White space around a text never counts. `ignore` states what else does not; with all four it is
    the exact match of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250).
    """

    options_model = ComparisonOptions

    def value(self, prediction: str, reference: str) -> float:
        """Return 1 if the texts are equal."""
        return float(normalized(prediction, self.options.ignore) == normalized(reference, self.options.ignore))
