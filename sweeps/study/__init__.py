"""The Optuna study: trial records, the queue of points, samplers, steering and finals."""
