"""What is claimed about speed, rerunnable: `python -m benchmarks.run`, or `make bench`."""
