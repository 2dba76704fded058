"""What a backend promises, as tests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import subprocess
import sys
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
    EvaluationSettings,
    Event,
    Failed,
    Failure,
    FailureKind,
    Finished,
    Handle,
    Measured,
    PredictOptions,
    Queued,
    Scalar,
    Started,
    Stopped,
    TrainingRequest,
)
from backends.testing.declarations import assert_consistent, some_value, wrong_values
from backends.testing.runs import CompleteRun, drain, ended, evaluations, read_until, written
from backends.testing.setting import LABELS, ContractSetting

HEAVY = ("torch", "transformers", "peft", "datasets", "ray", "mlflow", "optuna", "openai", "pandas", "sklearn")
"""What importing and describing a backend must not load."""


class BackendContract(ContractSetting):
    """What a backend promises. Override the hooks; add no `__init__`."""

    def with_hyperparameters(self, **changes: Scalar) -> TrainingRequest:
        """Return the good request under a new key with other hyperparameters."""
        return self.request_(self.key(), hyperparameters={**self.hyperparameters, **changes})

    def refusal(self, backend: Backend, request: TrainingRequest) -> Failure:
        """Return why a bad request is refused, when it is submitted or as the run's end."""
        try:
            handle = backend.submit(request)
            end = drain(backend, handle, self.timeout_s)[-1]
        except BackendError as error:
            return error.failure
        assert isinstance(end, Failed), f"a bad request ended with {end}"
        return end.failure

    # ------------------------------------------------------------------------------------------------------ description
    def test_options_forbid_unknown_keys(self) -> None:
        """A misspelt option is an error, never ignored."""
        with pytest.raises(ValidationError, match="no_such_option"):
            self.backend_type.options_model.model_validate({**self.options(), "no_such_option": 1})

    def test_describe_is_cheap(self, tmp_path: Path) -> None:
        """Importing and describing loads no heavy library, opens no connection and writes nothing."""
        where = {
            "path": sys.path,
            "module": self.backend_type.__module__,
            "name": self.backend_type.__qualname__,
            "options": dict(self.options()),
            "heavy": HEAVY,
        }
        done = subprocess.run(
            [sys.executable, "-B", "-c", _DESCRIBE],
            input=json.dumps(where),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [], "describing a backend has no side effect and loads nothing heavy"

    def test_describe_equals_the_opened_capabilities(self, backend: Backend) -> None:
        """What the plan was made with is what the run gets."""
        options = self.backend_type.options_model.model_validate(self.options())
        assert self.backend_type.describe(options) == backend.capabilities
        assert isinstance(backend, Backend)

    def test_capabilities_are_consistent(self, backend: Backend) -> None:
        """Names are unique, bounds and defaults agree, references resolve."""
        declared = backend.capabilities
        names = [each.name for each in declared.hyperparameters]
        assert len(names) == len(set(names))
        assert "n_epochs" in names
        for each in declared.hyperparameters:
            assert_consistent(each, declared)
        assert len(declared.metrics) == len(set(declared.metrics)) > 0
        assert set(declared.label_metrics) <= set(declared.metrics)
        assert all(name.startswith(("valid_", "train_")) for name in declared.metrics)
        assert declared.recommendation_scope
        assert declared.poll_s >= 0
        assert declared.max_concurrent is None or declared.max_concurrent >= 1

    # ----------------------------------------------------------------------------------------------- check and estimate
    def test_a_good_request_passes_the_check(self, backend: Backend) -> None:
        """Nothing is found where nothing is wrong."""
        assert list(backend.check(self.request_(self.key()))) == []

    def test_a_bad_model_fails_the_check(self, backend: Backend) -> None:
        """A model that is not there is found before anything is spent, and trying again would not help."""
        failures = backend.check(self.request_(self.key(), base_model="no-such-model-anywhere"))
        assert failures
        assert all(each.message and not each.kind.retryable for each in failures)

    def test_missing_data_fails_the_check(self, backend: Backend, tmp_path: Path, dataset: Dataset) -> None:
        """A data file that is gone is found before anything is spent."""
        gone = dataclasses.replace(dataset.train, path=str(tmp_path / "gone.jsonl"))
        request = self.request_(self.key(), dataset=dataclasses.replace(dataset, train=gone))
        assert [each.kind for each in backend.check(request)] == [FailureKind.USER]
        assert self.refusal(backend, request).kind is FailureKind.USER

    def test_an_unknown_hyperparameter_is_refused(self, backend: Backend) -> None:
        """A hyperparameter that the backend does not know is never silently dropped."""
        request = self.with_hyperparameters(no_such_hyperparameter=1)
        (failure,) = backend.check(request)
        assert failure.kind is FailureKind.USER
        assert "no_such_hyperparameter" in failure.message
        assert self.refusal(backend, request).kind is FailureKind.USER

    def test_wrong_values_are_refused(self, backend: Backend) -> None:
        """Every declared bound, type and choice holds."""
        for declared in backend.capabilities.hyperparameters:
            for value in wrong_values(declared):
                failures = backend.check(self.with_hyperparameters(**{declared.name: value}))
                assert failures, f"{declared.name}={value!r} passed the check"
                assert all(each.kind is FailureKind.USER for each in failures)
                assert any(declared.name in each.message for each in failures)
        assert self.refusal(backend, self.with_hyperparameters(n_epochs=0)).kind is FailureKind.USER

    def test_hyperparameters_that_exclude_each_other_are_refused(self, backend: Backend) -> None:
        """Two ways to say one thing are not both accepted."""
        for declared in backend.capabilities.hyperparameters:
            for other in declared.excludes:
                both = {name: some_value(backend.capabilities, name) for name in (declared.name, other)}
                failures = backend.check(self.with_hyperparameters(**both))
                assert any(each.kind is FailureKind.USER for each in failures), f"{both} passed the check"

    def test_what_is_not_declared_is_refused(self, backend: Backend) -> None:
        """A request beyond the capabilities is found by the check, never carried out differently."""
        declared = backend.capabilities
        beyond = [self.request_(self.key(), evaluation=EvaluationSettings(train_examples=8, keep_metric="no_such_metric"))]
        if not declared.evaluations_within_epoch:
            beyond.append(self.request_(self.key(), evaluation=EvaluationSettings(per_epoch=2, train_examples=8)))
        if not declared.can_resume:
            beyond.append(self.request_(self.key(), resume_from="a-model"))
        for request in beyond:
            failures = backend.check(request)
            assert [each.kind for each in failures] == [FailureKind.USER], f"{request} passed the check"

    def test_estimate_says_its_basis(self, backend: Backend) -> None:
        """Numbers are not negative, unknown ones are absent, and the price is known where one is declared."""
        request = self.request_(self.key())
        estimate = backend.estimate(request)
        assert estimate.basis
        assert all(
            value is None or value >= 0
            for value in (estimate.tokens, estimate.seconds, estimate.usd, estimate.disk_bytes)
        )
        assert (estimate.usd is not None) == backend.capabilities.priced
        for expected, bound in ((estimate.tokens, estimate.max_tokens), (estimate.usd, estimate.max_usd)):
            assert bound is None or (expected is not None and bound >= expected)

    def test_check_and_estimate_change_nothing(self, reopened: Backend, complete: CompleteRun) -> None:
        """Asking costs nothing: the same answer twice, the run and the data stay as they are."""
        digest = hashlib.sha256(Path(complete.request.dataset.train.path).read_bytes()).hexdigest()
        assert reopened.estimate(complete.request) == reopened.estimate(complete.request)
        assert list(reopened.check(complete.request)) == list(reopened.check(complete.request)) == []
        assert written(reopened.events(complete.handle, 0)) == written(complete.events)
        assert hashlib.sha256(Path(complete.request.dataset.train.path).read_bytes()).hexdigest() == digest

    # ----------------------------------------------------------------------------------------------------------- submit
    def test_submit_is_idempotent(self, backend: Backend) -> None:
        """A key is a run: the same key gives the same handle, from another instance too; another key another run."""
        first, second = self.request_(self.key()), self.request_(self.key())
        handle = backend.submit(first)
        assert backend.submit(codec.from_json(TrainingRequest, json.loads(json.dumps(codec.to_json(first))))) == handle
        assert backend.submit(second) != handle
        assert handle.backend
        assert codec.from_json(Handle, json.loads(json.dumps(codec.to_json(handle)))) == handle

    def test_an_ended_run_is_adopted(self, reopened: Backend, complete: CompleteRun) -> None:
        """Submitting the key of an ended run starts nothing, after a restart either."""
        assert reopened.submit(complete.request) == complete.handle
        assert written(drain(reopened, complete.handle, self.timeout_s)) == written(complete.events)

    def test_an_unknown_run_is_lost(self, backend: Backend) -> None:
        """A handle of a run that never was is said to be lost."""
        handle = backend.submit(self.request_(self.key()))
        unknown = dataclasses.replace(handle, id="no-such-run")
        with pytest.raises(BackendError) as raised:
            backend.events(unknown, 0)
        assert raised.value.failure.kind is FailureKind.LOST
        with pytest.raises(BackendError) as raised:
            backend.stop(unknown)
        assert raised.value.failure.kind is FailureKind.LOST

    # ----------------------------------------------------------------------------------------------------------- events
    def test_a_run_ends_once(self, complete: CompleteRun) -> None:
        """A good request finishes with a model, and its only terminal event is the last one."""
        assert [type(each) for each in complete.events if isinstance(each, TERMINAL_EVENTS)] == [Finished]
        assert isinstance(complete.events[-1], Finished)
        assert complete.events[-1].model

    def test_events_are_repeatable(self, reopened: Backend, complete: CompleteRun) -> None:
        """Any cursor gives the suffix, at every call, after a restart too."""
        for after in [*range(len(complete.events) + 1), 0]:
            assert written(reopened.events(complete.handle, after)) == written(complete.events[after:])
        assert list(reopened.events(complete.handle, len(complete.events) + 5)) == []

    def test_events_are_ordered(self, complete: CompleteRun) -> None:
        """The run is queued before it starts, starts before it measures, and never goes back."""
        kinds = [type(each) for each in complete.events]
        assert kinds.count(Started) == 1
        start = kinds.index(Started)
        assert Queued not in kinds[start:]
        assert not {Measured, Checkpointed} & set(kinds[:start])
        points = [each for each in complete.events if isinstance(each, Measured | Checkpointed)]
        assert [each.step for each in points] == sorted(each.step for each in points)
        assert [each.epoch for each in points] == sorted(each.epoch for each in points)

    def test_events_survive_json(self, complete: CompleteRun) -> None:
        """Every event can be written down and read again."""
        for event in complete.events:
            copy = codec.from_json(Event, json.loads(json.dumps(codec.to_json(event))))
            # by their text: two values that are not a number are not equal, and 1 is no key for JSON, but "1" is
            assert repr(copy) == repr(event)

    def test_started_says_what_is_used(self, complete: CompleteRun) -> None:
        """Each hyperparameter of the request is among the resolved values, unchanged."""
        (started,) = (each for each in complete.events if isinstance(each, Started))
        used = {name: started.resolved.get(name) for name in complete.request.hyperparameters}
        assert used == dict(complete.request.hyperparameters)
        assert all(type(value) in {bool, int, float, str} for value in started.resolved.values())

    def test_every_epoch_is_evaluated(self, complete: CompleteRun) -> None:
        """There is exactly one evaluation an epoch, at its end."""
        n_epochs = int(complete.request.hyperparameters["n_epochs"])
        assert [each.epoch for each in complete.evaluations] == list(range(1, n_epochs + 1))

    def test_evaluations_within_an_epoch(self, backend: Backend) -> None:
        """Where it is declared, an epoch is evaluated as often as asked for, the last time at its end."""
        if not backend.capabilities.evaluations_within_epoch:
            pytest.skip("not declared")
        request = self.request_(self.key(), evaluation=EvaluationSettings(per_epoch=2, train_examples=8))
        epochs = [each.epoch for each in evaluations(drain(backend, backend.submit(request), self.timeout_s))]
        n_epochs = int(request.hyperparameters["n_epochs"])
        assert epochs[1::2] == list(range(1, n_epochs + 1))
        assert [math.ceil(epoch) for epoch in epochs] == [n + 1 for n in range(n_epochs) for _ in range(2)]
        assert len(set(epochs)) == len(epochs)

    def test_metrics_are_those_declared(self, backend: Backend, complete: CompleteRun) -> None:
        """Evaluations carry the declared metrics, each of them at least once, as plain floats."""
        declared = backend.capabilities
        carried = {name for each in complete.evaluations for name in each.values}
        assert carried == set(declared.metrics) - (set() if self._dataset.labels else set(declared.label_metrics))
        assert all(complete.request.evaluation.keep_metric in each.values for each in complete.evaluations)
        measured = [each for each in complete.events if isinstance(each, Measured)]
        assert all(type(value) is float for each in measured for value in each.values.values())
        assert not any(set(each.values) & set(declared.metrics) for each in measured if each.scope == "step")

    def test_label_metrics_need_labels(self, backend: Backend, dataset: Dataset) -> None:
        """Without labels the label metrics are absent; a backend that needs labels refuses."""
        request = self.request_(self.key(), dataset=dataclasses.replace(dataset, labels=()))
        if failures := backend.check(request):
            assert {each.kind for each in failures} == {FailureKind.USER}
            return
        measured = evaluations(drain(backend, backend.submit(request), self.timeout_s))
        assert measured
        assert not any(set(each.values) & set(backend.capabilities.label_metrics) for each in measured)

    def test_charges_are_known_where_priced(self, backend: Backend, complete: CompleteRun) -> None:
        """A priced backend says what was spent; another one invents no price."""
        charges = [each for each in complete.events if isinstance(each, Charged)]
        assert all(each.tokens >= 0 and (each.usd is None or each.usd >= 0) for each in charges)
        if backend.capabilities.priced:
            assert any(each.usd is not None for each in charges)
        else:
            assert all(each.usd is None for each in charges)

    @pytest.mark.parametrize("closed", [True, False], ids=["closed", "abandoned"])
    def test_a_run_survives_its_client(self, tmp_path: Path, complete: CompleteRun, closed: bool) -> None:
        """A fresh instance sees the events of a run in progress and carries it to the same end."""
        client = self.open_backend(tmp_path)
        handle = client.submit(self.request_(self.key()))
        seen = read_until(client, handle, Measured, self.timeout_s)
        if closed:
            client.close()
        successor = self.open_backend(tmp_path)
        seen = drain(successor, handle, self.timeout_s, seen)
        assert written(successor.events(handle, 0)) == written(seen)
        successor.close()
        if not closed:
            client.close()
        self._assert_same_course(seen, complete.events)

    def test_the_same_seed_gives_the_same_measurements(self, tmp_path: Path, complete: CompleteRun) -> None:
        """Where it is promised, a run can be repeated exactly; another seed takes another course."""
        if not self.deterministic:
            pytest.skip("not promised")
        again = self.run(tmp_path / "again", self.request_(self.key()))
        self._assert_same_course(again.events, complete.events)
        other = self.run(tmp_path / "other", self.request_(self.key(), seed=8))
        assert written(other.evaluations) != written(complete.evaluations)

    def _assert_same_course(self, events: Sequence[Event], others: Sequence[Event]) -> None:
        assert isinstance(events[-1], Finished)
        mine, theirs = ([each for each in run if isinstance(each, Measured)] for run in (events, others))
        assert [each.epoch for each in evaluations(mine)] == [each.epoch for each in evaluations(theirs)]
        if self.deterministic:
            assert written(mine) == written(theirs)

    # --------------------------------------------------------------------------------------------------- stop, discard
    def test_stop_before_the_start(self, tmp_path: Path, backend: Backend) -> None:
        """A run can be stopped as soon as it is submitted, by another instance, and twice."""
        if not backend.capabilities.can_stop:
            pytest.skip("not declared")
        handle = backend.submit(self.with_hyperparameters(n_epochs=self.long_epochs or 1))
        other = self.open_backend(tmp_path / "workspace")
        other.stop(handle)
        other.stop(handle)
        assert isinstance(drain(other, handle, self.timeout_s)[-1], Stopped)
        other.close()

    def test_stop_in_the_middle(self, backend: Backend) -> None:
        """The events so far stay, the last one becomes Stopped, and stopping again changes nothing."""
        if not backend.capabilities.can_stop or self.long_epochs is None:
            pytest.skip("not declared")
        handle = backend.submit(self.with_hyperparameters(n_epochs=self.long_epochs))
        seen = read_until(backend, handle, Measured, self.timeout_s)
        assert not ended(seen), "raise `long_epochs`: the run ended before it could be stopped"
        backend.stop(handle)
        backend.stop(handle)
        seen = drain(backend, handle, self.timeout_s, seen)
        assert [type(each) for each in seen if isinstance(each, TERMINAL_EVENTS)] == [Stopped]
        assert max(each.epoch for each in seen if isinstance(each, Measured)) < self.long_epochs
        backend.stop(handle)
        assert written(backend.events(handle, 0)) == written(seen)

    def test_stopping_an_ended_run_changes_nothing(self, reopened: Backend, complete: CompleteRun) -> None:
        """A finished run stays finished."""
        if not reopened.capabilities.can_stop:
            pytest.skip("not declared")
        reopened.stop(complete.handle)
        assert written(reopened.events(complete.handle, 0)) == written(complete.events)

    def test_discard_keeps_the_events(self, tmp_path: Path) -> None:
        """Cleaning up twice is cleaning up once; the model is gone, the record stays."""
        run = self.run(tmp_path, self.request_(self.key()))
        backend = self.open_backend(tmp_path)
        backend.discard(run.handle)
        backend.discard(run.handle)
        assert written(backend.events(run.handle, 0)) == written(run.events)
        backend.close()
        backend = self.open_backend(tmp_path)
        assert written(backend.events(run.handle, 0)) == written(run.events)
        if backend.capabilities.can_predict:
            assert isinstance(run.events[-1], Finished)
            with pytest.raises(BackendError):
                backend.predict(run.events[-1].model, self._prompts(), PredictOptions(labels=self._dataset.labels))
        backend.close()

    # ---------------------------------------------------------------------------------------------------------- predict
    def test_predict_labels(self, reopened: Backend, complete: CompleteRun) -> None:
        """Answers come in the prompts' order, with each label's log-probability, and ignore the completions."""
        if not reopened.capabilities.can_predict or not self._dataset.labels:
            pytest.skip("not declared")
        prompts, options = self._prompts(), PredictOptions(labels=self._dataset.labels)
        model = self._model(complete)
        answers = reopened.predict(model, prompts, options)
        assert len(answers) == len(prompts)
        for each in answers:
            assert each.label_logprobs is not None
            assert len(each.label_logprobs) == len(self._dataset.labels)
            assert all(math.isfinite(value) and value <= 1e-6 for value in each.label_logprobs)
            assert each.text == self._dataset.labels[each.label_logprobs.index(max(each.label_logprobs))]
        disguised = [{**each, "completion": self._dataset.labels[0]} for each in reversed(prompts)]
        for each, other in zip(answers, reversed(reopened.predict(model, disguised, options)), strict=True):
            assert each.text == other.text
            # another order may mean another batch, and so another rounding
            assert each.label_logprobs == pytest.approx(other.label_logprobs, abs=1e-3)
        assert list(reopened.predict(model, [], options)) == []

    def test_predict_text(self, reopened: Backend, complete: CompleteRun) -> None:
        """Without labels the answer is text; a backend that can only classify refuses."""
        if not reopened.capabilities.can_predict:
            pytest.skip("not declared")
        prompts = self._prompts()[:2]
        try:
            answers = reopened.predict(self._model(complete), prompts, PredictOptions(max_tokens=2))
        except BackendError as error:
            if error.failure.kind is not FailureKind.USER:
                raise
            return
        assert [type(each.text) for each in answers] == [str] * len(prompts)
        assert [each.label_logprobs for each in answers] == [None] * len(prompts)

    def test_predict_with_an_unknown_model(self, backend: Backend) -> None:
        """A model that is not there is a failure, not an answer."""
        if not backend.capabilities.can_predict:
            pytest.skip("not declared")
        with pytest.raises(BackendError):
            backend.predict("no-such-model-anywhere", self._prompts()[:1], PredictOptions(labels=LABELS))

    def _prompts(self) -> list[dict[str, Any]]:
        lines = Path(self._dataset.valid.path).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines][:5]

    @staticmethod
    def _model(run: CompleteRun) -> str:
        end = run.events[-1]
        assert isinstance(end, Finished)
        return end.model


_DESCRIBE = """
import importlib, json, sys

where = json.load(sys.stdin)
sys.path[:] = where["path"]
found = []


def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir"):
        found.append(f"{event} {arguments!r}")
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+"):
        found.append(f"writes {arguments[0]!r}")


sys.addaudithook(watch)
backend = importlib.import_module(where["module"])
for name in where["name"].split("."):
    backend = getattr(backend, name)
backend.describe(backend.options_model.model_validate(where["options"]))
found += [f"imports {name}" for name in where["heavy"] if name in sys.modules]
print(json.dumps(found))
"""
