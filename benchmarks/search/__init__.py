"""Benefit of a sweep's own decisions: steering, and finals against the best single run."""
