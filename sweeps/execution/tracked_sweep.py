"""The run of the sweep itself in MLflow: what it shows, and whether everything is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from sweeps import tracking
from sweeps.reports.baselines import baseline_metrics, closing_comparison
from sweeps.spec.objective import Objective
from sweeps.study.finals import FinalsResult, winning_trial
from sweeps.study.state import objective_of
from sweeps.study.steering import Change
from sweeps.study.sweep_advice import advise_on_stored
from sweeps.trials.budget import ledger
from sweeps.trials.trial import Trial
from sweeps.workspace import write_text


@dataclass(frozen=True)
class SentRecord:
    """What the sweep's folder knows about MLflow.

    `end` is why the sweep ended, None while it runs. `is_complete`: everything was written. A sweep
    of version 0.1 has no such file; its study counts as finished only if everything was written.
    """

    end: str | None = None
    is_complete: bool = True

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the record of a sweep. A missing or damaged file counts as that of version 0.1."""
        try:
            return cls(**json.loads(_record_file(folder).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return cls()

    def store(self, folder: Path) -> None:
        """Replace the record in one step."""
        write_text(_record_file(folder), json.dumps(asdict(self)))

    def with_completeness(self, is_complete: bool) -> Self:
        """Return the record with another `is_complete`."""
        return replace(self, is_complete=is_complete)


def _record_file(folder: Path) -> Path:
    return folder / "mlflow.json"


@dataclass(frozen=True)
class SweepDescription:
    """What the run of a sweep shows from its beginning."""

    params: Mapping[str, str]
    tags: Mapping[str, str]
    dataset: tracking.TrackedDataset

    @classmethod
    def of(cls, plan: Mapping[str, Any], document: Mapping[str, Any]) -> Self:
        """Describe a sweep from its stored plan (`plan.json`) and its file (`sweep.yaml`)."""
        search, data = plan["search"], plan["data"]
        objective = objective_of(plan)
        params = {
            "sampler": str(search["sampler"]),
            "scheduler": str(search["scheduler"]["type"]),
            "trials": str(search["trials"]),
            "seed": str(search["seed"]),
            "objective": f"{objective.direction} {objective.metric}",
            **{f"space.{parameter['name']}": str(parameter["text"]) for parameter in plan["space"]["parameters"]},
        }
        description = document.get("description")
        tags = {
            "backend": str(plan["backend"]["type"]),
            "model": str(plan["base_model"]),
            "data": str(data["name"]),
            "data.source": str(data["source"]),
            **({"data.fallback_from": str(data["fallback_from"])} if data["fallback_from"] else {}),
            **_data_tags(plan),
            **({"mlflow.note.content": str(description)} if description else {}),
        }
        purposes: Mapping[str, Literal["training", "validation"]] = {"train": "training", "valid": "validation"}
        parts = {
            purpose: tracking.TrackedPart(str(data["digests"][part]), int(data[f"{purpose}_examples"]))
            for part, purpose in purposes.items()
            if part in data["digests"]
        }
        return cls(params, tags, tracking.TrackedDataset(str(data["name"]), str(data["source"]), parts))


@dataclass(frozen=True)
class SweepSummary:
    """What the run of a sweep shows at its end. `model` is the folder of the best model."""

    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    model: Path | None

    @classmethod
    def of(
        cls,
        objective: Objective,
        search_trials: Sequence[Trial],
        repeats: Sequence[Trial],
        finals: FinalsResult | None,
        attempts: Sequence[Trial],
        plan: Mapping[str, Any],
        changes: Sequence[Change],
    ) -> Self:
        """Summarize a study: the best trial, the finals, the cost of all attempts, the baselines,
        the advice.

        `plan` is its stored plan, and `changes` are those of its space.
        """
        winner = finals.winner if finals is not None else None
        best = winning_trial(search_trials, repeats, winner, objective)
        metrics: dict[str, float] = {}
        tags: dict[str, str] = {}
        if best is not None and best.values is not None:
            metrics = {objective.metric: best.values[0], "trials": float(len(search_trials))}
            tags = {"best.trial": str(best.number), "best.hyperparameters": json.dumps(dict(best.hyperparameters))}
        if finals is not None:
            score = next(score for score in finals.standings if score.number == finals.winner)
            metrics |= {"finals.mean": score.mean, "finals.low": score.low, "finals.high": score.high}
            tags |= {"finals.winner": str(finals.winner), "finals.reason": finals.reason}
            if finals.test is not None:
                test = f"test_{finals.test_metric}"
                names = (test, f"{test}.low", f"{test}.high")
                metrics |= dict(zip(names, finals.test, strict=True))
        metrics |= baseline_metrics(plan)
        advice = advise_on_stored(plan, objective, search_trials, changes)
        comparison = closing_comparison(plan, objective, best, search_trials, finals, advice)
        if advice.sentences and not (comparison is not None and comparison.excludes_hyperparameters):
            tags["advice"] = "\n".join(advice.sentences)
        if comparison is not None:
            tags |= {"baseline.comparison": comparison.kind, "baseline.sentence": comparison.text}
        spent = ledger(attempts).spent
        is_priced = any(trial.spend.usd is not None for trial in attempts)
        metrics |= {"tokens": float(spent.tokens)} | ({"usd": spent.usd} if is_priced else {})
        model = Path(best.model) if best is not None and best.model and Path(best.model).is_dir() else None
        return cls(metrics, tags, model)


def _data_tags(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return what the checks of the data found: codes with their counts, and their sentences."""
    findings = plan.get("findings", ())
    counts: dict[str, int] = {}
    for finding in findings:
        if finding.get("code"):  # older plans have none
            counts[finding["code"]] = counts.get(finding["code"], 0) + int(finding["count"])
    if not counts:
        return {}
    sentences = [f"{finding['place']}: {finding['message']}".removeprefix(": ") for finding in findings]
    return {
        "data.findings": ", ".join(f"{code} {count}" for code, count in sorted(counts.items())),
        "data.findings.text": "\n".join(sentences),
    }
