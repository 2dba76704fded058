"""The data sets that finesweep generates itself: `builtin:nli` and its siblings."""
