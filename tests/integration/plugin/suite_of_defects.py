"""Backends that each break one promise. The docstring names the contract test that must fail."""

import dataclasses
import itertools
import math
import random
import sys

from pydantic import BaseModel, ConfigDict

from backends.contract import (
    BackendError,
    Charged,
    Checkpointed,
    Estimate,
    Failure,
    FailureKind,
    Finished,
    Generated,
    Handle,
    Measured,
    Prediction,
    Queued,
    Started,
)
from backends.fake import FakeBackend, FakeOptions
from backends.testing import BackendContract

USER = FailureKind.USER


class DefectContract(BackendContract):
    base_model = "fake-small"
    timeout_s = 3

    def options(self):
        return {"events_per_poll": 1}


class ChangedEvents(FakeBackend):
    """Passes all events of a run through `change`, so that the changed events are repeatable."""

    def events(self, handle, after):
        return self.change(list(super().events(handle, 0)))[after:]

    def change(self, events):
        return events


class LaxCheck(FakeBackend):
    """Drops the failures of the check whose message contains `ignored`."""

    ignored = ""

    def check(self, request):
        return [failure for failure in super().check(request) if self.ignored not in failure.message]


class TestIgnoresUnknownOptions(DefectContract):
    """test_options_forbid_unknown_keys"""

    class Broken(FakeBackend):
        class options_model(FakeOptions):  # noqa: N801
            model_config = ConfigDict(extra="ignore")

    backend_type = Broken


class TestLoadsALibraryToDescribe(DefectContract):
    """test_describe_is_cheap"""

    class Broken(FakeBackend):
        @classmethod
        def describe(cls, options):
            sys.modules["torch"] = sys
            return super().describe(options)

    backend_type = Broken


class TestWritesAFileToDescribe(DefectContract):
    """test_describe_is_cheap"""

    class Broken(FakeBackend):
        @classmethod
        def describe(cls, options):
            with open("cache.txt", "w") as file:
                file.write("side effect")
            return super().describe(options)

    backend_type = Broken


class TestOpensWithOtherCapabilities(DefectContract):
    """test_describe_equals_the_opened_capabilities"""

    class Broken(FakeBackend):
        def __init__(self, options, service):
            super().__init__(options, service)
            self.capabilities = dataclasses.replace(self.capabilities, priced=True)

    backend_type = Broken


class TestDefaultOutOfBounds(DefectContract):
    """test_capabilities_are_consistent"""

    class Broken(FakeBackend):
        @classmethod
        def describe(cls, options):
            capabilities = super().describe(options)
            first, *others = capabilities.hyperparameters
            return dataclasses.replace(capabilities, hyperparameters=(dataclasses.replace(first, default=99), *others))

    backend_type = Broken


class TestRefusesValidRequests(DefectContract):
    """test_a_valid_request_passes_the_check"""

    class Broken(FakeBackend):
        def check(self, request):
            return [Failure(USER, "refused for no reason")]

    backend_type = Broken


class TestAcceptsAnyModel(DefectContract):
    """test_an_unknown_model_fails_the_check"""

    class Broken(LaxCheck):
        ignored = "no model"

    backend_type = Broken


class TestAcceptsAnyFile(DefectContract):
    """test_missing_data_fails_the_check"""

    class Broken(LaxCheck):
        ignored = "does not exist"

    backend_type = Broken


class TestDropsHyperparameters(DefectContract):
    """test_an_unknown_hyperparameter_is_refused"""

    class Broken(LaxCheck):
        ignored = "is not a hyperparameter"

    backend_type = Broken


class TestDropsHyperparametersOnSubmit(DefectContract):
    """test_an_unknown_hyperparameter_is_refused"""

    class Broken(FakeBackend):
        def submit(self, request):
            known = {
                name: value for name, value in request.hyperparameters.items() if self.capabilities.hyperparameter(name)
            }
            return super().submit(dataclasses.replace(request, hyperparameters=known))

    backend_type = Broken


class TestIgnoresBounds(DefectContract):
    """test_invalid_values_are_refused"""

    class Broken(LaxCheck):
        ignored = "is above"

    backend_type = Broken


class TestAcceptsNotANumber(DefectContract):
    """test_invalid_values_are_refused"""

    class Broken(LaxCheck):
        ignored = "nan"

    backend_type = Broken


class TestAcceptsBothRates(DefectContract):
    """test_hyperparameters_that_exclude_each_other_are_refused"""

    class Broken(LaxCheck):
        ignored = "together"

    backend_type = Broken


class TestAcceptsAnyMetric(DefectContract):
    """test_a_request_beyond_the_capabilities_is_refused"""

    class Broken(LaxCheck):
        ignored = "keep_metric"

    backend_type = Broken


