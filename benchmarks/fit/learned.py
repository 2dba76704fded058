"""Comparison of the judge with models learned on the quantities that its rules use.

The models are trained on `tune`.

python -m benchmarks.fit.learned             # cross-validated within `tune`
python -m benchmarks.fit.learned --report    # also trained on all of `tune` and scored on `report`
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from backends.training_logs.learning_curve import LearningCurve
from benchmarks.fit import metrics, records
from benchmarks.fit.evaluate import judge_kind
from benchmarks.fit.records import Record
from sweeps.verdicts.features import CurveFeatures
from sweeps.verdicts.noise import evaluated_examples
from sweeps.verdicts.series import Series
from sweeps.verdicts.trend import Trend, trend_of

REPEATS, FOLDS = 3, 5
UNKNOWN = math.nan


def models(seed: int) -> dict[str, Any]:
    """Return the models to compare, from the simplest to the most flexible."""
    imputer = SimpleImputer(add_indicator=True, keep_empty_features=True)
    return {
        "logistic regression": make_pipeline(imputer, StandardScaler(), LogisticRegression(max_iter=2000)),
        "tree of depth 6": DecisionTreeClassifier(max_depth=6, min_samples_leaf=4, random_state=seed),
        "forest of 300 trees": RandomForestClassifier(300, min_samples_leaf=2, random_state=seed),
        "gradient boosting": HistGradientBoostingClassifier(random_state=seed),
    }


def quantities(curve: LearningCurve) -> list[float]:
    """Return the quantities that the rules use, on a logarithmic scale.

    NaN means that the curve does not tell.
    """
    features = CurveFeatures(curve)
    base, rise = features.baseline, features.rise
    scale = features.unlearned_loss or 1.0
    finite = all(math.isfinite(value) for point in (base, *features.points) for value in point.values)
    values = [
        float(finite),
        float(("complete", "stopped", "failed", "diverged").index(curve.ended)),
        features.evaluations,
        math.log(evaluated_examples(curve.valid_examples)),
        UNKNOWN if rise is None else rise.height / (abs(rise.low) or 1.0),
        UNKNOWN if rise is None else rise.height / (features.rise_noise(rise.low, rise.height) or 1.0),
        UNKNOWN if rise is None else rise.height / scale,
        UNKNOWN if rise is None or not features.points else rise.onset / (features.last_epoch or 1.0),
        float(features.metric_is_saturated),
        float(features.metric_never_rose),
        float(features.learning_rate_decayed),
        float(features.loss_fell_far),
        float(features.a_loss_falls_slowly),
        float(features.spike is not None),
        UNKNOWN if features.no_skill is None else features.no_skill[0],
    ]
    for series, before in (
        (features.train_loss, base.train_loss),
        (features.valid_loss, base.valid_loss),
        (features.train_metric, base.train_metric),
        (features.valid_metric, base.valid_metric),
    ):
        values += _series_quantities(series, before, trend_of(series, before))
    train, valid = features.train_metric, features.valid_metric
    values.append(UNKNOWN if train is None or valid is None else train.last - valid.last)
    return [
        math.copysign(math.log1p(abs(quantity)), quantity) if math.isfinite(quantity) else UNKNOWN
        for quantity in values
    ]


def _series_quantities(series: Series | None, before: float | None, trend: Trend | None) -> list[float]:
    if series is None:
        return [UNKNOWN] * 8
    first, low, high = series.values[0], min(series.values), max(series.values)
    size = abs(first) or 1.0
    return [
        series.last,
        (series.last - low) / size,
        (high - series.last) / size,
        high / size,
        series.roughness / size,
        UNKNOWN if before is None else (series.last - before) / (abs(before) or 1.0),
        UNKNOWN if trend is None else trend.fall / size,
        UNKNOWN if trend is None else trend.expected_fall / size,
    ]


def score(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Return the macro-F1."""
    return metrics.macro_f1(metrics.confusion(truth, predicted))


def _inputs_and_truth(run_records: Sequence[Record]) -> tuple[np.ndarray[Any, Any], list[str]]:
    return np.array([quantities(record.curve) for record in run_records]), [record.cause for record in run_records]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the macro-F1 of each model, and of the judge on the same curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--report", action="store_true", help="also score the part used only to report")
    options = parser.parse_args(arguments)
    run_records = records.read(records.CURVES)
    parts = {name: [record for record in run_records if record.split == name] for name in ("tune", "report")}
    inputs, truth = _inputs_and_truth(parts["tune"])
    print(f"tune: {len(truth)} curves, {inputs.shape[1]} quantities; the judge, whose thresholds were chosen on it: "
          f"{score(truth, [judge_kind(record.curve) for record in parts['tune']]):.3f}")  # fmt: skip
    for name in models(0):
        scores = []
        for seed in range(REPEATS):
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
            scores.append(score(truth, list(cross_val_predict(models(seed)[name], inputs, truth, cv=folds))))
        print(f"  {name}, cross-validated: {np.mean(scores):.3f}")
    if options.report:
        held_out, true = _inputs_and_truth(parts["report"])
        print(
            f"report: {len(true)} curves; the judge: "
            f"{score(true, [judge_kind(record.curve) for record in parts['report']]):.3f}"
        )
        for name, model in models(0).items():
            print(f"  {name}: {score(true, list(model.fit(inputs, truth).predict(held_out))):.3f}")


if __name__ == "__main__":
    main()
