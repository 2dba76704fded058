"""What must hold for every sweep that has ended, whatever happened to its processes.

The study is compared with what the fake service knows. Each violation is one sentence.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from backends import codec
from backends.contract import (
    TERMINAL_EVENTS,
    Charged,
    Checkpointed,
    Event,
    Failed,
    FailureKind,
    Measured,
    Scalar,
    Stopped,
    TrainingRequest,
)
from backends.fake import simulated_run
from backends.fake_service import FakeRun
from sweeps.planning.sweep_plan import SweepPlan
from sweeps.study import attributes, records
from sweeps.study.finals import FinalsResult
from sweeps.trials.budget import ledger
from sweeps.trials.trial import Trial, TrialState, leaderboard

USD_TOLERANCE = 1e-9


@dataclass(frozen=True)
class SweepFacts:
    """All that is known about an ended sweep.

    `runs` are the runs of the fake service, `submissions` every request that reached it with its
    key, in their order. `forgotten` are the keys of the runs that the service lost. Without
    `knows_runs` another backend trained, and `runs` is empty.
    """

    plan: SweepPlan
    study: optuna.Study
    runs: Sequence[FakeRun]
    submissions: Sequence[TrainingRequest] = ()
    forgotten: frozenset[str] = frozenset()
    knows_runs: bool = True


@dataclass(frozen=True)
class Expectation:
    """What the ended sweep must contain, as far as it is certain.

    `trials` is the number of points that were searched, or None if a limit ended the sweep.
    `failed` is the number of failed last attempts, or None if any may have used up its retries.
    `finals` tells whether all repetitions and their decision must be there.
    """

    trials: int | None
    failed: int | None = 0
    finals: bool = False
    points: Sequence[Mapping[str, Scalar]] = ()


def violations(facts: SweepFacts, expected: Expectation) -> list[str]:
    """Return what is wrong with the sweep; nothing if all is well."""
    return [*_violations(facts, expected)]


@dataclass(frozen=True)
class _Recorded:
    frozen: FrozenTrial
    trial: Trial

    @property
    def retry_of(self) -> int | None:
        number = self.frozen.user_attrs.get(attributes.RETRY_OF)
        return None if number is None else int(number)


def _violations(facts: SweepFacts, expected: Expectation) -> Iterable[str]:
    study = facts.study
    frozen_trials = study.get_trials(deepcopy=False)
    settled = records.settled_spends(study.user_attrs)
    deleted = set(study.user_attrs.get(attributes.DELETED_MODELS, ()))
    recorded = [
        _Recorded(frozen, records.read_record(frozen, settled, deleted))
        for frozen in frozen_trials
        if attributes.RECORD in frozen.user_attrs
    ]
    recorded = [entry for entry in recorded if not records.was_set_aside(entry.frozen, entry.trial)]
    retried = {entry.retry_of for entry in recorded if entry.retry_of is not None}
    trained = [entry.trial for entry in recorded if entry.trial.duplicate_of is None]
    last_attempts = [trial for trial in trained if trial.number not in retried]
    searched = [trial for trial in last_attempts if trial.repeat_of is None]
    repeats = [trial for trial in last_attempts if trial.repeat_of is not None]

    yield from _open_trials(frozen_trials, recorded, expected)
    yield from _doubled_trials(recorded)
    yield from _owed_retries(recorded, expected)
    yield from _search(searched, expected)
    if facts.knows_runs:
        yield from _runs(facts, trained)
        yield from _models(facts, last_attempts)
    yield from _submissions(facts)
    if expected.finals:
        yield from _finals(facts, searched, repeats, expected)
    yield from _money(facts, [entry.trial for entry in recorded])


def _open_trials(
    frozen_trials: Sequence[FrozenTrial], recorded: Sequence[_Recorded], expected: Expectation
) -> Iterable[str]:
    # A limit that ends a sweep leaves the trials open that had no worker yet.
    staged = {entry.trial.number for entry in recorded if expected.trials is None and entry.trial.handle is None}
    for frozen in frozen_trials:
        if frozen.state is OptunaState.RUNNING and frozen.number not in staged:
            yield f"trial {frozen.number} is still RUNNING in Optuna"
        deliberate = {attributes.RETRY_OF, attributes.REPEAT_OF} & set(frozen.user_attrs)
        if frozen.state is OptunaState.WAITING and deliberate:
            yield f"trial {frozen.number}, a queued retry or repetition, still waits: {frozen.user_attrs}"
    for entry in recorded:
        if entry.frozen.state.is_finished() and not entry.trial.state.ended:
            yield f"trial {entry.trial.number} has ended in Optuna, but its record says {entry.trial.state}"


def _doubled_trials(recorded: Sequence[_Recorded]) -> Iterable[str]:
    for number, count in Counter(entry.retry_of for entry in recorded if entry.retry_of is not None).items():
        if count > 1:
            yield f"trial {number} was retried by {count} trials"
    keys = Counter(entry.trial.key for entry in recorded)
    yield from (f"{count} trials have the key {key}" for key, count in keys.items() if count > 1)
    points = Counter(
        json.dumps(dict(entry.trial.hyperparameters), sort_keys=True)
        for entry in recorded
        if entry.trial.duplicate_of is None and entry.trial.repeat_of is None and entry.retry_of is None
    )
    yield from (f"the point {point} was trained {count} times" for point, count in points.items() if count > 1)


def _owed_retries(recorded: Sequence[_Recorded], expected: Expectation) -> Iterable[str]:
    retried = {entry.retry_of for entry in recorded}
    for entry in recorded:
        # A limit that ended the sweep may have left no room for the retry.
        if expected.trials is not None and entry.trial.will_retry and entry.trial.number not in retried:
            yield f"trial {entry.trial.number} failed ({entry.trial.failure}) and was not retried"


def _search(searched: Sequence[Trial], expected: Expectation) -> Iterable[str]:
    if expected.trials is not None and len(searched) != expected.trials:
        yield f"the search has {len(searched)} trials, not {expected.trials}"
    failed = [trial for trial in searched if trial.state is TrialState.FAILED]
    # A kill between the fault's firing and the acceptance of the run uses the fault up.
    if expected.failed is not None and len(failed) > expected.failed:
        reasons = [f"{trial.number}: {trial.reason}" for trial in failed]
        yield f"{len(failed)} trials of the search failed, not at most {expected.failed}: {reasons}"
    for point in expected.points:
        if not any(point.items() <= dict(trial.hyperparameters).items() for trial in searched):
            yield f"the point {dict(point)} was never tried"
    for trial in searched:
        if trial.state.ended and trial.verdict is None:
            yield f"trial {trial.number} has no verdict"


def _runs(facts: SweepFacts, trained: Sequence[Trial]) -> Iterable[str]:
    by_key = {trial.key: trial for trial in trained}
    runs = {run.key: run for run in facts.runs}
    for key, run in runs.items():
        if key not in by_key:
            yield f"the service has a run {key} that no trial of the study owns"
        elif not has_ended(run):
            yield f"the run of trial {by_key[key].number} still goes on at the service"
    for trial in trained:
        run = runs.get(trial.key)
        if trial.handle is None or trial.key in facts.forgotten:
            continue
        if run is None:
            yield f"trial {trial.number} has a handle, but the service has no run {trial.key}"
            continue
        yield from _curve(trial, run)


def has_ended(run: FakeRun) -> bool:
    """Return whether a run of the service trains no more, as far as its clients know."""
    return run.stopped_after is not None or (run.revealed >= run.total and not run.hangs)


def seen_events(run: FakeRun) -> list[Event]:
    """Return the events of a run that its clients could see."""
    timeline = [timed.event for timed in simulated_run(run.terms).timeline]
    if run.stopped_after is None:
        return timeline[: run.revealed]
    return [*timeline[: run.stopped_after], Stopped(None)]


def _curve(trial: Trial, run: FakeRun) -> Iterable[str]:
    events = seen_events(run)
    measured = [event for event in events if isinstance(event, Measured) and event.scope == "evaluation"]
    curve = [*trial.curve]
    if repr(curve) != repr(measured[: len(curve)]):
        yield f"the curve of trial {trial.number} is not a prefix of what the service measured"
    if trial.state is TrialState.COMPLETE and len(curve) != len(measured):
        yield f"trial {trial.number} is complete with {len(curve)} of {len(measured)} evaluations"
    if trial.state is TrialState.COMPLETE and trial.values is None:
        yield f"trial {trial.number} is complete and has no value"
    ended_by_itself = bool(events) and isinstance(events[-1], TERMINAL_EVENTS) and not isinstance(events[-1], Stopped)
    if trial.state is TrialState.COMPLETE and not ended_by_itself:
        yield f"trial {trial.number} is complete, but its run did not end by itself"
    known_models = {event.model for event in events if isinstance(event, Checkpointed)}
    if trial.model is not None and not any(trial.model.startswith(model.partition("@")[0]) for model in known_models):
        yield f"trial {trial.number} names the model {trial.model}, which its run never had"


def _models(facts: SweepFacts, last_attempts: Sequence[Trial]) -> Iterable[str]:
    deleted = {run.key for run in facts.runs if run.discarded}
    for trial in last_attempts:
        if trial.model is not None and trial.key in deleted:
            yield f"trial {trial.number} names a model that is deleted"


def _submissions(facts: SweepFacts) -> Iterable[str]:
    first: dict[str, str] = {}
    for request in facts.submissions:
        text = json.dumps(codec.to_json(request), sort_keys=True)
        if first.setdefault(request.key, text) != text:
            yield f"the key {request.key} was submitted with two different requests"


def _finals(
    facts: SweepFacts, searched: Sequence[Trial], repeats: Sequence[Trial], expected: Expectation
) -> Iterable[str]:
    finals = facts.plan.spec.finals
    assert finals is not None
    finalists = leaderboard(searched, facts.plan.spec.objective)[: finals.candidates]
    seed = facts.plan.spec.search.seed
    wanted = Counter((trial.number, seed + offset) for trial in finalists for offset in range(1, finals.seeds + 1))
    present = Counter((repeat.repeat_of, repeat.seed) for repeat in repeats)
    if present != wanted:
        yield f"the repetitions are {sorted(present.items())}, not {sorted(wanted.items())}"
    if not finalists:  # every trial of the search failed
        return
    for repeat in repeats:
        used_up = expected.failed is None and repeat.state is TrialState.FAILED
        if repeat.values is None and not used_up:
            yield f"repetition {repeat.number} has no value"
    result = codec.from_json(FinalsResult | None, facts.study.user_attrs.get(attributes.FINALS))
    if result is None:
        yield "the finals are not decided"
    elif not result.was_decided_by(repeats):
        yield "the finals were decided by other repetitions"


def _money(facts: SweepFacts, trials: Sequence[Trial]) -> Iterable[str]:
    runs = {run.key: run for run in facts.runs}
    for trial in trials:
        run = runs.get(trial.key)
        if run is None or trial.duplicate_of is not None:
            continue
        charges = [event for event in seen_events(run) if isinstance(event, Charged)]
        tokens = sum(charge.tokens for charge in charges)
        usd = math.fsum(charge.usd or 0.0 for charge in charges)
        if trial.spend.tokens > tokens or (trial.settled and trial.spend.tokens != tokens):
            yield f"trial {trial.number} has spent {trial.spend.tokens} tokens, its run {tokens}"
        if trial.settled and abs((trial.spend.usd or 0.0) - usd) > USD_TOLERANCE:
            yield f"trial {trial.number} has spent {trial.spend.usd} dollars, its run {usd}"
        end = next(reversed(seen_events(run)), None)
        is_lost = isinstance(end, Failed) and end.failure.kind is FailureKind.LOST
        if (
            not trial.settled and trial.failure is not FailureKind.LOST and not is_lost
        ):  # nobody knows a lost run's cost
            yield f"the cost of trial {trial.number} is not settled"
    sums, limit = ledger(trials), facts.plan.spec.budget
    if limit.usd is not None and sums.spent.usd > limit.usd + USD_TOLERANCE:
        yield f"the sweep has spent {sums.spent.usd} dollars of {limit.usd}"
    if limit.tokens is not None and sums.spent.tokens > limit.tokens:
        yield f"the sweep has spent {sums.spent.tokens} tokens of {limit.tokens}"
