"""`python -m sweeps.cli` runs the command `sweep`."""

from sweeps.cli.main import main

main()
