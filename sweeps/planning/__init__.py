"""Planning: check and estimate everything about a sweep before anything is spent.

`gathering` reads the data and asks the backend, `decisions` turns the facts into a SweepPlan or
problems.
"""
