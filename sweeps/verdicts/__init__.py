"""Learning curve -> FitVerdict: healthy, underfit, overfit, diverged or unsettled, with evidence and advice."""
