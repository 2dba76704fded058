"""What the user learns when the code of a backend fails in a worker, or the worker itself ends."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import codec
from backends.contract import Failed, Handle, Measured, TrainingRequest
from sweeps.errors import SweepError
from sweeps.execution import engine
from sweeps.execution.environment import Environment, open_study
from sweeps.execution.model_retention import ModelRetention
from sweeps.execution.session import Session
from sweeps.execution.trainable import TrialRunner, WorkerReport
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse, with_overrides
from sweeps.trials.trial import Trial, TrialState
from sweeps.workspace import Workspace

pytestmark = pytest.mark.integration

PLUGIN = Path(__file__).parent / "plugin"
SECRET = "sk-coin-7d3f19ab"

FILE = """\
name: coins
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}",
       train_examples: 120, valid_examples: 60}
backend: {type: faulty}
space: {n_epochs: 2, bend: [0.3, 0.5]}
search: {sampler: random, scheduler: none, trials: 1, concurrency: 1, retries: 0, stop_by_verdict: false}
objective: {minimize: valid_loss}
"""


@pytest.fixture(scope="module", autouse=True)
def ray_connected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install the plug-in for this process and for the workers, and start Ray."""
    site = tmp_path_factory.mktemp("site")
    info = site / "faulty_backend-0.1.dist-info"
    info.mkdir()
    shutil.copy(PLUGIN / "coin_backend.py", site)
    shutil.copy(PLUGIN / "faulty_backend.py", site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty-backend\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[finesweep.backends]\nfaulty = faulty_backend:FaultyBackend\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])]))
        patch.setenv("COIN_API_KEY", SECRET)
        engine.connect(None, logging.NullHandler())
        yield
        engine.disconnect()
    sys.modules.pop("faulty_backend", None)


def planned(root: Path, *overrides: str) -> SweepPlan:
    plan = make_plan(from_document(with_overrides(parse(FILE, "f.yaml"), overrides)), Workspace(root), estimate=False)
    plan.folder.mkdir(parents=True, exist_ok=True)
    return plan


def reports_of_a_worker(plan: SweepPlan) -> list[WorkerReport]:
    """Run one trial as a worker does, in this process."""
    request = TrainingRequest("key", "coin", plan.data.dataset, {"n_epochs": 2, "bend": 0.3}, seed=1)
    worker = object.__new__(TrialRunner)
    worker.setup(
        {
            "backend": "faulty",
            "options": plan.spec.backend_options.model_dump_json(),
            "workspace": str(plan.folder),
            "cpus": 1.0,
            "gpus": 0.0,
            "machines": 1,
            "metric": "valid_loss",
            "may_be_stopped": True,
            "nodes": None,
            "files": None,
            "request": json.dumps(codec.to_json(request)),
        }
    )
    reports: list[WorkerReport] = []
    while not reports or not isinstance(reports[-1].events[-1], Failed):
        reports.append(codec.from_json(WorkerReport, json.loads(worker.step()["report"])))
    return reports


def run(root: Path, *overrides: str) -> Session:
    plan = planned(root, *overrides)
    session = Session(plan, open_study(plan, Environment(Workspace(root), "unused")), [])
    engine.run(session)
    session.finish()
    return session


def failed_trial(session: Session) -> Trial:
    [trial] = session.study.search_trials
    assert trial.state is TrialState.FAILED
    return trial


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("ValueError", "raised ValueError: the column has no name (faulty_backend.py:"),
        ("KeyError", "raised KeyError: 'epoch' (faulty_backend.py:"),
        ("SystemExit", "raised SystemExit: 3 (faulty_backend.py:"),
        ("KeyboardInterrupt", "raised KeyboardInterrupt: by the code (faulty_backend.py:"),
        ("RecursionError", "raised RecursionError: maximum recursion depth exceeded"),
        ("UnreadableError", "raised UnreadableError: its message is unreadable"),
        ("UnpicklableError", "raised UnpicklableError: a lock (faulty_backend.py:"),
        ("ExceptionGroup", "raised ExceptionGroup: two (2 sub-exceptions) (faulty_backend.py:"),
        ("MemoryError", "ran out of memory: MemoryError (faulty_backend.py:"),
        ("nothing", "it returned NoneType and no sequence of events"),
        ("text", "it returned str among the events"),
        ("no number", "`events` of the backend raised "),
    ],
)
def test_an_exception_of_a_backend_is_named_with_its_place(tmp_path: Path, fault: str, told: str) -> None:
    reports = reports_of_a_worker(planned(tmp_path, f"backend.fault={fault}"))
    failed = reports[-1].events[-1]
    assert isinstance(failed, Failed)
    assert told in failed.failure.message
    assert failed.failure.message.startswith("`events` of the backend")
    assert "\n" not in failed.failure.message
    assert len(failed.failure.message) < 400
    assert not failed.failure.kind.retryable
    assert any(isinstance(event, Measured) for report in reports for event in report.events), "the curve stays"
    assert "Traceback (most recent call last)" in reports[-1].traceback