class TestIgnoresResumption(DefectContract):
    """test_a_request_beyond_the_capabilities_is_refused"""

    class Broken(LaxCheck):
        ignored = "resume_from"

    backend_type = Broken


class TestEstimatesWithoutABasis(DefectContract):
    """test_an_estimate_states_its_basis"""

    class Broken(FakeBackend):
        def estimate(self, request):
            return Estimate(tokens=1, seconds=1.0, usd=None, disk_bytes=None, basis="")

    backend_type = Broken


class TestChangesItsEstimate(DefectContract):
    """test_check_and_estimate_change_nothing"""

    class Broken(FakeBackend):
        counter = itertools.count()

        def estimate(self, request):
            return dataclasses.replace(super().estimate(request), tokens=next(self.counter))

    backend_type = Broken


class TestOneRunForAll(DefectContract):
    """test_submit_is_idempotent"""

    class Broken(FakeBackend):
        def submit(self, request):
            return super().submit(dataclasses.replace(request, key="the only one"))

    backend_type = Broken


class TestStartsARunAtEachSubmit(DefectContract):
    """test_an_ended_run_is_adopted"""

    class Broken(FakeBackend):
        counter = itertools.count()

        def submit(self, request):
            return super().submit(dataclasses.replace(request, key=f"{request.key} {next(self.counter)}"))

    backend_type = Broken


class TestKnowsEveryRun(DefectContract):
    """test_an_unknown_run_is_lost"""

    class Broken(FakeBackend):
        def events(self, handle, after):
            try:
                return super().events(handle, after)
            except BackendError:
                return []

    backend_type = Broken


class TestReportsEventsAfterTheEnd(DefectContract):
    """test_a_run_ends_once"""

    class Broken(ChangedEvents):
        def change(self, events):
            return [*events, Finished("again")] if isinstance(events[-1], Finished) else events

    backend_type = Broken


class TestIgnoresTheCursor(DefectContract):
    """test_events_are_repeatable"""

    class Broken(FakeBackend):
        def events(self, handle, after):
            return super().events(handle, after) or super().events(handle, 0)

    backend_type = Broken


class TestDecreasesTheStep(DefectContract):
    """test_events_are_ordered"""

    class Broken(ChangedEvents):
        def change(self, events):
            *others, last = events
            return [*others, Checkpointed(0, 0.0, "late"), last] if isinstance(last, Finished) else events

    backend_type = Broken


class TestNeverStarts(DefectContract):
    """test_events_are_ordered"""

    class Broken(ChangedEvents):
        def change(self, events):
            return [event for event in events if not isinstance(event, Started)]

    backend_type = Broken


class TestKeysThatAreNotText(DefectContract):
    """test_events_survive_json"""

    class Broken(ChangedEvents):
        def change(self, events):
            return [Started({1: 2}) if isinstance(event, Started) else event for event in events]

    backend_type = Broken


class TestReportsOtherValuesThanRequested(DefectContract):
    """test_started_reports_the_values_in_use"""

    class Broken(ChangedEvents):
        def change(self, events):
            return [
                Started({**event.resolved, "n_epochs": 3}) if isinstance(event, Started) else event for event in events
            ]

    backend_type = Broken


class TestSkipsAnEpoch(DefectContract):
    """test_every_epoch_is_evaluated"""

    class Broken(ChangedEvents):
        def change(self, events):
            return [event for event in events if not (isinstance(event, Measured) and event.epoch == 1)]

    backend_type = Broken


class TestEvaluatesOnlyAtEpochEnds(DefectContract):
    """test_evaluations_within_an_epoch"""

    class Broken(ChangedEvents):
        def change(self, events):
            return [event for event in events if not (isinstance(event, Measured) and event.epoch % 1)]

    backend_type = Broken


class TestReportsAnUndeclaredMetric(DefectContract):
    """test_evaluations_carry_the_declared_metrics"""

    class Broken(ChangedEvents):
        def change(self, events):
            return [
                dataclasses.replace(event, values={**event.values, "valid_charm": 1.0})
                if isinstance(event, Measured)
                else event
                for event in events
            ]

    backend_type = Broken


class TestReportsLabelMetricsWithoutLabels(DefectContract):
    """test_label_metrics_need_labels"""

    class Broken(ChangedEvents):
        def change(self, events):
            return [
                dataclasses.replace(event, values={**event.values, "valid_accuracy": 1.0})
                if isinstance(event, Measured)
                else event
                for event in events
            ]

    backend_type = Broken


