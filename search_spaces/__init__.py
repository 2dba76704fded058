"""WHAT may be tried: recommendations, parameters and search spaces. Pure."""
