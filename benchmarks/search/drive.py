"""One sweep, driven in this process: the session, the study and the real local trainer, without Ray and MLflow.

What is measured here are decisions, and they do not depend on who runs the trials. One trial runs at a time, so that
a seed always gives the same sweep.
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
    "source": "builtin:nli",
    "prompt": "{premise}\n{hypothesis}\n\n###\n\n",
    "completion": " {label}",
    "train_examples": 300,
    "valid_examples": 150,
    "test_examples": 500,
}


@dataclass(frozen=True)
class Done:
    """What came of a sweep. `best_test` is the test accuracy of the best single run's model."""

    trials: tuple[Trial, ...]
    changes: tuple[Change, ...]
    finals: FinalsResult | None
    best_test: float | None

    @property
    def best(self) -> float | None:
        """The best validation accuracy of the search."""
        return max((each.values[0] for each in self.trials if each.values), default=None)

    @property
    def tokens(self) -> int:
        """The tokens that the search's trials trained on."""
        return sum(each.spend.tokens for each in self.trials)


@dataclass(frozen=True)
class Ended:
    """A sweep whose trials are done and whose backend can still answer."""

    plan: SweepPlan
    study: Study
    session: Session
    backend: Backend


def sweep(folder: Path, seed: int, space: Mapping[str, Any], *, score: bool = False, **more: Any) -> Done:
    """Run a sweep of the embedded model below `folder`; `more` are keys of the sweep file.

    With `score` the models of the best run and of the finals' winner are scored on the test split.
    """
    with driven(folder, seed, space, **more) as ended:
        plan, study, backend = ended.plan, ended.study, ended.backend
        finals = finals_scoring.score_finals(plan, study.search_trials, study.repeats, backend) if plan.spec.finals else None
        best = next(iter(leaderboard(study.search_trials, ended.session.objective)), None)
        test = None
        if score and best is not None and best.model is not None and plan.data.test is not None:
            test = float(np.mean(finals_scoring.correct_answers(backend, [best.model], plan.data.test, plan.data.dataset)))
        return Done(tuple(study.search_trials), ended.session.changes, finals, test)


@contextmanager
def driven(folder: Path, seed: int, space: Mapping[str, Any], **more: Any) -> Iterator[Ended]:
    """Run a sweep's trials and the finals' repetitions, and give what came of them while their models can be asked."""
    file = {
        "name": "s",
        "backend": {"type": "local", "model": "builtin:tiny-lm"},
        "space": dict(space),
        "objective": {"maximize": "valid_accuracy"},
        "evaluation": {"per_epoch": 2, "train_examples": 64},
        **more,
        "data": {**DATA, "seed": seed, **more.get("data", {})},
        "search": {"sampler": "tpe", "scheduler": "none", "concurrency": 1, "seed": seed, **more.get("search", {})},
    }
    plan = make_plan(from_document(parse(yaml.safe_dump(file), "s.yaml")), Workspace(folder), estimate=False)
    objectives = [each.objective for each in plan.spec.objectives]
    study = Study.open(
        plan.folder / "study.journal",
        StudyDefinition("s",
        plan.fingerprint,
        plan.space,
        objectives,
        plan.spec.search,
        plan.base_model),
    )
    session = Session(plan, study, [])
    backend = plan.spec.backend_class.open(plan.spec.backend_options, plan.folder, Placement(1.0, 0.0))
    with closing(backend):
        while isinstance(trial := session.next_trial(), Trial):
            _train(session, plan, backend, trial)
        session.finish()
        yield Ended(plan, study, session, backend)


def _train(session: Session, plan: SweepPlan, backend: Backend, trial: Trial) -> None:
    handle, seen = backend.submit(plan.request(trial)), 0
    session.trial_started(trial.number)
    while True:
        events = backend.events(handle, seen)
        session.observe(trial.number, handle, seen, events)
        seen += len(events)
        if session.is_stopped_by_verdict(trial.number):
            backend.stop(handle)
            session.trial_ended(trial.number, TrialEnd.VERDICT)
            return
        if events[-1].kind in ("finished", "failed", "stopped"):
            session.trial_ended(trial.number, TrialEnd.ITSELF)
            return
