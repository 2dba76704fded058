"""Compares forecasts of memory with the measured peaks of runs that really train."""
