"""What a task gives away without a language model: cheap answers, measured like those of a sweep.

`baseline` defines the values, `measurement` measures them. Nothing here opens a file.
"""

from __future__ import annotations

from sweeps.data.baselines.baseline import Baseline, Baselines, MetricRange

__all__ = ["Baseline", "Baselines", "MetricRange"]
