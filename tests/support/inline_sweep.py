"""Runs a sweep without Ray and MLflow: `python inline_sweep.py SWEEP_FILE WORKSPACE`.

Ctrl-C and `sweep stop` work as usual. Prints what `sweep run` says.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import inline_engine

from sweeps.api.running import run_plan
from sweeps.errors import SweepError
from sweeps.execution.observers import ProgressObserver
from sweeps.planning.plan import plan_file
from sweeps.workspace import Workspace


def main() -> int:
    """Run the sweep and return its exit code."""
    workspace = Workspace(Path(sys.argv[2]))
    plan = plan_file(Path(sys.argv[1]), (), workspace, estimate=False)
    with inline_engine.instead_of_ray(), inline_engine.without_mlflow():
        try:
            run_plan(plan, workspace, ProgressObserver(), lambda message: print(message, flush=True))  # noqa: T201
        except SweepError as error:
            print(f"error: {error.message}\n  {error.hint}", flush=True)  # noqa: T201
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
