"""The record of a trial: its state, its curve, what it spent, and what a backend event changes in it."""
