"""Learning-rate schedules: pure functions from an optimizer step to a fraction of the peak rate."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "linear", "cosine", "wsd")

DECAY_SHARE = 0.2
"""The share of a warm-up-stable-decay run's steps that decay. MiniCPM (arXiv 2404.06395) finds 10 %
enough for long runs."""


def lr_factor(schedule: str, step: int, total_steps: int, warmup_ratio: float) -> float:
    """Return the learning rate of optimizer step `step` (0, ..., total_steps - 1) as a fraction of
    its peak.

    The fraction is in (0, 1]. The warm-up rises linearly over the first `warmup_ratio` of the steps
    and ends at 1. Decays fall towards 0, which they would reach at `total_steps`, so that no step
    has a rate of zero. `wsd` (warm-up, stable, decay) stays at 1 until the last `DECAY_SHARE` of
    the steps, then falls linearly. Raises ValueError for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}")
    warmup = min(math.ceil(warmup_ratio * total_steps), total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "wsd":
        decay = min(math.ceil(DECAY_SHARE * total_steps), total_steps - warmup)
        return min(1.0, (total_steps - step) / decay)
    remaining = (total_steps - step) / (total_steps - warmup)
    return remaining if schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * remaining))
