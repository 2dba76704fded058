"""Accuracy of the judge of learning curves, on curves of real runs with an engineered cause."""
