"""Reproducible measurements of the product's claims; those about speed run by `make bench`."""
