"""Runs the command `sweep run` in a forked child on a bad day, with everything but Ray real.

The child is `sweeps.cli.main`, so its output and exit code are what a user gets.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import inline_engine
import optuna
from durable_writes import DurableWrites
from forked_process import ChildEnd, run_in_child
from killed_sweep import leftovers, recorded_submissions, service_runs, submissions
from session_driver import FILE
from sweep_invariants import Expectation, SweepFacts, violations

from sweeps.cli.main import main
from sweeps.execution import run as _imported_before_the_fork  # noqa: F401
from sweeps.planning.plan import plan_file
from sweeps.study.storage import close_storage, open_storage
from sweeps.workspace import Workspace

SEARCH = "search: {sampler: random, trials: 5, concurrency: 2}"


class BadDay:
    """A sweep in `root`, whose workspace may lie on another disk."""

    def __init__(self, root: Path, workspace: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.root, self.workspace = root, workspace or root / "workspace"
        self.environment = dict(environment or {})
        self.file = root / "sweep.yaml"
        text = FILE.replace("model: fake-small", "model: fake-small, events_per_poll: 4")
        assert SEARCH in text
        self.file.write_text(
            text.replace(SEARCH, "search: {sampler: random, scheduler: none, trials: 3, concurrency: 2}")
        )

    def sweep_run(
        self,
        at_write: int | None = None,
        happens: Callable[[], None] = lambda: None,
        *,
        mlflow: bool = False,
        timeout_s: float = 200.0,
    ) -> ChildEnd:
        """Run `sweep run`. Before its durable write number `at_write`, something happens."""
        output = self.root / "output.txt"
        output.unlink(missing_ok=True)
        return run_in_child(lambda: self._command(at_write, happens, mlflow=mlflow), output, timeout_s)

    def _command(self, at_write: int | None, happens: Callable[[], None], *, mlflow: bool) -> None:
        for name in ("SWEEP_STORAGE", "MLFLOW_TRACKING_URI", "SWEEP_ROOT"):
            os.environ.pop(name, None)
        os.environ.update(self.environment)
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.root)
        writes = DurableWrites(self.workspace)

        def on_write() -> None:
            if len(writes.names) - 1 == at_write:
                happens()

        writes.on_write = on_write
        with ExitStack() as stack:
            stack.enter_context(inline_engine.instead_of_ray())
            if not mlflow:
                stack.enter_context(inline_engine.without_mlflow())
            stack.enter_context(patch("sweeps.execution.run.page", lambda state, now: "the report"))
            stack.enter_context(recorded_submissions(self.root / "submissions.jsonl"))
            writes.install()
            sys.argv = ["sweep", "--root", str(self.workspace), "run", str(self.file)]
            main()

    def wrong(self) -> list[str]:
        """Return what is wrong with the sweep, which must have ended."""
        workspace = Workspace(self.workspace)
        with contextlib.ExitStack() as stack:
            stack.enter_context(patch.dict(os.environ, self.environment))
            plan = plan_file(self.file, (), workspace, estimate=False)
        storage = open_storage(self.environment.get("SWEEP_STORAGE") or workspace.study_file("pairs"))
        study = optuna.load_study(study_name=workspace.study_name("pairs"), storage=storage)
        facts = SweepFacts(plan, study, service_runs(plan.folder), submissions(self.root / "submissions.jsonl"))
        found = [*violations(facts, Expectation(3)), *leftovers(self.root)]
        close_storage(storage)
        return found


def assert_one_clear_error(end: ChildEnd, words: str | re.Pattern[str]) -> None:
    """Check that the command failed with one error that contains the words, and no traceback."""
    assert not end.hung, end
    assert end.exit_code == 1, end
    assert "Traceback" not in end.output, end
    assert end.output.count("error:") == 1, end
    assert re.search(words, end.output), end


def assert_mends(day: BadDay, **options: bool) -> None:
    """Check that the same command now ends the sweep, with everything there."""
    end = day.sweep_run(**options)
    assert end.exit_code == 0, end
    found = day.wrong()
    assert not found, found
