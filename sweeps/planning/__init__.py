"""Spec x data x space x capabilities -> SweepPlan: resolved, checked and estimated before anything is spent."""
