"""Accuracy of the judge of learning curves, measured on curves of real runs with a known,
engineered cause.
"""
