"""The winner of a sweep against the champion: registered, both asked the same test examples, decided, recorded.

Everything that is decided stands in the registry before the alias moves, so that a process that dies in between is
caught up by the next one: the same trial is registered once and decided once.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.contract import Backend, BackendError, FailureKind, PredictOptions
from backends.model_packages import SupportsPackaging
from sweeps.champions import history
from sweeps.champions.comparison import broken_guards, compare, recalls
from sweeps.champions.decision import decide, undecided
from sweeps.errors import SweepError
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study.champion_decision import ChampionDecision
from sweeps.tracking.registry import Registry, ServedVersion, Version
from sweeps.tracking.served_card import Card
from sweeps.trials.trial import Trial

TIMED_ANSWERS = 20
"""So many test examples are asked one by one, after one that is not counted; the median is the latency."""

CONTENDERS_MEANWHILE = 3
"""So often a challenge is decided anew because another sweep moved the alias meanwhile."""

TRIAL = "finesweep.trial_key"
TAG = "finesweep."


@dataclass(frozen=True)
class _Examples:
    """The test split as rows of columns, and the right label of each as people say it."""

    rows: Sequence[Mapping[str, Any]]
    truth: tuple[str, ...]


def hold(
    plan: SweepPlan,
    sweep_id: str,
    winner: Trial,
    backend: Backend,
    registry: Registry,
    say: Callable[[str], None],
    now: Callable[[], float] = time.time,
) -> ChampionDecision:
    """Register the winner and decide whether it becomes the champion. A trial that was decided is not decided again.

    Raises SweepError where the model or the registry cannot be had; the same call goes on where it was.
    """
    model = plan.spec.registered_model
    version = next((version for version in registry.versions(model) if version.tags.get(TRIAL) == winner.key), None)
    if version is not None and (entry := history.decision_of(version)) is not None:
        if entry.decision is not None and entry.decision.promoted and history.APPLIED not in version.tags:
            _promote(registry, version)
        assert entry.decision is not None
        return entry.decision
    if version is None:
        say(f"registering the winner as a version of {model}")
        version = _register(plan, sweep_id, winner, backend, registry, model)
    say(f"version {version.number} of {model} is asked the test examples")
    examples = _test_examples(plan)
    challenger = registry.load(version)
    right = _right(challenger, examples)
    latency_ms = _latency_ms(challenger, examples.rows)
    del challenger  # two models need not fit into memory
    recall = recalls(examples.truth, right)
    broken = broken_guards(_guards(plan), recall, latency_ms, winner.spend.usd)
    measured = {
        f"{TAG}test_accuracy": f"{right.mean():.6g}",
        f"{TAG}latency_ms": f"{latency_ms:.6g}",
        f"{TAG}recall": ", ".join(f"{name} {value:.3g}" for name, value in recall.items()),
    }
    for _ in range(CONTENDERS_MEANWHILE):
        champion = registry.champion(model)
        decision = _decide(plan, winner, backend, registry, version, champion, examples, right, broken, say)
        standing = registry.champion(model)
        if (standing and standing.number) == (champion and champion.number):
            break
    else:
        raise SweepError(
            f"other sweeps moved the champion of {model} {CONTENDERS_MEANWHILE} times meanwhile",
            "run the same command again when they are done",
        )
    entry = history.Entry(
        at=datetime.fromtimestamp(now(), UTC).isoformat(timespec="seconds"),
        version=version.number,
        before=champion.number if champion is not None else None,
        decision=decision,
    )
    registry.tag(version, {**measured, history.DECISION: json.dumps(entry.to_json(), ensure_ascii=False)})
    registry.describe(version, decision.reason)
    if decision.promoted:
        _promote(registry, version)
    return decision


def _promote(registry: Registry, version: Version) -> None:
    registry.promote(version)
    registry.tag(version, {history.APPLIED: "1"})


def _guards(plan: SweepPlan) -> Any:
    assert plan.spec.champion is not None
    return plan.spec.champion


def _decide(
    plan: SweepPlan,
    winner: Trial,
    backend: Backend,
    registry: Registry,
    version: Version,
    champion: Version | None,
    examples: _Examples,
    right: NDArray[np.bool_],
    broken: Sequence[str],
    say: Callable[[str], None],
) -> ChampionDecision:
    seed = plan.spec.search.seed
    if champion is None:
        opponent, baseline = _baseline(plan, winner, backend, examples)
        return decide(version.model, version.number, opponent, compare(right, baseline, seed), broken)
    say(f"the champion, version {champion.number}, is asked the same")
    try:
        standing = _right(registry.load(champion), examples)
    except SweepError as error:
        why = f"the champion, version {champion.number}, could not be asked: {error.message}. " + (
            f"`sweep champion rollback {version.model} --to VERSION` chooses another"
        )
        return undecided(version.model, version.number, float(right.mean()), why)
    found = compare(right, standing, seed)
    return decide(version.model, version.number, f"the champion, version {champion.number},", found, broken)


def _baseline(plan: SweepPlan, winner: Trial, backend: Backend, examples: _Examples) -> tuple[str, NDArray[np.bool_]]:
    """Return what a first champion has to beat: the base model as it is, or always the most frequent label."""
    dataset, card = plan.data.dataset, _card(plan)
    counts = Counter(plan.data.label_counts["train"])
    most = card.names[dataset.labels.index(max(counts, key=lambda count: counts[count]))]
    majority = np.array([each == most for each in examples.truth], dtype=np.bool_)
    lines = _lines(plan.data.test.path if plan.data.test else "")
    try:
        answers = backend.predict(winner.base_model, lines, PredictOptions(labels=dataset.labels, stop=dataset.stop))
    except BackendError as error:
        if error.failure.kind is not FailureKind.USER:
            raise SweepError(
                f"the base model does not answer: {error.failure.message}", error.failure.detail
            ) from error
        return f"always `{most}`", majority  # an encoder without a head for these labels has no answer of its own
    base = np.array(
        [each.text == line["completion"] for each, line in zip(answers, lines, strict=True)], dtype=np.bool_
    )
    return ("the base model", base) if base.mean() > majority.mean() else (f"always `{most}`", majority)


def _card(plan: SweepPlan) -> Card:
    return Card.of(plan.data.dataset, plan.data.prompt, plan.data.separator)


def _register(
    plan: SweepPlan, sweep_id: str, winner: Trial, backend: Backend, registry: Registry, model: str
) -> Version:
    run_id = registry.run_of_trial(plan.spec.tracking.experiment or plan.spec.name, winner.key)
    if run_id is None:
        message = f"MLflow has no run of trial {winner.number}, from which its model could be registered"
        raise SweepError(message, "see that MLflow is reachable, then run the same command again")
    if not isinstance(backend, SupportsPackaging) or winner.model is None:
        raise SweepError(f"the model of trial {winner.number} cannot be registered", "use another backend")
    card, dataset = _card(plan), plan.data.dataset
    with TemporaryDirectory() as place:
        files = Path(place) / "files"
        files.mkdir()
        try:
            package = backend.package(winner.model, dataset, files)
        except BackendError as error:
            raise SweepError(error.failure.message, error.failure.detail) from error
        example = [card.row(line) for line in _lines(dataset.valid.path)[:2]]
        return registry.register(model, run_id, package, files, card, example, _tags(plan, sweep_id, winner))


def _tags(plan: SweepPlan, sweep_id: str, winner: Trial) -> dict[str, str]:
    data, objectives = plan.data, plan.spec.objectives
    values = winner.values or ()
    return {
        TRIAL: winner.key,
        f"{TAG}sweep": plan.spec.name,
        f"{TAG}sweep_id": sweep_id,
        f"{TAG}trial": str(winner.number),
        f"{TAG}base_model": winner.base_model,
        f"{TAG}backend": plan.spec.backend_type,
        f"{TAG}space": plan.space.fingerprint,
        f"{TAG}data": data.fingerprint,
        f"{TAG}data.name": data.name,
        f"{TAG}data.test": data.digests.get("test", ""),
        f"{TAG}hyperparameters": json.dumps(dict(winner.hyperparameters)),
        **{f"{TAG}{each.objective.metric}": f"{value:.6g}" for each, value in zip(objectives, values, strict=False)},
        **({f"{TAG}usd": f"{winner.spend.usd:.6g}"} if winner.spend.usd is not None else {}),
    }


# -------------------------------------------------------------------------------------------------------------- asking
def _lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def _test_examples(plan: SweepPlan) -> _Examples:
    assert plan.data.test is not None  # the plan was refused otherwise
    card, labels = _card(plan), plan.data.dataset.labels
    lines = _lines(plan.data.test.path)
    chat = plan.data.dataset.layout == "chat"
    truth = [line["messages"][-1]["content"] if chat else line["completion"] for line in lines]
    return _Examples([card.row(line) for line in lines], tuple(card.names[labels.index(each)] for each in truth))


def _right(served: ServedVersion, examples: _Examples) -> NDArray[np.bool_]:
    """Return which examples a version gets right. Raises SweepError where it asks for columns that they do not have."""
    missing = [column for column in served.card.columns if column not in examples.rows[0]]
    if missing:
        raise SweepError(f"it asks for the column {missing[0]!r}, which today's test examples do not have")
    answers = served.predict(examples.rows)
    return np.array(
        [each["label"] == wanted for each, wanted in zip(answers, examples.truth, strict=True)], dtype=np.bool_
    )


def _latency_ms(served: ServedVersion, rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the median time of one answer, asked one by one as the registered model answers, without a network."""
    served.predict(rows[:1])
    taken = []
    for n in range(TIMED_ANSWERS):
        began = time.perf_counter()
        served.predict([rows[n % len(rows)]])
        taken.append((time.perf_counter() - began) * 1000)
    return median(taken)
