"""Random pairs of texts, and the scores of one metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from metric_pairs import Pairs, Score, random_pairs

from backends.metrics import registry
from backends.metrics.contract import Answers, Scores


@pytest.fixture(scope="session")
def pairs() -> Pairs:
    """200 random pairs and the edge cases; some have several acceptable texts."""
    return random_pairs()


@pytest.fixture
def score(tmp_path: Path) -> Score:
    """Score pairs by a registered metric, as a sweep does."""

    def call(name: str, pairs: Pairs, rows: Sequence[dict[str, Any]] | None = None, **options: Any) -> Scores:
        metric_class = registry.load(name)
        prepared = metric_class.prepare(metric_class.options_model.model_validate(options), tmp_path)
        metric = metric_class.open(prepared, tmp_path / "workspace")
        try:
            predictions, references = zip(*pairs, strict=True)
            return metric.score(Answers(predictions, references, tuple(rows or [{} for _ in pairs])))
        finally:
            metric.close()

    return call
