"""WHAT may be tried: recommendations, parameters and search spaces. Pure: no I/O but reading packaged data."""
