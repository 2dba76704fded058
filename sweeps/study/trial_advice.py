"""The advice on single trials, as far as it agrees with all trials of the sweep.

A verdict knows one trial. Its suggestion stays if it leads to where the best trials are, or to
values that nobody tried; it is shortened if it would pass them, and left out if other trials
contradict it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from search_spaces.domains import Domain
from sweeps.study.range_evidence import Coordinates, RankedTrial, are_alike, coordinates, evenly_spaced, evidence
from sweeps.trials.trial import Trial
from sweeps.verdicts.suggestion import SEPARATOR, Direction, Suggestion
from sweeps.verdicts.verdict import VerdictKind


@dataclass(frozen=True)
class _Advised:
    """A trial with the pieces of its advice. A piece that moves no hyperparameter stays a text."""

    trial: Trial
    pieces: tuple[Suggestion | str, ...]


def consistent_advice(
    ended: Iterable[Trial],
    domains: Mapping[str, Domain],
    comparable: Sequence[RankedTrial],
    ways: Mapping[str, Direction],
    reach: Mapping[str, tuple[float, float]],
) -> dict[int, str]:
    """Return the advice on each trial that has any, by its number, without contradictions.

    `ways` says in which direction the sweep extends a range; a suggestion against it is left out.
    `reach` has the ends of the ranges that are cut, or that are wide enough with the best trial
    inside; no suggestion leads outside.
    For each hyperparameter, all suggestions to raise it begin below all suggestions to lower it.
    """
    qualities = {ranked_trial.trial.number: ranked_trial.quality for ranked_trial in comparable}
    compared = [(entry, coordinates(domains, entry.trial)) for entry in evenly_spaced(comparable)]
    best_values = {name: values for name in domains if (values := evidence(name, domains, comparable).best_values)}
    advised = []
    for trial in ended:
        if trial.verdict is None or not trial.verdict.advice:
            continue
        pieces: list[Suggestion | str] = []
        where = coordinates(domains, trial)
        for text in trial.verdict.advice.split(SEPARATOR):
            suggestion = Suggestion.parse(text)
            if suggestion is None or suggestion.parameter not in domains:
                pieces.append(suggestion or text)
                continue
            name = suggestion.parameter
            kept = _towards_best(suggestion, best_values.get(name, ()), ways.get(name))
            if kept is not None and name in reach:
                low, high = reach[name]
                kept = replace(kept, target=min(max(kept.target, low), high))
                kept = kept if kept.moves else None
            if kept is None or _is_contradicted(kept, trial, where, compared, qualities):
                continue
            pieces.append(kept)
        advised.append(_Advised(trial, tuple(pieces)))
    ordered = sorted(advised, key=lambda entry: -qualities.get(entry.trial.number, float("-inf")))
    given = {entry.trial.number: _text(entry.pieces) for entry in _without_conflicts(ordered)}
    return {number: given[number] for number in sorted(given) if given[number]}


def _towards_best(suggestion: Suggestion, best: Sequence[float], way: Direction | None) -> Suggestion | None:
    """Return the suggestion, not farther than the best trials; None if it leads away from them."""
    if way is not None and suggestion.direction != way:
        return None
    if not best or way is not None:
        return suggestion
    low, high = min(best), max(best)
    if suggestion.direction == "raise":
        if suggestion.value > high:
            return None
        shortened = suggestion if suggestion.value >= low else replace(suggestion, target=min(suggestion.target, high))
    else:
        if suggestion.value < low:
            return None
        shortened = suggestion if suggestion.value <= high else replace(suggestion, target=max(suggestion.target, low))
    return shortened if shortened.moves else None


def _is_contradicted(
    suggestion: Suggestion,
    trial: Trial,
    where: Coordinates,
    compared: Sequence[tuple[RankedTrial, Coordinates]],
    qualities: Mapping[int, float],
) -> bool:
    """Return whether a trial alike in everything else speaks against the suggestion.

    A better and healthy one did not need it, having the same value or one on the other side; or one
    on the suggested side was not better, and no other one there was.
    """
    own = qualities.get(trial.number, float("-inf"))
    sign = 1.0 if suggestion.direction == "raise" else -1.0
    ahead = []
    for other, other_where in compared:
        value = other.trial.hyperparameters.get(suggestion.parameter)
        if other.trial.number == trial.number or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not are_alike(suggestion.parameter, where, other_where):
            continue
        if sign * (float(value) - suggestion.value) > 1e-3 * abs(suggestion.value):
            ahead.append(other.quality)
        elif _is_healthy(other.trial) and other.quality > own:
            return True
    return bool(ahead) and max(ahead) <= own


def _is_healthy(trial: Trial) -> bool:
    return trial.verdict is not None and trial.verdict.kind is VerdictKind.HEALTHY


class _Kept:
    """The suggestions on one hyperparameter so far: how far up and how far down they lead."""

    def __init__(self) -> None:
        self._raised_from = self._raised_to = -math.inf
        self._lowered_from = self._lowered_to = math.inf

    def accepts(self, suggestion: Suggestion) -> bool:
        """Return whether it conflicts with none of them."""
        if suggestion.direction == "raise":
            return (
                suggestion.value < self._lowered_from
                and suggestion.target <= self._lowered_from
                and suggestion.value <= self._lowered_to
            )
        return (
            suggestion.value > self._raised_from
            and suggestion.value >= self._raised_to
            and suggestion.target >= self._raised_from
        )

    def add(self, suggestion: Suggestion) -> None:
        """Count a suggestion that was accepted."""
        if suggestion.direction == "raise":
            self._raised_from = max(self._raised_from, suggestion.value)
            self._raised_to = max(self._raised_to, suggestion.target)
        else:
            self._lowered_from = min(self._lowered_from, suggestion.value)
            self._lowered_to = min(self._lowered_to, suggestion.target)


def _without_conflicts(advised: Sequence[_Advised]) -> list[_Advised]:
    """Leave out suggestions that conflict with those of a better trial, which come first."""
    kept: dict[str, _Kept] = {}
    settled = []
    for entry in advised:
        pieces: list[Suggestion | str] = []
        for written in entry.pieces:
            piece = written
            if isinstance(written, Suggestion) and written.before and not pieces:
                piece = replace(written, before="")  # without the first half of a test, it is a suggestion
            # the second half of a test depends on its outcome, and conflicts with nothing
            if isinstance(piece, Suggestion) and not piece.before:
                earlier = kept.setdefault(piece.parameter, _Kept())
                if not earlier.accepts(piece):
                    continue
                earlier.add(piece)
            pieces.append(piece)
        settled.append(_Advised(entry.trial, tuple(pieces)))
    return settled


def _text(pieces: Sequence[Suggestion | str]) -> str:
    return SEPARATOR.join(piece.text if isinstance(piece, Suggestion) else piece for piece in pieces)
