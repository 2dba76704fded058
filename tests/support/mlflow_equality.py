"""Whether MLflow shows what the study of a sweep records, trial by trial.

Reads MLflow through its public client, and shares no code with the tracker.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from backends.contract import Measured
from sweeps.study.stored_study import StoredStudy, read_study
from sweeps.trials.trial import Trial, TrialState
from sweeps.workspace import Workspace

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.STOPPED: "FINISHED", TrialState.FAILED: "FAILED"}


def mlflow_differences(root: Path, name: str, *, uri: str | None = None, storage: str | None = None) -> list[str]:
    """Return where MLflow differs from the study of the sweep `name`; nothing if they are equal.

    `root` is the workspace. `uri` is MLflow's (default: the database of the workspace), `storage`
    the URL of the database with the study (default: the journal file). For a sweep that has ended
    or was killed; a trial that is open in the study may be open in MLflow.
    """
    workspace = Workspace(root)
    study = read_study(storage or workspace.study_file(name), workspace.study_name(name))
    document = yaml.safe_load((workspace.sweep_folder(name) / "sweep.yaml").read_text(encoding="utf-8"))
    plan = json.loads((workspace.sweep_folder(name) / "plan.json").read_text(encoding="utf-8"))
    client = MlflowClient(uri or f"sqlite:///{(root / 'mlflow.db').resolve()}")
    experiment = client.get_experiment_by_name((document.get("tracking") or {}).get("experiment") or name)
    if experiment is None:
        return ["MLflow has no experiment of the sweep"]
    parents = _search(client, experiment.experiment_id, f"tags.`finesweep.sweep_id` = '{study.sweep_id}'")
    if len(parents) != 1:
        return [f"MLflow has {len(parents)} runs of the sweep itself instead of one"]
    [parent] = parents
    below = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = _search(client, experiment.experiment_id, below)
    return [*_differences_of_trials(client, study, children), *_differences_of_sweep(parent, study, plan)]


def _search(client: MlflowClient, experiment_id: str, condition: str) -> list[Run]:
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], condition, max_results=500, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _differences_of_trials(client: MlflowClient, study: StoredStudy, children: Sequence[Run]) -> Iterator[str]:
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in children:
        runs[run.data.tags.get("finesweep.trial_key", "")].append(run)
    trials = {trial.key: trial for trial in study.attempts}
    for key in runs.keys() - trials.keys():
        yield f"MLflow has a run of `{key}`, which is no trial of the study"
    for key, trial in trials.items():
        found = runs.get(key, [])
        if len(found) > 1:
            yield f"trial {trial.number} has {len(found)} runs"
        elif found:
            yield from (f"trial {trial.number}: {text}" for text in _differences_of_trial(client, trial, found[0]))
        elif trial.state.ended:
            yield f"trial {trial.number} has no run"


def _differences_of_trial(client: MlflowClient, trial: Trial, run: Run) -> Iterator[str]:
    tags = run.data.tags
    if not trial.state.ended:
        if run.info.status in ("FINISHED", "FAILED"):
            yield f"it is open, but its run is {run.info.status}"
        return
    if run.info.status != STATUS[trial.state]:
        yield f"it is {trial.state.value}, but its run is {run.info.status}"
    expected_tags = {"state": trial.state.value, "reason": trial.reason, "seed": str(trial.seed)}
    if trial.verdict is not None:
        expected_tags["verdict"] = trial.verdict.kind.value
    for tag, text in expected_tags.items():
        if text and tags.get(tag) != text[:8000]:
            yield f"its {tag} is {text!r}, but MLflow shows {tags.get(tag)!r}"
    for name, value in trial.hyperparameters.items():
        shown = run.data.params.get(name)
        if shown != (value if isinstance(value, str) else json.dumps(value)):
            yield f"{name} is {value!r}, but MLflow shows {shown!r}"
    if trial.ended_at is not None and run.info.end_time != round(trial.ended_at * 1000):
        yield f"it ended at {trial.ended_at}, but MLflow shows {run.info.end_time}"
    summary = {
        "objective": trial.values[0] if trial.values else None,
        "best_epoch": trial.best_epoch,
        "seconds": trial.spend.seconds,
        "tokens": trial.spend.tokens or None,
        "usd": trial.spend.usd,
    }
    yield from _differing(run.data.metrics, {key: value for key, value in summary.items() if value is not None})
    for scope, measured in (("evaluation", trial.curve), ("report", trial.loop_reports)):
        yield from _differences_of_curve(client, run, scope, measured)


def _differences_of_curve(client: MlflowClient, run: Run, scope: str, curve: Sequence[Measured]) -> Iterator[str]:
    expected: dict[str, dict[int, float]] = defaultdict(dict)
    for measured in curve:
        for name, value in measured.values.items():
            expected[name][measured.step] = value
    for name, values in expected.items():
        history = client.get_metric_history(run.info.run_id, name)
        counts = Counter(point.step for point in history)
        if doubled := sorted(step for step, count in counts.items() if count > 1):
            yield f"{name} has several values at step {doubled[0]}"
        if lacking := sorted(values.keys() - counts.keys()):
            yield f"{name} lacks the {scope} at step {lacking[0]}"
        shown = {point.step: point.value for point in history}
        for step, value in values.items():
            if step in shown and not _same(shown[step], value if math.isfinite(value) else math.nan):
                yield f"{name} at step {step} is {value}, but MLflow shows {shown[step]}"
        if scope == "evaluation" and name.startswith("valid") and (more := sorted(counts.keys() - values.keys())):
            yield f"{name} has a value at step {more[0]}, which the study does not have"


def _differences_of_sweep(parent: Run, study: StoredStudy, plan: Mapping[str, object]) -> Iterator[str]:
    if not study.is_finished:
        return
    if parent.info.status != "FINISHED":
        yield f"the sweep is finished, but its run is {parent.info.status}"
    objectives = plan["objectives"]
    assert isinstance(objectives, list)
    [(direction, metric)] = [
        (direction, objectives[0][direction]) for direction in ("maximize", "minimize") if direction in objectives[0]
    ]
    expected: dict[str, float] = {"tokens": float(sum(trial.spend.tokens for trial in study.attempts))}
    values = [trial.values[0] for trial in study.search_trials if trial.values is not None]
    if values:
        expected["trials"] = float(len(study.search_trials))
        if study.finals is None:
            expected[metric] = max(values) if direction == "maximize" else min(values)
    if study.finals is not None:
        winner = next(score for score in study.finals.standings if score.number == study.finals.winner)
        expected |= {"finals.mean": winner.mean, "finals.low": winner.low, "finals.high": winner.high}
    if any(trial.spend.usd is not None for trial in study.attempts):
        expected["usd"] = sum(trial.spend.usd or 0.0 for trial in study.attempts)
    yield from (f"the sweep: {text}" for text in _differing(parent.data.metrics, expected))


def _differing(shown: Mapping[str, float], expected: Mapping[str, float]) -> Iterator[str]:
    for name, value in expected.items():
        if name not in shown:
            yield f"MLflow lacks {name}, which is {value}"
        elif not _same(shown[name], value):
            yield f"{name} is {value}, but MLflow shows {shown[name]}"


def _same(shown: float, value: float) -> bool:
    return math.isclose(shown, value, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(shown) and math.isnan(value))
