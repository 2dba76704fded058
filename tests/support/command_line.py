"""The command `sweep` in the process of a test."""

from __future__ import annotations

import sys

import pytest

from sweeps.cli import main, terminal


def sweep(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code, stdout and stderr."""
    console = (terminal.out, terminal.err)
    before, sys.argv = sys.argv, ["sweep", *arguments]
    try:
        with pytest.raises(SystemExit) as exit_:
            main.main()
    finally:
        sys.argv = before
        assert console == (terminal.out, terminal.err)
    out, err = capsys.readouterr()
    return int(exit_.value.code or 0), out, err
