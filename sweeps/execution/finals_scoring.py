"""Scoring kept models on held-out examples: who is right where, on the validation set, and once on the test split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.contract import Backend, DataFile, Dataset, PredictOptions
from sweeps.planning.plan import SweepPlan
from sweeps.study.finals import FinalsResult, Repeated, rank, share_right
from sweeps.trials.trial import Trial

ACCURACY = "valid_accuracy"
"""The objective whose value is a mean over examples: its bootstrap can draw examples as well as seeds."""

AGREEMENT = 0.01
"""So much may differ what models get right from what was measured of them in training: rounding turns few answers."""


def decide(
    plan: SweepPlan, searched: Sequence[Trial], repeats: Sequence[Trial], backend: Backend
) -> FinalsResult | None:
    """Rank the candidates by their repetitions and score the winner's models on the test split.

    Repetitions without a value do not count; None where none has one. Nothing before this has read the test split.
    Who was right where is kept in the sweep's folder: a model is asked once, and need not be there when finals are
    decided anew. Raises BackendError where the backend cannot predict although it says that it can.
    """
    data, objective, seed = plan.data, plan.spec.objective, plan.spec.search.seed
    scored = [each for each in repeats if each.values is not None]
    predicts = plan.spec.capabilities.can_predict and bool(data.dataset.labels)
    candidates = []
    for original in searched:
        runs = [each for each in scored if each.repeat_of == original.number]
        if not runs:
            continue
        paid = [each.spend.usd for each in runs if each.spend.usd is not None]
        known = None
        if predicts and objective.metric == ACCURACY:
            rows = [_kept(plan, each, "valid", data.dataset.valid, backend) for each in runs]
            known = np.stack(found) if len(found := [each for each in rows if each is not None]) == len(runs) else None
        values = tuple(each.values[0] for each in runs if each.values is not None)
        if known is not None and not np.allclose(known.mean(axis=1), values, rtol=0.0, atol=AGREEMENT):
            known = (
                None  # a service whose models answer otherwise than it measured: an interval over seeds alone is left
            )
        candidates.append(
            Repeated(
                number=original.number,
                values=values,
                cost=sum(paid) / len(runs) if len(paid) == len(runs) else sum(r.spend.tokens for r in runs) / len(runs),
                right=known,
            )
        )
    if not candidates:
        return None
    in_the_search = {each.number: each.values[0] for each in searched if each.values is not None}
    result = rank(candidates, objective, in_the_search, seed)
    if data.test is None or not predicts:
        why = "there is no test split" if data.test is None else "this backend and data allow no scoring of labels"
        return replace(result, untested=why)
    winners = [_kept(plan, each, "test", data.test, backend) for each in scored if each.repeat_of == result.winner]
    tested = [each for each in winners if each is not None]
    if not tested:
        return replace(result, untested="no model of the winner was kept")
    return replace(result, test=share_right(np.stack(tested), seed))


def _kept(plan: SweepPlan, trial: Trial, part: str, file: DataFile, backend: Backend) -> NDArray[np.bool_] | None:
    """Return which examples the trial's model got right, from an earlier time where it was asked; None without both."""
    kept = plan.folder / "finals" / f"{trial.key}-{part}.npy"
    if not kept.exists():
        if not trial.model:
            return None
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".tmp")
        with partial.open("wb") as opened:
            np.save(opened, right(backend, [trial.model], file, plan.data.dataset)[0])
        partial.replace(kept)
    found: NDArray[np.bool_] = np.load(kept)
    return found


def right(backend: Backend, models: Sequence[str], file: DataFile, dataset: Dataset) -> NDArray[np.bool_]:
    """Return (models, examples): whether the most probable label is the right one."""
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in Path(file.path).read_text(encoding="utf-8").splitlines()
    ]
    truth = [line["messages"][-1]["content"] if dataset.layout == "chat" else line["completion"] for line in lines]
    options = PredictOptions(labels=dataset.labels, stop=dataset.stop)
    rows = [
        [answer.text == wanted for answer, wanted in zip(backend.predict(model, lines, options), truth, strict=True)]
        for model in models
    ]
    return np.array(rows, dtype=np.bool_)
