"""`HostedBackend`: the contract over the jobs of a host. Loads the `openai` package when it is opened."""

from __future__ import annotations

import difflib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel

from backends import credentials
from backends.contract import (
    Backend,
    BackendError,
    Capabilities,
    Checkpointed,
    Dataset,
    Estimate,
    Event,
    Failure,
    FailureKind,
    Handle,
    Placement,
    Prediction,
    PredictOptions,
    TrainingRequest,
)
from backends.hosted import declaration
from backends.hosted.options import HostedOptions
from backends.hyperparameter_checks import contradictions

if TYPE_CHECKING:
    import httpx2

    from backends.cleanup import Remnant
    from backends.hosted.cleanup import Cleaning
    from backends.served.package import Package
    from backends.waiting import Waiting

NAME = "hosted"

_NO_KEY = "no-key"
"""What the package is given for a host that asks for none; it does not do without."""

_log = logging.getLogger(__name__)


class HostedBackend:
    """Trains at a host that speaks the OpenAI fine-tuning protocol.

    A run is pursued by whoever asks for its events, as `runs` says: a creation that has to wait (for a file that is
    checked, for a daily limit, for certainty about an answer that was lost) waits there, without blocking anybody.
    """

    options_model: ClassVar[type[BaseModel]] = HostedOptions

    def __init__(
        self,
        options: HostedOptions,
        workspace: Path,
        secrets: Mapping[str, str] | None = None,
        *,
        transport: httpx2.BaseTransport | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        from backends.hosted.cleanup import Cleaning
        from backends.hosted.cost_estimation import Counting
        from backends.hosted.deployments import AzureDeployments, Deployments, NoDeployments
        from backends.hosted.job_creation import Creation
        from backends.hosted.journal import Journal
        from backends.hosted.model_evaluation import Examination
        from backends.hosted.prediction import Predictor
        from backends.hosted.rate_limiter import Pace
        from backends.hosted.runs import Runs
        from backends.hosted.service import Service
        from backends.hosted.uploads import Uploads

        self.capabilities = self.describe(options)
        self._options, self._host, self._clock, self._sleep = options, options.profile, clock, sleep
        key = _secret(options.key_name, secrets, needed=self._host.needs_api_key) or _NO_KEY
        self._service = Service(options, key, transport)
        self._journal = journal = Journal(workspace / "hosted")
        self._pace = Pace(options.patience_s, options.requests_per_minute, clock, sleep)
        uploads = Uploads(self._service, journal, options.account, self._host.files, sleep)
        self._creation = Creation(options, self._service, journal, uploads, clock)
        self._counting = Counting(options, journal)
        self._deployments: Deployments = NoDeployments()
        if options.deployment is not None and (name := self._host.deployment_token) is not None:
            token = _secret(name, secrets, needed=True) or ""
            patience = Pace(options.patience_s, None, clock, sleep)
            self._deployments = AzureDeployments(options.deployment, token, journal, patience, clock, sleep, transport)
        predictors = [
            Predictor(options, self._service, journal, self._deployments, carry)
            for carry in (self._pace.patiently, self._pace.once)
        ]
        self._predictor = predictors[0]
        examination = Examination(predictors[1], self._deployments)
        self._runs = Runs(options, self._service, journal, self._creation, self._counting, examination, clock, sleep)
        self._cleaning = Cleaning(options, self._service, journal, self._creation, self._deployments, clock, sleep)

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        """Return the capabilities of the host under these options."""
        return declaration.capabilities(HostedOptions.model_validate(options))

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> Self:
        """Connect, with the secrets that were handed in to `backends.credentials`. Nothing is sent yet."""
        return cls(HostedOptions.model_validate(options), workspace)

    def close(self) -> None:
        """End the deployments that were made here and the connections. Jobs go on."""
        try:
            self._deployments.remove_own()
        except BackendError as error:
            _log.warning("a deployment may still be there: %s", error)
        self._deployments.close()
        self._service.close()
        self._journal.close()

    # ----------------------------------------------------------------------------------------------- check and estimate
    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        """Return what would make the request fail; asks the host whether it has the model, where it lists models."""
        return list(self._problems(request)) or list(self._remote_problems(request))

    def _problems(self, request: TrainingRequest) -> Iterator[Failure]:
        """Yield what can be found without asking anybody."""
        from backends.hosted.job_creation import base_model

        yield from contradictions(request.hyperparameters, self.capabilities)
        files, rules = (request.dataset.train, request.dataset.valid), self._host.files
        for file in files:
            path = Path(file.path)
            if not path.is_file():
                yield Failure(FailureKind.USER, f"the data file {path} is gone", "prepare the data again")
            elif rules.max_bytes is not None and path.stat().st_size > rules.max_bytes:
                size = f"{path.stat().st_size} bytes, and this host takes {rules.max_bytes}"
                yield Failure(FailureKind.USER, f"the data file {path} has {size}", "give fewer examples")
        if request.dataset.train.examples < rules.min_examples:
            message = f"this host takes no fewer than {rules.min_examples} training examples"
            yield Failure(FailureKind.USER, message, f"there are {request.dataset.train.examples}")
        if request.dataset.layout == "chat" and not self._options.is_chat(base_model(request)):
            message = f"{base_model(request)} is a completion model, and the data are messages"
            yield Failure(FailureKind.USER, message, "use a chat model, or data of prompt and completion")
        yield from self._unbounded(request)
        metric = request.evaluation.keep_metric
        unlabelled = metric in self.capabilities.label_metrics and not request.dataset.labels
        if metric not in self.capabilities.metrics or unlabelled:
            nearest = difflib.get_close_matches(metric, self.capabilities.metrics, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"measured are {', '.join(self.capabilities.metrics)}"
            yield Failure(FailureKind.USER, f"keep_metric: {metric} is not measured on this data set", hint)
        if request.evaluation.per_epoch != 1 and not self.capabilities.evaluations_within_epoch:
            yield Failure(FailureKind.USER, "per_epoch: this host evaluates once, at the end of each epoch")
        if request.resume_from is not None:
            yield Failure(FailureKind.USER, "resume_from: this backend cannot go on from a model")

    def _unbounded(self, request: TrainingRequest) -> Iterator[Failure]:
        """Yield why nobody can say how long the run would be at most."""
        from backends.hosted.cost_estimation import epochs

        if "n_epochs" in request.hyperparameters:
            return
        try:
            epochs(request, self._host)
        except BackendError as error:
            yield error.failure

    def _remote_problems(self, request: TrainingRequest) -> Iterator[Failure]:
        from backends.hosted.job_creation import base_model

        if not self._host.inference.models_listed:
            return
        model = base_model(request)
        try:
            known = self._pace.patiently(lambda: self._service.has_model(model))
        except BackendError as error:
            yield error.failure
            return
        if not known:
            yield Failure(FailureKind.USER, f"the host has no model {model!r}, or this account may not use it")

    def estimate(self, request: TrainingRequest) -> Estimate:
        """Return tokens and money of the complete run, with where the numbers come from."""
        for failure in contradictions(request.hyperparameters, self.capabilities):
            raise BackendError(failure)
        return self._counting.estimate(request)

    # ----------------------------------------------------------------------------------------------------------- a run
    def submit(self, request: TrainingRequest) -> Handle:
        """Write the run down and try to create its job; what has to wait is pursued by `events`.

        Raises BackendError where the host refuses for good; then there is no job.
        """
        from backends.hosted.job_creation import run_id

        if self._journal.run(run_id(request.key)) is None:
            for failure in self._problems(request):
                raise BackendError(failure)
        return Handle(NAME, self._runs.begin(request))

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events from number `after` on, after having asked the host for news where it is time to."""
        self._runs.advance(handle.id)
        return self._journal.events(handle.id, after)

    def waiting(self, handle: Handle) -> Waiting | None:
        """Return what a run waits for: a limit of the account, or a host out of reach; see `waiting.Waiter`."""
        from backends.waiting import Waiting

        found = self._journal.wait_of(handle.id, self._clock())
        return None if found is None else Waiting(*found)

    def stop(self, handle: Handle) -> None:
        """End the run: its job is cancelled, or paused where that keeps a checkpoint."""
        self._runs.stop(handle.id)

    def discard(self, handle: Handle) -> None:
        """Delete the run's models, deployments and result files at the host; its events stay."""
        run = self._runs.known(handle.id)
        if run.discarded:
            return
        self._runs.stop(run.id)
        self._pace.patiently(lambda: self._cleaning.discard(self._runs.known(run.id)))
        self._journal.note(run.id, discarded=1)

    # ---------------------------------------------------------------------------------------------------------- predict
    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Answer prompts with a model of the host; see `prediction` and `scoring` for how labels are scored."""
        if not self.capabilities.can_predict:
            message = "models of this host answer only once they are deployed"
            raise BackendError(Failure(FailureKind.USER, message, "say where: `backend: {deployment: {...}}`"))
        return self._predictor.predict(model, prompts, options)

    def package(self, model: str, dataset: Dataset, folder: Path) -> Package:
        """Say where a model is and how it is asked, so that it answers elsewhere; see `served.Packager`."""
        from backends.hosted.packaging import package

        return package(model, self._predictor.base_model(model), dataset, self._options)

    # ---------------------------------------------------------------------------------------------- beyond the contract
    def checkpoints(self, handle: Handle) -> list[Checkpointed]:
        """Return the checkpoints that the host still has, also those that it showed too late to be events."""
        from backends.hosted import job_events

        run = self._runs.known(handle.id)
        if run.job is None:
            return []
        job, told = run.job, self._journal.events(run.id)
        known = {each.model: each for each in told if isinstance(each, Checkpointed)}
        per_epoch = job_events.steps_per_epoch(told)
        return [
            known.get(each.model) or Checkpointed(each.step, each.step / per_epoch if per_epoch else 0.0, each.model)
            for each in self._pace.patiently(lambda: self._service.checkpoints(job))
        ]

    def remnants(self, others: Sequence[Path] = ()) -> Sequence[Remnant]:
        """Return what the runs have left at the host; see `remnants.Cleaner`."""
        return self._cleaning.listing(None, others)

    def remove(self, remnant: Remnant) -> str:
        """Remove something at the host; see `remnants.Cleaner`."""
        return self._cleaning.remove(remnant)

    @property
    def cleaning(self) -> Cleaning:
        """What is left at the host, also of single runs."""
        return self._cleaning


def _secret(name: str, source: Mapping[str, str] | None, *, needed: bool) -> str | None:
    value = credentials.secret(name, source)
    if value is None and needed:
        message = f"there is no API key: {name} is not set"
        raise BackendError(Failure(FailureKind.USER, message, f"set {name}, or {name}_FILE to a file that holds it"))
    return value


if TYPE_CHECKING:
    _conforms: type[Backend] = HostedBackend
