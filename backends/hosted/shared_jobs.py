"""One job, several results: the state after an earlier epoch of a long job serves as the result of a shorter run.

Where the learning rate follows a schedule over the whole job, as hosts do without saying which, that state is not quite
what a shorter job would have come to. So this is done only where the user allows it (`epoch_ladder: on`), and what it
gives is labelled: `approximate` among the resolved values, with the key of the run that it is part of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from backends import codec
from backends.contract import (
    Charged,
    Checkpointed,
    Event,
    Finished,
    Measured,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.hosted.job_events import best, kept_values
from backends.hosted.journal import HostedRun, Journal
from backends.hosted.service import Service


@dataclass(frozen=True)
class Rung:
    """The events of a shorter run, and the model that is its result."""

    events: tuple[Event, ...]
    model: str


class Ladder:
    """The finished runs of a workspace, as results of shorter ones."""

    def __init__(self, service: Service, journal: Journal) -> None:
        self._service, self._journal = service, journal

    def rung_for(self, run: HostedRun) -> Rung | None:
        """Return what a longer run gives for this one; None where there is none, or the host keeps no such model.

        Raises ServiceError.
        """
        request = run.training_request()
        for longer in self._longer(request):
            told = self._journal.events(longer.id)
            if isinstance(told[-1], Finished | Stopped) and longer.job is not None:
                models = {each.step: each.model for each in self._service.checkpoints(longer.job) if each.model}
                if (rung := part(request, longer.key, told, models)) is not None:
                    return rung
        return None

    def _longer(self, request: TrainingRequest) -> Iterator[HostedRun]:
        for each in self._journal.runs():
            if not each.discarded and is_part_of(request, each.training_request()):
                yield each


def is_part_of(request: TrainingRequest, longer: TrainingRequest) -> bool:
    """Return whether two runs differ in nothing but their key and how many epochs they have."""
    mine, theirs = (each.hyperparameters.get("n_epochs") for each in (request, longer))
    if not isinstance(mine, int) or not isinstance(theirs, int) or mine >= theirs:
        return False
    return _but_for_epochs(request) == _but_for_epochs(longer)


def _but_for_epochs(request: TrainingRequest) -> dict[str, object]:
    value: dict[str, Any] = codec.to_json(request)
    value["hyperparameters"].pop("n_epochs")
    return {name: each for name, each in value.items() if name != "key"}


def part(request: TrainingRequest, key: str, told: Sequence[Event], models: dict[int, str]) -> Rung | None:
    """Return the first epochs of a run that was told, with the best state of those that the host still has.

    None where the run did not come so far, or where no state is left.
    """
    n_epochs = request.hyperparameters["n_epochs"]
    started = next(each for each in told if isinstance(each, Started))
    course = [each for each in told if isinstance(each, Measured | Checkpointed) and each.epoch <= float(n_epochs)]
    evaluated = [each for each in course if isinstance(each, Measured) and each.scope == "evaluation"]
    if not evaluated or evaluated[-1].epoch != n_epochs:
        return None
    wanted = request.evaluation
    left = {step: model for step, model in models.items() if step <= evaluated[-1].step}
    model = best(left, kept_values(evaluated, wanted), wanted)
    if model is None:
        return None
    course = [each for each in course if isinstance(each, Measured) or each.model in left.values()]
    resolved = {**started.resolved, "n_epochs": n_epochs, "approximate": True, "part_of": key}
    paid = any(isinstance(each, Charged) and each.usd is not None for each in told)
    return Rung((Started(resolved), *course, Charged(0.0 if paid else None, 0), Finished(model)), model)
