"""How often the interval of what doubling adds contains the truth.

Run `python -m benchmarks.scaling.coverage`. It simulates learning curves with a known law. The luck
of a subset moves all seeds of a size together.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from sweeps.scaling.curves import Measure, MeasuredPoint, judged

CURVES, SEEDS = 150, 3
MEASURE = Measure("valid_accuracy", "maximize", (0.0, 1.0), 500, 0.34)
SETTINGS = (
    ((100, 300, 1000, 3000), 0.01, 0.0),
    ((100, 300, 1000, 3000), 0.01, 0.01),
    ((100, 200, 400, 800, 1600, 3200), 0.01, 0.01),
    ((100, 200, 400, 800), 0.01, 0.01),
    ((100, 300, 1000, 3000), 0.005, 0.01),
)
"""The sizes, and the standard deviations over the seeds and over the subsets."""


def main() -> None:
    print("| sizes | seeds | subsets | claims | contain the truth | median width |\n|---|---|---|---|---|---|")
    for sizes, seed_deviation, subset_deviation in SETTINGS:
        widths, hits, reasons = [], 0, Counter[str]()
        for number in range(CURVES):
            rng = np.random.default_rng(number)
            exponent, limit, first = rng.uniform(0.2, 0.7), rng.uniform(0.65, 0.95), rng.uniform(0.15, 0.3)
            true = {size: limit - first * (size / sizes[0]) ** -exponent for size in (*sizes, 2 * sizes[-1])}
            points = []
            for size in sizes:
                level = true[size] + subset_deviation * rng.standard_normal()
                points.append(MeasuredPoint(size, "", tuple(level + seed_deviation * rng.standard_normal(SEEDS))))
            curve = judged("model", "model", points, MEASURE, number)
            if curve.extrapolation is None:
                reasons[curve.reason.split(",")[0]] += 1
                continue
            widths.append(curve.extrapolation.high - curve.extrapolation.low)
            gain = true[2 * sizes[-1]] - true[sizes[-1]]
            hits += curve.extrapolation.low <= gain <= curve.extrapolation.high
        listed = ", ".join(map(str, sizes))
        print(
            f"| {listed} | {seed_deviation} | {subset_deviation} | {len(widths)} of {CURVES} | "
            f"{hits / len(widths):.1%} | {np.median(widths):.4f} |"
        )


if __name__ == "__main__":
    main()
