"""How honest the extrapolation of `sweep scale` is."""
