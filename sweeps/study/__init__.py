"""The Optuna study of a sweep: trial records, queue, samplers, steering and finals."""
