"""Benefit of a sweep's own decisions: steering, and finals compared with the best of many single
runs.
"""
