"""`HostedBackend`: the backend contract over the jobs of a host."""

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
    DataFile,
    Dataset,
    Decoding,
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
from backends.hosted.capabilities import capabilities_of
from backends.hosted.options import HostedOptions
from backends.hyperparameter_checks import check_hyperparameters

if TYPE_CHECKING:
    import httpx2

    from backends.cleanup import Leftover
    from backends.example_report import ExampleReport
    from backends.hosted.cleanup import HostCleanup
    from backends.hosted.deployments import Deployments
    from backends.hosted.host_connection import HostConnection
    from backends.model_packages.package import ModelPackage
    from backends.rendering import RenderedExample
    from backends.waiting import Waiting

NAME = "hosted"

_log = logging.getLogger(__name__)


class HostedBackend:
    """Trains at a host with the OpenAI fine-tuning protocol.

    Reading a run's events also advances the run; see `run_lifecycle`. A job creation that has to
    wait (for a file check, for a daily limit, for certainty after a lost answer) waits there and
    blocks nobody.
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
        from backends.hosted.cleanup import JOURNAL_FOLDER, HostCleanup
        from backends.hosted.cost_estimation import CostEstimator
        from backends.hosted.host_client import HostClient
        from backends.hosted.host_connection import HostConnection
        from backends.hosted.job_creation import JobCreator
        from backends.hosted.journal import Journal
        from backends.hosted.model_evaluation import ModelEvaluator
        from backends.hosted.prediction import Predictor
        from backends.hosted.rate_limiter import RateLimiter
        from backends.hosted.run_lifecycle import RunLifecycle
        from backends.hosted.uploads import DataFileUploads

        self.capabilities = self.describe(options)
        self._options, self._host_profile = options, options.profile
        find_key = credentials.required_secret if self._host_profile.needs_api_key else credentials.secret
        key = find_key(options.key_name, secrets)
        self._client = HostClient(options, key, transport)
        self._journal = Journal(workspace / JOURNAL_FOLDER)
        host = HostConnection(options, self._client, self._journal, clock, sleep)
        self._clock, self._sleep = clock, sleep
        self._rate_limiter = RateLimiter(options.patience_s, options.requests_per_minute, clock, sleep)
        self._deployments: Deployments = _deployments(host, secrets, transport)
        self._estimator = CostEstimator(options, self._journal)
        creator = JobCreator(host, DataFileUploads(host))
        self._predictor = Predictor(host, self._deployments, self._rate_limiter.with_retries)
        # The evaluator runs inside `events`, which must not block: `RunLifecycle` repeats its
        # calls.
        asking = Predictor(host, self._deployments, self._rate_limiter.once)
        evaluator = ModelEvaluator(options, asking, self._deployments, workspace, self._journal.folder)
        self._runs = RunLifecycle(host, creator, self._estimator, evaluator)
        self._cleanup = HostCleanup(host, creator, self._deployments)

    @classmethod
    def describe(cls, options: BaseModel) -> Capabilities:
        """Return the capabilities of the host under these options."""
        return capabilities_of(HostedOptions.model_validate(options))

    @classmethod
    def open(cls, options: BaseModel, workspace: Path, placement: Placement) -> Self:
        """Connect, with the secrets from `backends.credentials`. Sends no request."""
        return cls(HostedOptions.model_validate(options), workspace)

    def close(self) -> None:
        """Delete the deployments that this instance created, and close the connections.

        Jobs go on.
        """
        try:
            self._deployments.remove_own()
        except BackendError as error:
            _log.warning("a deployment may still exist: %s", error)
        self._deployments.close()
        self._client.close()
        self._journal.close()

    # --------------------------------------------------------------------------- check and estimate
    def check(self, request: TrainingRequest) -> Sequence[Failure]:
        """Return what would make the request fail.

        Asks the host for the base model if it lists models, else for a job. A host that is out of
        reach is a failure within some seconds, whatever the patience is.
        """
        return list(self._local_problems(request)) or list(self._remote_problems(request))

    def _local_problems(self, request: TrainingRequest) -> Iterator[Failure]:
        """Yield the problems that are visible without the host."""
        yield from check_hyperparameters(request.hyperparameters, self.capabilities)
        yield from self._data_problems(request)
        yield from self._epochs_problems(request)
        yield from self._evaluation_problems(request)
        if request.resume_from is not None:
            message = "resume_from: this backend cannot continue from a model"
            yield Failure(FailureKind.USER, message, "Remove resume_from.")

    def _data_problems(self, request: TrainingRequest) -> Iterator[Failure]:
        from backends.hosted.example_format import base_model_of

        rules, dataset = self._host_profile.files, request.dataset
        for file in (dataset.train, dataset.valid):
            path = Path(file.path)
            if not path.is_file():
                yield Failure(FailureKind.USER, f"the data file {path} does not exist", "Prepare the data again.")
            elif rules.max_bytes is not None and (size := path.stat().st_size) > rules.max_bytes:
                message = f"the data file {path} has {size} bytes, and this host accepts at most {rules.max_bytes}"
                yield Failure(FailureKind.USER, message, "Use fewer examples.")
        if dataset.train.examples < rules.min_examples:
            message = (
                f"this host needs at least {rules.min_examples} training examples, and there are only "
                f"{dataset.train.examples}"
            )
            yield Failure(FailureKind.USER, message, "Use more examples.")
        base_model = base_model_of(request)
        if dataset.layout == "chat" and not self._options.is_chat(base_model):
            message = f"{base_model} is a completion model, but the data are chat messages"
            yield Failure(FailureKind.USER, message, "Use a chat model, or data with prompt and completion.")
        elif dataset.layout == "chat" and not rules.message_weights:
            yield from self._untrained_answer_problems(request)

    def _untrained_answer_problems(self, request: TrainingRequest) -> Iterator[Failure]:
        """Yield that this host would train answers that are not to be trained."""
        from backends.hosted.example_format import untrained_answers

        dataset = request.dataset
        files = [file for file in (dataset.train, dataset.valid) if Path(file.path).is_file()]
        if count := sum(untrained_answers(file, dataset.train_on) for file in files):
            message = (
                f"{self._host_profile.title} trains every answer of a conversation, but {count} conversations have "
                "answers that are not to be trained"
            )
            remedy = "Write train_on: all and remove the weights, or shorten the conversations to one answer."
            yield Failure(FailureKind.USER, message, remedy)

    def _epochs_problems(self, request: TrainingRequest) -> Iterator[Failure]:
        """Yield why the length of the run has no upper bound."""
        from backends.hosted.cost_estimation import planned_epochs

        if "n_epochs" in request.hyperparameters:
            return
        try:
            planned_epochs(request, self._host_profile)
        except BackendError as error:
            yield error.failure

    def _evaluation_problems(self, request: TrainingRequest) -> Iterator[Failure]:
        from backends.hosted import metric_checks
        from backends.metrics.kept_metric import evaluation_names, may_be_measured

        yield from metric_checks.failures(request.evaluation, self.capabilities)
        metric, requested = request.evaluation.keep_metric, request.evaluation.metrics
        metrics = [*self.capabilities.metrics, *evaluation_names(requested)]
        lacks_labels = metric in self.capabilities.label_metrics and not request.dataset.labels
        is_measured = metric in self.capabilities.metrics and not lacks_labels
        if not is_measured and not may_be_measured(metric, requested):
            nearest = difflib.get_close_matches(metric, metrics, n=1)
            hint = f"Did you mean {nearest[0]}?" if nearest else f"Use one of: {', '.join(metrics)}."
            yield Failure(FailureKind.USER, f"keep_metric: {metric} is not measured on this data set", hint)
        if request.evaluation.per_epoch != 1 and not self.capabilities.evaluations_within_epoch:
            message = "per_epoch: this host evaluates once, at the end of each epoch"
            yield Failure(FailureKind.USER, message, "Set per_epoch to 1.")

    def _remote_problems(self, request: TrainingRequest) -> Iterator[Failure]:
        from backends.hosted import reachability
        from backends.hosted.example_format import base_model_of

        model, limits_s = base_model_of(request), (reachability.ATTEMPT_S, reachability.CONNECT_TIMEOUT_S)

        def model_exists() -> bool:
            if self._host_profile.inference.models_listed:
                return self._client.has_model(model, *limits_s)
            self._client.check_access(*limits_s)
            return True

        try:
            exists = reachability.ask(model_exists, self._options.address, self._sleep)
        except BackendError as error:
            yield error.failure
            return
        if not exists:
            message = f"the host has no model {model!r}, or this account may not use it"
            yield Failure(FailureKind.USER, message, "Check the model's name.")

    def estimate(self, request: TrainingRequest) -> Estimate:
        """Return tokens and cost of the complete run, and the source of these numbers."""
        for failure in check_hyperparameters(request.hyperparameters, self.capabilities):
            raise BackendError(failure)
        return self._estimator.estimate(request)

    def render(self, request: TrainingRequest) -> RenderedExample:
        """Return an example as the host receives it; see `rendering.SupportsRendering`."""
        from backends.hosted import rendering

        return rendering.render(request, self._options)

    def report_examples(self, request: TrainingRequest, test: DataFile | None) -> ExampleReport:
        """Report on all examples; see `example_report.SupportsExampleReport`."""
        from backends.hosted import example_report

        return example_report.report(request, test, self._options)

    # ----------------------------------------------------------------------------------------- runs
    def submit(self, request: TrainingRequest) -> Handle:
        """Record the run and try to create its job; `events` continues whatever has to wait.

        Raises BackendError if the host rejects the request for good. Then there is no job.
        """
        from backends.hosted.journal import run_id

        if self._journal.runs.get(run_id(request.key)) is None:
            for failure in self._local_problems(request):
                raise BackendError(failure)
        return Handle(NAME, self._runs.begin(request))

    def events(self, handle: Handle, after: int) -> Sequence[Event]:
        """Return the events from number `after` on.

        Polls the host first, unless the run has to wait.
        """
        self._runs.advance(handle.id)
        return self._journal.runs.events(handle.id, after)

    def waiting(self, handle: Handle) -> Waiting | None:
        """Return why a run waits: a limit of the account, or an unreachable host."""
        return self._journal.accounts.wait(handle.id, self._clock())

    def stop(self, handle: Handle) -> None:
        """End the run: cancel its job, or pause it if that keeps a checkpoint."""
        self._runs.stop(handle.id)

    def discard(self, handle: Handle) -> None:
        """Delete the run's models, deployments and result files at the host. Its events stay."""
        run = self._runs.get(handle.id)
        if run.discarded:
            return
        self._runs.stop(run.id)
        self._rate_limiter.with_retries(lambda: self._cleanup.discard(self._runs.get(run.id)))
        self._journal.runs.update(run.id, discarded=1)

    # ---------------------------------------------------------------------------------- predictions
    def predict(
        self, model: str, prompts: Sequence[Mapping[str, Any]], options: PredictOptions
    ) -> Sequence[Prediction]:
        """Answer prompts with a model of the host; see `label_scoring` for labels."""
        if not self.capabilities.can_predict:
            message = "models of this host answer only while they are deployed"
            raise BackendError(
                Failure(FailureKind.USER, message, "Say where to deploy them: `backend: {deployment: {...}}`.")
            )
        return self._predictor.predict(model, prompts, options)

    def package(self, model: str, dataset: Dataset, folder: Path) -> ModelPackage:
        """Return how to query a model without this backend; see `SupportsPackaging`."""
        from backends.hosted.packaging import package

        request = self._predictor.request_of(model)
        decoding = Decoding() if request is None else request.evaluation.generation_in_use.decoding
        return package(model, self._predictor.base_model(model), dataset, self._options, decoding)

    # -------------------------------------------------------------------------- beyond the contract
    def checkpoints(self, handle: Handle) -> list[Checkpointed]:
        """Return the checkpoints that the host still has, even those too late for events."""
        from backends.hosted.checkpoint_selection import steps_per_epoch

        run = self._runs.get(handle.id)
        if run.job is None:
            return []
        job, events = run.job, self._journal.runs.events(run.id)
        emitted = {event.model: event for event in events if isinstance(event, Checkpointed)}
        per_epoch = steps_per_epoch(events)
        remote = self._rate_limiter.with_retries(lambda: self._client.checkpoints(job))
        return [
            emitted.get(checkpoint.model)
            or Checkpointed(checkpoint.step, checkpoint.step / per_epoch if per_epoch else 0.0, checkpoint.model)
            for checkpoint in remote
        ]

    def leftovers(self, others: Sequence[Path] = ()) -> Sequence[Leftover]:
        """Return what the runs have left at the host; see `cleanup.SupportsCleanup`."""
        return self._cleanup.leftovers(None, others)

    def remove(self, leftover: Leftover) -> str:
        """Remove something at the host; see `cleanup.SupportsCleanup`."""
        return self._cleanup.remove(leftover)

    @property
    def cleanup(self) -> HostCleanup:
        """The clean-up of this host, also of single runs."""
        return self._cleanup


def _deployments(
    host: HostConnection, secrets: Mapping[str, str] | None, transport: httpx2.BaseTransport | None
) -> Deployments:
    """Return the deployments of this host.

    Raises BackendError (user) if their secret is missing.
    """
    from backends.hosted.deployments import AzureDeployments, NoDeployments
    from backends.hosted.rate_limiter import RateLimiter

    options, token_name = host.options, host.profile.deployment_token
    if options.deployment is None or token_name is None:
        return NoDeployments()
    token = credentials.required_secret(token_name, secrets)
    rate_limiter = RateLimiter(options.patience_s, None, host.clock, host.sleep)
    return AzureDeployments(options.deployment, token, host.journal, rate_limiter, host.clock, host.sleep, transport)


if TYPE_CHECKING:
    _conforms: type[Backend] = HostedBackend