class TestInventsAPrice(DefectContract):
    """test_only_a_priced_backend_reports_costs"""

    class Broken(ChangedEvents):
        def change(self, events):
            return [Charged(0.0, event.tokens) if isinstance(event, Charged) else event for event in events]

    backend_type = Broken


class TestForgetsRunsOfOtherClients(DefectContract):
    """test_a_run_survives_its_client"""

    class Broken(FakeBackend):
        def __init__(self, options, service):
            super().__init__(options, service)
            self.own_handles = set()

        def submit(self, request):
            handle = super().submit(request)
            self.own_handles.add(handle)
            return handle

        def events(self, handle, after):
            if handle not in self.own_handles:
                raise BackendError(Failure(FailureKind.LOST, "another client's run"))
            return super().events(handle, after)

    backend_type = Broken


class TestTrainsWithARandomSeed(DefectContract):
    """test_the_same_seed_gives_the_same_measurements"""

    class Broken(FakeBackend):
        def submit(self, request):
            return super().submit(dataclasses.replace(request, seed=random.randrange(2**30)))

    backend_type = Broken


class TestIgnoresTheSeed(DefectContract):
    """test_the_same_seed_gives_the_same_measurements"""

    class Broken(FakeBackend):
        def submit(self, request):
            return super().submit(dataclasses.replace(request, seed=0))

    backend_type = Broken


class NeverStops(FakeBackend):
    def stop(self, handle):
        self.events(handle, 0)


class TestDoesNotStopBeforeTheStart(DefectContract):
    """test_a_run_can_be_stopped_before_its_start"""

    backend_type = NeverStops


class TestDoesNotStopInTheMiddle(DefectContract):
    """test_a_run_can_be_stopped_in_the_middle"""

    backend_type = NeverStops


class TestStopsAnEndedRun(DefectContract):
    """test_stopping_an_ended_run_changes_nothing"""

    class Broken(ChangedEvents):
        stopped = False

        def stop(self, handle):
            self.stopped = True

        def change(self, events):
            return events[:-1] if self.stopped else events

    backend_type = Broken


class TestDiscardsTheEvents(DefectContract):
    """test_discard_keeps_the_events"""

    class Broken(ChangedEvents):
        discarded = False

        def discard(self, handle):
            self.discarded = True

        def change(self, events):
            return [Queued()] if self.discarded else events

    backend_type = Broken


class TestKeepsTheModel(DefectContract):
    """test_discard_keeps_the_events"""

    class Broken(FakeBackend):
        def discard(self, handle):
            pass

    backend_type = Broken


class TestShowsNoTexts(DefectContract):
    """test_task_metrics_are_measured_on_generated_texts"""

    class Broken(ChangedEvents):
        def change(self, events):
            return [event for event in events if not isinstance(event, Generated)]

    backend_type = Broken


class TestPredictsInAnyOrder(DefectContract):
    """test_predict_scores_labels"""

    class Broken(FakeBackend):
        def predict(self, model, prompts, options):
            return sorted(super().predict(model, prompts, options), key=str)

    backend_type = Broken


class TestReadsTheCompletion(DefectContract):
    """test_predict_scores_labels"""

    class Broken(FakeBackend):
        def predict(self, model, prompts, options):
            if options.labels is None:
                return super().predict(model, prompts, options)
            correct = [options.labels.index(prompt["completion"]) for prompt in prompts]
            scores = [
                tuple(math.log(0.8 if n == label else 0.1) for n in range(len(options.labels))) for label in correct
            ]
            return [Prediction(options.labels[n], logprobs) for n, logprobs in zip(correct, scores, strict=True)]

    backend_type = Broken


class TestReportsLogprobsOfGeneratedText(DefectContract):
    """test_predict_generates_text"""

    class Broken(FakeBackend):
        def predict(self, model, prompts, options):
            return [Prediction("text", (0.0,)) for _ in prompts]

    backend_type = Broken


class TestPredictsWithAnyModel(DefectContract):
    """test_predict_refuses_an_unknown_model"""

    class Broken(FakeBackend):
        def predict(self, model, prompts, options):
            return super().predict("fake-small", prompts, options)

    backend_type = Broken


class TestLacksMethods(DefectContract):
    """test_describe_equals_the_opened_capabilities"""

    class Broken:
        options_model: type[BaseModel] = FakeOptions

        def __init__(self, capabilities):
            self.capabilities = capabilities

        @classmethod
        def describe(cls, options):
            return FakeBackend.describe(options)

        @classmethod
        def open(cls, options, workspace, placement):
            return cls(cls.describe(options))

        def submit(self, request):
            return Handle("none", request.key)

        def close(self):
            pass

    backend_type = Broken
