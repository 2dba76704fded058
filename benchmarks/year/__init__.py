"""A year of nights in a minute: the product's own scheduling, books, sweeps and contests under a fake clock."""
