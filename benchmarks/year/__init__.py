"""Simulated years of nightly sweeps: the product's scheduling, budgets, sweeps and challenges under
a simulated clock.
"""