@pytest.mark.parametrize("method", ["open", "submit"])
def test_an_exception_before_the_run_starts_is_named_too(tmp_path: Path, method: str) -> None:
    trial = failed_trial(run(tmp_path, "backend.fault=SystemExit", f"backend.method={method}"))
    assert trial.reason.startswith(f"`{method}` of the backend raised SystemExit: 3 (faulty_backend.py:")


@pytest.mark.parametrize("fault", ["UnpicklableError", "KeyboardInterrupt"])
def test_an_exception_in_a_worker_process_reaches_the_record_and_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    trial = failed_trial(run(tmp_path, f"backend.fault={fault}"))
    assert trial.reason.startswith(f"`events` of the backend raised {fault}")
    assert len(trial.curve) == 1, "what was measured before stays"
    assert "Traceback (most recent call last)" in caplog.text, "the log has the whole story"


def test_no_secret_reaches_the_record_or_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    session = run(tmp_path, "backend.fault=secret")
    assert failed_trial(session).reason.startswith("`events` of the backend raised ValueError: the service refused")
    assert "<secret>" in failed_trial(session).reason
    assert SECRET not in caplog.text
    assert SECRET not in (session.plan.folder / "study.journal").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("os._exit", "it called os._exit(3) at faulty_backend.py:"),
        ("segfault", "segmentation fault, SIGSEGV (faulty_backend.py:"),
        ("abort", "aborted, SIGABRT (faulty_backend.py:"),
        ("SIGKILL", "it left no message, as after a kill signal; it occupied "),
    ],
)
def test_the_end_of_a_worker_process_is_told_as_far_as_it_is_known(tmp_path: Path, fault: str, told: str) -> None:
    trial = failed_trial(run(tmp_path, f"backend.fault={fault}"))
    assert re.match(rf"the worker process \d+ on {re.escape(platform.node())} ended: ", trial.reason)
    assert told in trial.reason


def test_the_next_trial_runs_after_each_fault(tmp_path: Path) -> None:
    """The fault comes after the second epoch, which only a longer trial reaches."""
    overrides = ("space.n_epochs=[1, 3]", "space.bend=0.5", "search={sampler: grid, scheduler: none, trials: 2}")
    session = run(tmp_path, "backend.fault=ValueError", "backend.after_epoch=2", *overrides)
    states = {trial.hyperparameters["n_epochs"]: trial.state for trial in session.study.search_trials}
    assert states == {1: TrialState.COMPLETE, 3: TrialState.FAILED}


def test_a_run_that_cannot_be_stopped_does_not_fail_the_next_trial(tmp_path: Path) -> None:
    overrides = ("space.n_epochs=4", "space.bend=[0.3, 0.31, 0.32, 0.9]", "search.trials=4")
    scheduler = "search.scheduler={type: median, min_trials: 1}"
    session = run(tmp_path, "backend.fault=ValueError", "backend.method=stop", scheduler, *overrides)
    states = [trial.state for trial in session.study.search_trials]
    assert TrialState.STOPPED in states
    assert TrialState.FAILED not in states

    retention = ModelRetention(session.plan, session.study, session.plan.open_backend(), ())
    stopped = [trial.number for trial in session.study.search_trials if trial.state is TrialState.STOPPED]
    unstopped = retention.finish(keep=None)
    assert sorted(unstopped) == sorted(stopped)
    assert all("`stop` of the backend raised ValueError" in reason for reason in unstopped.values())


def test_a_service_that_forgot_a_stopped_run_does_not_fail_the_sweep(tmp_path: Path) -> None:
    overrides = ("space.n_epochs=4", "space.bend=[0.3, 0.31, 0.32, 0.9]", "search.trials=4")
    session = run(tmp_path, "search.scheduler={type: median, min_trials: 1}", *overrides)
    forgotten = [trial for trial in session.study.search_trials if trial.state is TrialState.STOPPED]
    assert forgotten
    for trial in forgotten:
        assert trial.handle is not None
        shutil.rmtree(session.plan.folder / trial.handle.id)
    retention = ModelRetention(session.plan, session.study, session.plan.open_backend(), ())
    assert retention.finish(keep=None) == {}


@pytest.mark.parametrize("method", ["describe", "check"])
def test_an_exception_before_anything_starts_is_one_error(tmp_path: Path, method: str) -> None:
    with pytest.raises(SweepError, match=rf"`{method}` of the backend raised ValueError: the column has no name"):
        planned(tmp_path, "backend.fault=ValueError", f"backend.method={method}")


def test_an_error_in_closing_the_backend_is_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    session = run(tmp_path, "backend.fault=ValueError", "backend.method=close")
    session.plan.open_backend().close()
    assert "the column\nhas no name" in caplog.text


def test_ctrl_c_is_not_taken_for_an_exception_of_the_backend(tmp_path: Path) -> None:
    """A signal interrupts the driver while the code of the backend runs."""
    backend = planned(tmp_path, "backend.fault=interrupt", "backend.method=discard").open_backend()
    with pytest.raises(KeyboardInterrupt):
        backend.discard(Handle("coin", "any"))
