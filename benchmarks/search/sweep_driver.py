"""Running one sweep in this process: session, study and the real trainer, no Ray, no MLflow.

The benchmarks measure decisions, which do not depend on the component that runs the trials. One
trial runs at a time, so that a seed always gives the same sweep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from backends.contract import Backend, Placement
from benchmarks.search.label_answers import correct_answers
from sweeps.execution import finals_scoring
from sweeps.execution.running_trial import TrialEnd
from sweeps.execution.session import Session
from sweeps.planning.plan import make_plan
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse
from sweeps.study.finals import FinalsResult
from sweeps.study.steering import Change
from sweeps.study.study import Study, StudyDefinition
from sweeps.trials.trial import Trial, leaderboard
from sweeps.workspace import Workspace

DATA = {
    "checks": "quick",
    "source": "builtin:nli",
    "prompt": "{premise}\n{hypothesis}\n\n###\n\n",
    "completion": " {label}",
    "train_examples": 300,
    "valid_examples": 150,
    "test_examples": 500,
}


@dataclass(frozen=True)
class SweepResult:
    """The results of a sweep. `best_test` is the test accuracy of the best single run's model."""

    trials: tuple[Trial, ...]
    changes: tuple[Change, ...]
    finals: FinalsResult | None
    best_test: float | None

    @property
    def best(self) -> float | None:
        """The best validation accuracy of the search."""
        return max((trial.values[0] for trial in self.trials if trial.values), default=None)

    @property
    def tokens(self) -> int:
        """The number of training tokens of the search's trials."""
        return sum(trial.spend.tokens for trial in self.trials)


@dataclass(frozen=True)
class FinishedSweep:
    """A sweep whose trials have ended and whose backend can still predict."""

    plan: SweepPlan
    study: Study
    session: Session
    backend: Backend


def run_sweep(
    folder: Path, seed: int, space: Mapping[str, Any], *, score: bool = False, **sections: Any
) -> SweepResult:
    """Run a sweep of the embedded model below `folder`. `sections` are keys of the sweep file.

    With `score`, the best run's model is scored on the test split, in addition to the finals'
    winner.
    """
    with finished_sweep(folder, seed, space, **sections) as finished:
        plan, study, backend = finished.plan, finished.study, finished.backend
        finals = (
            finals_scoring.score_finals(plan, study.search_trials, study.repeats, backend) if plan.spec.finals else None
        )
        best = next(iter(leaderboard(study.search_trials, finished.session.objective)), None)
        test = None
        if score and best is not None and best.model is not None and plan.data.test is not None:
            test = float(np.mean(correct_answers(backend, [best.model], plan.data.test, plan.data.dataset)))
        return SweepResult(tuple(study.search_trials), finished.session.changes, finals, test)


@contextmanager
def finished_sweep(folder: Path, seed: int, space: Mapping[str, Any], **sections: Any) -> Iterator[FinishedSweep]:
    """Run a sweep's trials and the finals' repetitions.

    Inside the block the backend can still predict.
    """
    file = {
        "name": "s",
        "backend": {"type": "local", "model": "builtin:tiny-lm"},
        "space": dict(space),
        "objective": {"maximize": "valid_accuracy"},
        "evaluation": {"per_epoch": 2, "train_examples": 64},
        **sections,
        "data": {**DATA, "seed": seed, **sections.get("data", {})},
        "search": {"sampler": "tpe", "scheduler": "none", "concurrency": 1, "seed": seed, **sections.get("search", {})},
    }
    plan = make_plan(from_document(parse(yaml.safe_dump(file), "s.yaml")), Workspace(folder), estimate=False)
    objectives = [objective.objective for objective in plan.spec.objectives]
    study = Study.open(
        plan.folder / "study.journal",
        StudyDefinition("s", plan.fingerprint, plan.space, objectives, plan.spec.search, plan.base_model),
    )
    session = Session(plan, study, [])
    backend = plan.spec.backend_class.open(plan.spec.backend_options, plan.folder, Placement(1.0, 0.0))
    with closing(backend):
        while isinstance(trial := session.next_trial(), Trial):
            _train(session, plan, backend, trial)
        session.finish()
        yield FinishedSweep(plan, study, session, backend)


def _train(session: Session, plan: SweepPlan, backend: Backend, trial: Trial) -> None:
    handle, cursor = backend.submit(plan.request(trial)), 0
    session.trial_started(trial.number)
    while True:
        events = backend.events(handle, cursor)
        session.observe(trial.number, handle, cursor, events)
        cursor += len(events)
        if session.is_stopped_by_verdict(trial.number):
            backend.stop(handle)
            session.trial_ended(trial.number, TrialEnd.VERDICT)
            return
        if events[-1].kind in ("finished", "failed", "stopped"):
            session.trial_ended(trial.number, TrialEnd.ITSELF)
            return
