"""The Optuna study of a sweep: trial records, the queue of points, samplers, steering and finals."""
