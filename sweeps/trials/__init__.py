"""The record of a trial: state, learning curve, spend, and the effect of backend events."""
