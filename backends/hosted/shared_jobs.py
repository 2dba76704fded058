"""`SharedJobs`: use the first epochs of a long job as the result of a shorter run.

If the learning rate follows a schedule over the whole job, the state after an earlier epoch differs
somewhat from the result of a shorter job, and hosts do not say whether it does. So a run shares a
job only if the user allows it (option `epoch_ladder`), and its result is labelled: the resolved
values contain `approximate`, and in `part_of` the key of the longer run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
from backends.hosted.checkpoint_selection import best_model, keep_metric_by_step
from backends.hosted.host_connection import HostConnection
from backends.hosted.journal import HostedRun


@dataclass(frozen=True)
class SharedResult:
    """The events of a shorter run, after its first one, and the model that is its result."""

    events: tuple[Event, ...]
    model: str


class SharedJobs:
    """Finds results for runs among the ended runs of a workspace."""

    def __init__(self, host: HostConnection) -> None:
        self._client, self._runs = host.client, host.journal.runs

    def result_for(self, run: HostedRun) -> SharedResult | None:
        """Return the result that a longer run has for this one.

        None if there is no longer run, or the host keeps no suitable model. Raises HostError.
        """
        request = run.training_request()
        for longer in self._longer_runs(request):
            events = self._runs.events(longer.id)
            if isinstance(events[-1], Finished | Stopped) and longer.job is not None:
                checkpoints = self._client.checkpoints(longer.job)
                models = {checkpoint.step: checkpoint.model for checkpoint in checkpoints if checkpoint.model}
                if (result := shared_result(request, longer.key, events, models)) is not None:
                    return result
        return None

    def _longer_runs(self, request: TrainingRequest) -> Iterator[HostedRun]:
        for run in self._runs.all():
            if not run.discarded and is_first_part_of(request, run.training_request()):
                yield run


def is_first_part_of(request: TrainingRequest, longer: TrainingRequest) -> bool:
    """Return whether `longer` has more epochs and differs in nothing else but its key."""
    n_epochs, longer_n_epochs = request.hyperparameters.get("n_epochs"), longer.hyperparameters.get("n_epochs")
    if not isinstance(n_epochs, int) or not isinstance(longer_n_epochs, int) or n_epochs >= longer_n_epochs:
        return False
    return _without_key_and_epochs(request) == _without_key_and_epochs(longer)


def _without_key_and_epochs(request: TrainingRequest) -> TrainingRequest:
    others = {name: value for name, value in request.hyperparameters.items() if name != "n_epochs"}
    return dataclasses.replace(request, key="", hyperparameters=others)


def shared_result(
    request: TrainingRequest, longer_key: str, events: Sequence[Event], models: Mapping[int, str]
) -> SharedResult | None:
    """Return the first epochs of a longer run, with the best of the models that the host still has.

    `events` are those of the longer run, `models` its checkpoints by step. None if the longer run
    did not reach the request's epochs, or if no model is left.
    """
    n_epochs = request.hyperparameters["n_epochs"]
    started = next(event for event in events if isinstance(event, Started))
    progress = [
        event for event in events if isinstance(event, Measured | Checkpointed) and event.epoch <= float(n_epochs)
    ]
    evaluations = [event for event in progress if isinstance(event, Measured) and event.scope == "evaluation"]
    if not evaluations or evaluations[-1].epoch != n_epochs:
        return None
    usable = {step: model for step, model in models.items() if step <= evaluations[-1].step}
    model = best_model(usable, keep_metric_by_step(evaluations, request.evaluation), request.evaluation)
    if model is None:
        return None
    progress = [event for event in progress if isinstance(event, Measured) or event.model in usable.values()]
    resolved = {**started.resolved, "n_epochs": n_epochs, "approximate": True, "part_of": longer_key}
    has_price = any(isinstance(event, Charged) and event.usd is not None for event in events)
    charged = Charged(0.0 if has_price else None, 0)
    return SharedResult((Started(resolved), *progress, charged, Finished(model)), model)
