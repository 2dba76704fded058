"""Simulated years of nightly sweeps under a simulated clock."""
