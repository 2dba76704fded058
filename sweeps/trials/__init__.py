"""The record of a trial: its state, its learning curve, its spend, and how backend events change it."""
