"""The promises of a backend, as tests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from backends import codec
from backends.contract import (
    TERMINAL_EVENTS,
    Backend,
    BackendError,
    Charged,
    Checkpointed,
    Dataset,
    Decoding,
    EvaluationSettings,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Generated,
    GenerationSettings,
    Handle,
    Measured,
    MetricRequest,
    PredictOptions,
    Queued,
    Scalar,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.metrics.measurement import MetricSet
from backends.metrics.references import reference_texts
from backends.metrics.sample import sampled_examples
from backends.testing.declarations import assert_consistent, invalid_values, valid_value
from backends.testing.description import side_effects_of_describing
from backends.testing.fixtures import LABELS, ContractFixtures
from backends.testing.runs import CompletedRun, drain, evaluations, events_as_text, has_ended, read_until, texts_of


class BackendContract(ContractFixtures):
    """The promises of a backend. Subclasses override the hooks and have no `__init__`."""

    def with_hyperparameters(self, **changes: Scalar) -> TrainingRequest:
        """Return the valid request with a new key and other hyperparameters."""
        return self.training_request(self.key(), hyperparameters={**self.hyperparameters, **changes})

    def refusal(self, backend: Backend, request: TrainingRequest) -> Failure:
        """Return the failure of a bad request, which `submit` raises or which ends the run."""
        try:
            handle = backend.submit(request)
            end = drain(backend, handle, self.timeout_s)[-1]
        except BackendError as error:
            return error.failure
        assert isinstance(end, Failed), f"the run of a bad request ended with {end}"
        return end.failure

    # ---------------------------------------------------------------------------------- description
    def test_options_forbid_unknown_keys(self) -> None:
        """A misspelt option is an error and is never ignored."""
        with pytest.raises(ValidationError, match="no_such_option"):
            self.backend_type.options_model.model_validate({**self.options(), "no_such_option": 1})

    def test_describe_is_cheap(self, tmp_path: Path) -> None:
        """Importing and describing loads no heavy library, connects to and writes nothing."""
        found = side_effects_of_describing(self.backend_type, self.options(), tmp_path)
        assert found == [], "describing a backend must have no side effect and load no heavy library"

    def test_describe_equals_the_opened_capabilities(self, backend: Backend) -> None:
        """A plan made from `describe` holds for the opened backend."""
        options = self.backend_type.options_model.model_validate(self.options())
        assert self.backend_type.describe(options) == backend.capabilities
        assert isinstance(backend, Backend)

    def test_capabilities_are_consistent(self, backend: Backend) -> None:
        """Names are unique, defaults lie within the bounds, and references resolve."""
        declared = backend.capabilities
        names = [hyperparameter.name for hyperparameter in declared.hyperparameters]
        assert len(names) == len(set(names))
        assert "n_epochs" in names
        for hyperparameter in declared.hyperparameters:
            assert_consistent(hyperparameter, declared)
        assert len(declared.metrics) == len(set(declared.metrics)) > 0
        assert set(declared.label_metrics) <= set(declared.metrics)
        assert all(name.startswith(("valid_", "train_")) for name in declared.metrics)
        assert declared.recommendation_scope
        assert declared.poll_s >= 0
        assert declared.max_concurrent is None or declared.max_concurrent >= 1

    # --------------------------------------------------------------------------- check and estimate
    def test_a_valid_request_passes_the_check(self, backend: Backend) -> None:
        """The check reports no failure for a valid request."""
        assert list(backend.check(self.training_request(self.key()))) == []

    def test_an_unknown_model_fails_the_check(self, backend: Backend) -> None:
        """The check finds a missing model before any spend, and reports that a retry is useless."""
        failures = backend.check(self.training_request(self.key(), base_model="no-such-model-anywhere"))
        assert failures
        assert all(failure.message and not failure.kind.retryable for failure in failures)

    def test_missing_data_fails_the_check(self, backend: Backend, tmp_path: Path, dataset: Dataset) -> None:
        """The check finds a missing data file before any spend."""
        gone = dataclasses.replace(dataset.train, path=str(tmp_path / "gone.jsonl"))
        request = self.training_request(self.key(), dataset=dataclasses.replace(dataset, train=gone))
        assert [failure.kind for failure in backend.check(request)] == [FailureKind.USER]
        assert self.refusal(backend, request).kind is FailureKind.USER

    def test_an_unknown_hyperparameter_is_refused(self, backend: Backend) -> None:
        """The backend never ignores a hyperparameter that it does not know."""
        request = self.with_hyperparameters(no_such_hyperparameter=1)
        (failure,) = backend.check(request)
        assert failure.kind is FailureKind.USER
        assert "no_such_hyperparameter" in failure.message
        assert self.refusal(backend, request).kind is FailureKind.USER

    def test_invalid_values_are_refused(self, backend: Backend) -> None:
        """The backend enforces every declared bound, type and choice."""
        for declared in backend.capabilities.hyperparameters:
            for value in invalid_values(declared):
                failures = backend.check(self.with_hyperparameters(**{declared.name: value}))
                assert failures, f"{declared.name}={value!r} passed the check"
                assert all(failure.kind is FailureKind.USER for failure in failures)
                assert any(declared.name in failure.message for failure in failures)
        assert self.refusal(backend, self.with_hyperparameters(n_epochs=0)).kind is FailureKind.USER

    def test_hyperparameters_that_exclude_each_other_are_refused(self, backend: Backend) -> None:
        """The backend does not accept two hyperparameters that exclude each other."""
        for declared in backend.capabilities.hyperparameters:
            for other in declared.excludes:
                both = {name: valid_value(backend.capabilities, name) for name in (declared.name, other)}
                failures = backend.check(self.with_hyperparameters(**both))
                assert any(failure.kind is FailureKind.USER for failure in failures), f"{both} passed the check"

    def test_a_request_beyond_the_capabilities_is_refused(self, backend: Backend) -> None:
        """The check finds such a request; the backend never trains something else instead."""
        declared = backend.capabilities
        beyond = [
            self.training_request(
                self.key(), evaluation=EvaluationSettings(train_examples=8, keep_metric="no_such_metric")
            )
        ]
        if not declared.evaluations_within_epoch:
            beyond.append(
                self.training_request(self.key(), evaluation=EvaluationSettings(per_epoch=2, train_examples=8))
            )
        if not declared.can_resume:
            beyond.append(self.training_request(self.key(), resume_from="a-model"))
        for request in beyond:
            failures = backend.check(request)
            assert [failure.kind for failure in failures] == [FailureKind.USER], f"{request} passed the check"

    def test_an_estimate_states_its_basis(self, backend: Backend) -> None:
        """No number is negative, and the cost is known exactly if the backend is priced."""
        request = self.training_request(self.key())
        estimate = backend.estimate(request)
        assert estimate.basis
        assert all(
            value is None or value >= 0
            for value in (estimate.tokens, estimate.seconds, estimate.usd, estimate.disk_bytes)
        )
        assert (estimate.usd is not None) == backend.capabilities.priced
        for expected, bound in ((estimate.tokens, estimate.max_tokens), (estimate.usd, estimate.max_usd)):
            assert bound is None or (expected is not None and bound >= expected)

    def test_check_and_estimate_change_nothing(self, reopened_backend: Backend, completed_run: CompletedRun) -> None:
        """Both give the same answer twice, and leave the run and the data unchanged."""
        digest = hashlib.sha256(Path(completed_run.request.dataset.train.path).read_bytes()).hexdigest()
        assert reopened_backend.estimate(completed_run.request) == reopened_backend.estimate(completed_run.request)
        assert (
            list(reopened_backend.check(completed_run.request))
            == list(reopened_backend.check(completed_run.request))
            == []
        )
        assert events_as_text(reopened_backend.events(completed_run.handle, 0)) == events_as_text(completed_run.events)
        assert hashlib.sha256(Path(completed_run.request.dataset.train.path).read_bytes()).hexdigest() == digest

    # --------------------------------------------------------------------------------------- submit
    def test_submit_is_idempotent(self, backend: Backend) -> None:
        """The same key gives the same handle, also after JSON; another key gives another run."""
        first, second = self.training_request(self.key()), self.training_request(self.key())
        handle = backend.submit(first)
        assert backend.submit(codec.from_json(TrainingRequest, json.loads(json.dumps(codec.to_json(first))))) == handle
        assert backend.submit(second) != handle
        assert handle.backend
        assert codec.from_json(Handle, json.loads(json.dumps(codec.to_json(handle)))) == handle

    def test_an_ended_run_is_adopted(self, reopened_backend: Backend, completed_run: CompletedRun) -> None:
        """Submitting the key of an ended run again starts no run, even after a restart."""
        assert reopened_backend.submit(completed_run.request) == completed_run.handle
        assert events_as_text(drain(reopened_backend, completed_run.handle, self.timeout_s)) == events_as_text(
            completed_run.events
        )

    def test_an_unknown_run_is_lost(self, backend: Backend) -> None:
        """A handle of a run that never existed is reported as lost."""
        handle = backend.submit(self.training_request(self.key()))
        unknown = dataclasses.replace(handle, id="no-such-run")
        with pytest.raises(BackendError) as raised:
            backend.events(unknown, 0)
        assert raised.value.failure.kind is FailureKind.LOST
        with pytest.raises(BackendError) as raised:
            backend.stop(unknown)
        assert raised.value.failure.kind is FailureKind.LOST

    # --------------------------------------------------------------------------------------- events
    def test_a_run_ends_once(self, completed_run: CompletedRun) -> None:
        """The run of a valid request finishes with a model. Only its last event is terminal."""
        assert [type(event) for event in completed_run.events if isinstance(event, TERMINAL_EVENTS)] == [Finished]
        assert isinstance(completed_run.events[-1], Finished)
        assert completed_run.events[-1].model

    def test_events_are_repeatable(self, reopened_backend: Backend, completed_run: CompletedRun) -> None:
        """Every cursor gives the same suffix at every call, even after a restart."""
        for after in [*range(len(completed_run.events) + 1), 0]:
            assert events_as_text(reopened_backend.events(completed_run.handle, after)) == events_as_text(
                completed_run.events[after:]
            )
        assert list(reopened_backend.events(completed_run.handle, len(completed_run.events) + 5)) == []

    def test_events_are_ordered(self, completed_run: CompletedRun) -> None:
        """The run is queued, then starts, then measures. Its steps and epochs never decrease."""
        event_types = [type(event) for event in completed_run.events]
        assert event_types.count(Started) == 1
        start = event_types.index(Started)
        assert Queued not in event_types[start:]
        assert not {Measured, Checkpointed} & set(event_types[:start])
        points = [event for event in completed_run.events if isinstance(event, Measured | Checkpointed)]
        assert [point.step for point in points] == sorted(point.step for point in points)
        assert [point.epoch for point in points] == sorted(point.epoch for point in points)

    def test_events_survive_json(self, completed_run: CompletedRun) -> None:
        """The codec writes every event and reads it back unchanged."""
        for event in completed_run.events:
            copy = codec.from_json(Event, json.loads(json.dumps(codec.to_json(event))))
            # The texts are compared: NaN is not equal to itself, and JSON turns the key 1 into "1".
            assert repr(copy) == repr(event)

    def test_started_reports_the_values_in_use(self, completed_run: CompletedRun) -> None:
        """The resolved values include every hyperparameter of the request, unchanged."""
        (started,) = (event for event in completed_run.events if isinstance(event, Started))
        resolved = {name: started.resolved.get(name) for name in completed_run.request.hyperparameters}
        assert resolved == dict(completed_run.request.hyperparameters)
        assert all(type(value) in {bool, int, float, str} for value in started.resolved.values())

    def test_every_epoch_is_evaluated(self, completed_run: CompletedRun) -> None:
        """Each epoch has exactly one evaluation, at its end."""
        n_epochs = int(completed_run.request.hyperparameters["n_epochs"])
        assert [evaluation.epoch for evaluation in completed_run.evaluations] == list(range(1, n_epochs + 1))

    def test_evaluations_within_an_epoch(self, backend: Backend) -> None:
        """If declared, an epoch has as many evaluations as requested, the last at its end."""
        if not backend.capabilities.evaluations_within_epoch:
            pytest.skip("not declared")
        request = self.training_request(self.key(), evaluation=EvaluationSettings(per_epoch=2, train_examples=8))
        events = drain(backend, backend.submit(request), self.timeout_s)
        epochs = [evaluation.epoch for evaluation in evaluations(events)]
        n_epochs = int(request.hyperparameters["n_epochs"])
        assert epochs[1::2] == list(range(1, n_epochs + 1))
        assert [math.ceil(epoch) for epoch in epochs] == [n + 1 for n in range(n_epochs) for _ in range(2)]
        assert len(set(epochs)) == len(epochs)

    def test_evaluations_carry_the_declared_metrics(self, backend: Backend, completed_run: CompletedRun) -> None:
        """Evaluations carry exactly the declared metrics, as plain floats."""
        declared = backend.capabilities
        keep_metric = completed_run.request.evaluation.keep_metric
        carried = {name for evaluation in completed_run.evaluations for name in evaluation.values}
        assert carried == set(declared.metrics) - (set() if self._dataset.labels else set(declared.label_metrics))
        assert all(keep_metric in evaluation.values for evaluation in completed_run.evaluations)
        measured = [event for event in completed_run.events if isinstance(event, Measured)]
        assert all(type(value) is float for event in measured for value in event.values.values())
        loop_reports = [event for event in measured if event.scope == "step"]
        assert not any(set(report.values) & set(declared.metrics) for report in loop_reports)

    def test_task_metrics_are_measured_on_generated_texts(self, tmp_path: Path, backend: Backend) -> None:
        """If declared, evaluations have the metrics of the request, and their texts precede them.

        Every evaluation that generates does so for the same examples. The last evaluation of the
        run is one of them. The check finds a metric that cannot be measured.
        """
        if not backend.capabilities.task_metrics:
            pytest.skip("not declared")
        settings = self.text_settings()
        unknown = dataclasses.replace(settings, metrics=(MetricRequest("x", "no_such_metric"),), keep_metric="valid_x")
        failures = backend.check(self.training_request(self.key(), evaluation=unknown))
        assert any(failure.kind is FailureKind.USER and "no_such_metric" in failure.message for failure in failures)
        assert list(backend.check(self.training_request(self.key(), evaluation=settings))) == []
        first, second = (
            self.run(tmp_path / name, self.training_request(self.key(), evaluation=settings)) for name in ("1", "2")
        )
        for run in (first, second):
            assert isinstance(run.events[-1], Finished)
            self._assert_texts_precede_their_values(run)
        measured = [event for event in first.evaluations if "valid_exact_match" in event.values]
        assert measured[-1] == first.evaluations[-1]
        if self.deterministic and self.deterministic_texts:
            assert events_as_text(texts_of(first)) == events_as_text(texts_of(second))
        reopened = self.open_backend(first.workspace)
        assert events_as_text(reopened.events(first.handle, 0)) == events_as_text(first.events)
        reopened.close()

    def text_settings(self) -> EvaluationSettings:
        """Return settings of evaluations that generate texts for five examples."""
        return EvaluationSettings(
            train_examples=8,
            keep_metric="valid_exact_match",
            keep_maximum=True,
            metrics=(MetricRequest("exact_match", "exact_match"), MetricRequest("length", "length_ratio")),
            generation=GenerationSettings(examples=5, decoding=Decoding(max_tokens=4)),
        )

    def _assert_texts_precede_their_values(self, run: CompletedRun) -> None:
        valid, stop = self._dataset.valid, self._dataset.stop
        lines = [json.loads(line) for line in Path(valid.path).read_text(encoding="utf-8").splitlines()]
        generation = run.request.evaluation.generation
        assert generation is not None
        sample = sampled_examples(len(lines), generation.examples, valid.sha256)
        references = [reference_texts(lines[example], stop, None)[0] for example in sample]
        names = {"valid_exact_match", "valid_length"}
        carrying = [
            n for n, event in enumerate(run.events) if isinstance(event, Measured) and names & set(event.values)
        ]
        assert carrying
        assert len(texts_of(run)) == len(carrying)
        for n in carrying:
            measured, generated = run.events[n], run.events[n - 1]
            assert isinstance(measured, Measured)
            assert isinstance(generated, Generated), "the texts precede the evaluation immediately"
            assert (generated.step, generated.epoch) == (measured.step, measured.epoch)
            assert measured.scope == "evaluation"
            assert all(type(measured.values.get(name)) is float for name in names)
            assert generated.examples == len(sample)
            assert tuple(text.example for text in generated.texts) == sample
            assert [text.reference for text in generated.texts] == references
            assert generated.truncated == sum(text.truncated for text in generated.texts)
            scores = [text.scores["exact_match"] for text in generated.texts]
            assert measured.values["valid_exact_match"] == pytest.approx(sum(scores) / len(scores))
            with MetricSet.open(run.request.evaluation.metrics, run.workspace) as metrics:
                texts = [text.text for text in generated.texts]
                values = metrics.measure(texts, [lines[example] for example in sample], stop).values
            wanted = {f"valid_{name}": value for name, value in values.items()}
            assert {name: measured.values.get(name) for name in wanted} == pytest.approx(wanted)

    def test_label_metrics_need_labels(self, backend: Backend, dataset: Dataset) -> None:
        """Without labels, the label metrics are absent, or the backend refuses the request."""
        request = self.training_request(self.key(), dataset=dataclasses.replace(dataset, labels=()))
        if failures := backend.check(request):
            assert {failure.kind for failure in failures} == {FailureKind.USER}
            return
        measured = evaluations(drain(backend, backend.submit(request), self.timeout_s))
        assert measured
        assert not any(set(event.values) & set(backend.capabilities.label_metrics) for event in measured)

    def test_only_a_priced_backend_reports_costs(self, backend: Backend, completed_run: CompletedRun) -> None:
        """A priced backend reports its charges in US dollars; any other reports no cost."""
        charges = [event for event in completed_run.events if isinstance(event, Charged)]
        assert all(charge.tokens >= 0 and (charge.usd is None or charge.usd >= 0) for charge in charges)
        if backend.capabilities.priced:
            assert any(charge.usd is not None for charge in charges)
        else:
            assert all(charge.usd is None for charge in charges)

    @pytest.mark.parametrize("closed", [True, False], ids=["closed", "abandoned"])
    def test_a_run_survives_its_client(self, tmp_path: Path, completed_run: CompletedRun, closed: bool) -> None:
        """A new instance sees the events of a run in progress and leads it to the same end."""
        client = self.open_backend(tmp_path)
        handle = client.submit(self.training_request(self.key()))
        seen = read_until(client, handle, Measured, self.timeout_s)
        if closed:
            client.close()
        successor = self.open_backend(tmp_path)
        seen = drain(successor, handle, self.timeout_s, seen)
        assert events_as_text(successor.events(handle, 0)) == events_as_text(seen)
        successor.close()
        if not closed:
            client.close()
        self._assert_same_measurements(seen, completed_run.events)

    def test_the_same_seed_gives_the_same_measurements(self, tmp_path: Path, completed_run: CompletedRun) -> None:
        """If promised, the same seed repeats a run exactly, and another seed differs."""
        if not self.deterministic:
            pytest.skip("not promised")
        again = self.run(tmp_path / "again", self.training_request(self.key()))
        self._assert_same_measurements(again.events, completed_run.events)
        other = self.run(tmp_path / "other", self.training_request(self.key(), seed=8))
        assert events_as_text(other.evaluations) != events_as_text(completed_run.evaluations)

    def _assert_same_measurements(self, events: Sequence[Event], others: Sequence[Event]) -> None:
        assert isinstance(events[-1], Finished)
        measured, other_measured = ([event for event in run if isinstance(event, Measured)] for run in (events, others))
        epochs, other_epochs = (
            [evaluation.epoch for evaluation in evaluations(run)] for run in (measured, other_measured)
        )
        assert epochs == other_epochs
        if self.deterministic:
            assert events_as_text(measured) == events_as_text(other_measured)

    # -------------------------------------------------------------------------------- stop, discard
    def test_a_run_can_be_stopped_before_its_start(self, tmp_path: Path, backend: Backend) -> None:
        """Another instance can stop a run as soon as it is submitted, and again."""
        if not backend.capabilities.can_stop:
            pytest.skip("not declared")
        handle = backend.submit(self.with_hyperparameters(n_epochs=self.long_epochs or 1))
        other = self.open_backend(tmp_path / "workspace")
        other.stop(handle)
        other.stop(handle)
        assert isinstance(drain(other, handle, self.timeout_s)[-1], Stopped)
        other.close()

    def test_a_run_can_be_stopped_in_the_middle(self, backend: Backend) -> None:
        """The events so far stay, Stopped follows, and a second stop changes nothing."""
        if not backend.capabilities.can_stop or self.long_epochs is None:
            pytest.skip("not declared")
        handle = backend.submit(self.with_hyperparameters(n_epochs=self.long_epochs))
        seen = read_until(backend, handle, Measured, self.timeout_s)
        assert not has_ended(seen), "raise `long_epochs`: the run ended before it could be stopped"
        backend.stop(handle)
        backend.stop(handle)
        seen = drain(backend, handle, self.timeout_s, seen)
        assert [type(event) for event in seen if isinstance(event, TERMINAL_EVENTS)] == [Stopped]
        assert max(event.epoch for event in seen if isinstance(event, Measured)) < self.long_epochs
        backend.stop(handle)
        assert events_as_text(backend.events(handle, 0)) == events_as_text(seen)

    def test_stopping_an_ended_run_changes_nothing(
        self, reopened_backend: Backend, completed_run: CompletedRun
    ) -> None:
        """A finished run stays finished."""
        if not reopened_backend.capabilities.can_stop:
            pytest.skip("not declared")
        reopened_backend.stop(completed_run.handle)
        assert events_as_text(reopened_backend.events(completed_run.handle, 0)) == events_as_text(completed_run.events)

    def test_discard_keeps_the_events(self, tmp_path: Path) -> None:
        """After one or two calls, the model is gone and the events are unchanged."""
        run = self.run(tmp_path, self.training_request(self.key()))
        backend = self.open_backend(tmp_path)
        backend.discard(run.handle)
        backend.discard(run.handle)
        assert events_as_text(backend.events(run.handle, 0)) == events_as_text(run.events)
        backend.close()
        backend = self.open_backend(tmp_path)
        assert events_as_text(backend.events(run.handle, 0)) == events_as_text(run.events)
        if backend.capabilities.can_predict:
            assert isinstance(run.events[-1], Finished)
            with pytest.raises(BackendError):
                backend.predict(run.events[-1].model, self._prompts(), PredictOptions(labels=self._dataset.labels))
        backend.close()

    # -------------------------------------------------------------------------------------- predict
    def test_predict_scores_labels(self, reopened_backend: Backend, completed_run: CompletedRun) -> None:
        """Predictions are in prompt order, have label log-probabilities, and ignore completions."""
        if not reopened_backend.capabilities.can_predict or not self._dataset.labels:
            pytest.skip("not declared")
        prompts, options = self._prompts(), PredictOptions(labels=self._dataset.labels)
        model = self._model(completed_run)
        predictions = reopened_backend.predict(model, prompts, options)
        assert len(predictions) == len(prompts)
        for prediction in predictions:
            logprobs = prediction.label_logprobs
            assert logprobs is not None
            assert len(logprobs) == len(self._dataset.labels)
            assert all(math.isfinite(logprob) and logprob <= 1e-6 for logprob in logprobs)
            assert prediction.text == self._dataset.labels[logprobs.index(max(logprobs))]
        completed = [{**prompt, "completion": self._dataset.labels[0]} for prompt in reversed(prompts)]
        again = reversed(reopened_backend.predict(model, completed, options))
        for prediction, other in zip(predictions, again, strict=True):
            assert prediction.text == other.text
            # another order may mean other batches, and so other rounding errors
            assert prediction.label_logprobs == pytest.approx(other.label_logprobs, abs=1e-3)
        assert list(reopened_backend.predict(model, [], options)) == []

    def test_predict_generates_text(self, reopened_backend: Backend, completed_run: CompletedRun) -> None:
        """Without labels, a prediction is text, or a backend that only classifies refuses."""
        if not reopened_backend.capabilities.can_predict:
            pytest.skip("not declared")
        prompts = self._prompts()[:2]
        try:
            predictions = reopened_backend.predict(self._model(completed_run), prompts, PredictOptions(max_tokens=2))
        except BackendError as error:
            if error.failure.kind is not FailureKind.USER:
                raise
            return
        assert [type(prediction.text) for prediction in predictions] == [str] * len(prompts)
        assert [prediction.label_logprobs for prediction in predictions] == [None] * len(prompts)

    def test_predict_refuses_an_unknown_model(self, backend: Backend) -> None:
        """Predicting with a model that does not exist raises BackendError."""
        if not backend.capabilities.can_predict:
            pytest.skip("not declared")
        with pytest.raises(BackendError):
            backend.predict("no-such-model-anywhere", self._prompts()[:1], PredictOptions(labels=LABELS))

    def _prompts(self) -> list[dict[str, Any]]:
        lines = Path(self._dataset.valid.path).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines][:5]

    @staticmethod
    def _model(run: CompletedRun) -> str:
        end = run.events[-1]
        assert isinstance(end, Finished)
        return end.model
