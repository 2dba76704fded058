"""Verdicts on learning curves: healthy, underfit, overfit, diverged or unsettled."""
