"""Backends that each break one promise. The docstring names the test of the contract suite that must notice."""

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
    Handle,
    Measured,
    Prediction,
    Queued,
    Started,
)
from backends.fake import FakeBackend, FakeOptions
from backends.testing import BackendContract

USER = FailureKind.USER


class Defect(BackendContract):
    base_model = "fake-small"
    timeout_s = 3

    def options(self):
        return {"events_per_poll": 1}


class Sieve(FakeBackend):
    """Lets `change` alter the stream of events, and stays repeatable in that."""

    def events(self, handle, after):
        return self.change(list(super().events(handle, 0)))[after:]

    def change(self, events):
        return events


class Deaf(FakeBackend):
    """Lets requests through that contain what `ignored` names."""

    ignored = ""

    def check(self, request):
        return [each for each in super().check(request) if self.ignored not in each.message]


class TestLaxOptions(Defect):
    """test_options_forbid_unknown_keys"""

    class Broken(FakeBackend):
        class options_model(FakeOptions):  # noqa: N801
            model_config = ConfigDict(extra="ignore")

    backend_type = Broken


class TestHeavyDescription(Defect):
    """test_describe_is_cheap"""

    class Broken(FakeBackend):
        @classmethod
        def describe(cls, options):
            sys.modules["torch"] = sys
            return super().describe(options)

    backend_type = Broken


class TestWritingDescription(Defect):
    """test_describe_is_cheap"""

    class Broken(FakeBackend):
        @classmethod
        def describe(cls, options):
            with open("cache.txt", "w") as file:
                file.write("side effect")
            return super().describe(options)

    backend_type = Broken


class TestOtherCapabilitiesWhenOpen(Defect):
    """test_describe_equals_the_opened_capabilities"""

    class Broken(FakeBackend):
        def __init__(self, options, service):
            super().__init__(options, service)
            self.capabilities = dataclasses.replace(self.capabilities, priced=True)

    backend_type = Broken


class TestDefaultOutOfBounds(Defect):
    """test_capabilities_are_consistent"""

    class Broken(FakeBackend):
        @classmethod
        def describe(cls, options):
            capabilities = super().describe(options)
            first, *others = capabilities.hyperparameters
            return dataclasses.replace(capabilities, hyperparameters=(dataclasses.replace(first, default=99), *others))

    backend_type = Broken


class TestFussy(Defect):
    """test_a_good_request_passes_the_check"""

    class Broken(FakeBackend):
        def check(self, request):
            return [Failure(USER, "I do not like it")]

    backend_type = Broken


class TestAnyModel(Defect):
    """test_a_bad_model_fails_the_check"""

    class Broken(Deaf):
        ignored = "no model"

    backend_type = Broken


class TestAnyFile(Defect):
    """test_missing_data_fails_the_check"""

    class Broken(Deaf):
        ignored = "does not exist"

    backend_type = Broken


class TestDropsHyperparameters(Defect):
    """test_an_unknown_hyperparameter_is_refused"""

    class Broken(Deaf):
        ignored = "is not a hyperparameter"

    backend_type = Broken


class TestDropsHyperparametersOnSubmit(Defect):
    """test_an_unknown_hyperparameter_is_refused"""

    class Broken(FakeBackend):
        def submit(self, request):
            known = {
                name: value for name, value in request.hyperparameters.items() if self.capabilities.hyperparameter(name)
            }
            return super().submit(dataclasses.replace(request, hyperparameters=known))

    backend_type = Broken


class TestIgnoresBounds(Defect):
    """test_wrong_values_are_refused"""

    class Broken(Deaf):
        ignored = "is above"

    backend_type = Broken


class TestTakesNotANumber(Defect):
    """test_wrong_values_are_refused"""

    class Broken(Deaf):
        ignored = "nan"

    backend_type = Broken


class TestTakesBothRates(Defect):
    """test_hyperparameters_that_exclude_each_other_are_refused"""

    class Broken(Deaf):
        ignored = "together"

    backend_type = Broken


class TestTakesAnyMetric(Defect):
    """test_what_is_not_declared_is_refused"""

    class Broken(Deaf):
        ignored = "keep_metric"

    backend_type = Broken


class TestIgnoresResumption(Defect):
    """test_what_is_not_declared_is_refused"""

    class Broken(Deaf):
        ignored = "resume_from"

    backend_type = Broken


class TestEstimateFromNowhere(Defect):
    """test_estimate_says_its_basis"""

    class Broken(FakeBackend):
        def estimate(self, request):
            return Estimate(tokens=1, seconds=1.0, usd=None, disk_bytes=None, basis="")

    backend_type = Broken


class TestChangeableEstimate(Defect):
    """test_check_and_estimate_change_nothing"""

    class Broken(FakeBackend):
        counter = itertools.count()

        def estimate(self, request):
            return dataclasses.replace(super().estimate(request), tokens=next(self.counter))

    backend_type = Broken


class TestOneRunForAll(Defect):
    """test_submit_is_idempotent"""

    class Broken(FakeBackend):
        def submit(self, request):
            return super().submit(dataclasses.replace(request, key="the only one"))

    backend_type = Broken


class TestARunEachTime(Defect):
    """test_an_ended_run_is_adopted"""

    class Broken(FakeBackend):
        counter = itertools.count()

        def submit(self, request):
            return super().submit(dataclasses.replace(request, key=f"{request.key} {next(self.counter)}"))

    backend_type = Broken


class TestKnowsEveryRun(Defect):
    """test_an_unknown_run_is_lost"""

    class Broken(FakeBackend):
        def events(self, handle, after):
            try:
                return super().events(handle, after)
            except BackendError:
                return []

    backend_type = Broken


class TestTalksAfterTheEnd(Defect):
    """test_a_run_ends_once"""

    class Broken(Sieve):
        def change(self, events):
            return [*events, Finished("again")] if isinstance(events[-1], Finished) else events

    backend_type = Broken


class TestIgnoresTheCursor(Defect):
    """test_events_are_repeatable"""

    class Broken(FakeBackend):
        def events(self, handle, after):
            found = super().events(handle, after)
            return found or super().events(handle, 0)

    backend_type = Broken


class TestGoesBack(Defect):
    """test_events_are_ordered"""

    class Broken(Sieve):
        def change(self, events):
            back = [Checkpointed(0, 0.0, "a late one")]
            return [each for event in events for each in ([*back, event] if isinstance(event, Finished) else [event])]

    backend_type = Broken


class TestStartsLate(Defect):
    """test_events_are_ordered"""

    class Broken(Sieve):
        def change(self, events):
            return [each for each in events if not isinstance(each, Started)]

    backend_type = Broken


class TestTuplesInEvents(Defect):
    """test_events_survive_json"""

    class Broken(Sieve):
        def change(self, events):
            return [Started({1: 2}) if isinstance(each, Started) else each for each in events]

    backend_type = Broken


class TestSilentChange(Defect):
    """test_started_says_what_is_used"""

    class Broken(Sieve):
        def change(self, events):
            return [Started({**each.resolved, "n_epochs": 3}) if isinstance(each, Started) else each for each in events]

    backend_type = Broken


class TestSkipsAnEpoch(Defect):
    """test_every_epoch_is_evaluated"""

    class Broken(Sieve):
        def change(self, events):
            return [each for each in events if not (isinstance(each, Measured) and each.epoch == 1)]

    backend_type = Broken


class TestOnlyAtEpochEnds(Defect):
    """test_evaluations_within_an_epoch"""

    class Broken(Sieve):
        def change(self, events):
            return [each for each in events if not (isinstance(each, Measured) and each.epoch % 1)]

    backend_type = Broken


class TestUndeclaredMetric(Defect):
    """test_metrics_are_those_declared"""

    class Broken(Sieve):
        def change(self, events):
            return [
                dataclasses.replace(each, values={**each.values, "valid_charm": 1.0})
                if isinstance(each, Measured)
                else each
                for each in events
            ]

    backend_type = Broken


class TestLabelsWithoutLabels(Defect):
    """test_label_metrics_need_labels"""

    class Broken(Sieve):
        def change(self, events):
            return [
                dataclasses.replace(each, values={**each.values, "valid_accuracy": 1.0})
                if isinstance(each, Measured)
                else each
                for each in events
            ]

    backend_type = Broken


class TestInventsAPrice(Defect):
    """test_charges_are_known_where_priced"""

    class Broken(Sieve):
        def change(self, events):
            return [Charged(0.0, each.tokens) if isinstance(each, Charged) else each for each in events]

    backend_type = Broken


class TestForgetsWithItsClient(Defect):
    """test_a_run_survives_its_client"""

    class Broken(FakeBackend):
        def __init__(self, options, service):
            super().__init__(options, service)
            self.mine = set()

        def submit(self, request):
            handle = super().submit(request)
            self.mine.add(handle)
            return handle

        def events(self, handle, after):
            if handle not in self.mine:
                raise BackendError(Failure(FailureKind.LOST, "another client's run"))
            return super().events(handle, after)

    backend_type = Broken


class TestUnseeded(Defect):
    """test_the_same_seed_gives_the_same_measurements"""

    class Broken(FakeBackend):
        def submit(self, request):
            return super().submit(dataclasses.replace(request, seed=random.randrange(2**30)))

    backend_type = Broken


class TestIgnoresTheSeed(Defect):
    """test_the_same_seed_gives_the_same_measurements"""

    class Broken(FakeBackend):
        def submit(self, request):
            return super().submit(dataclasses.replace(request, seed=0))

    backend_type = Broken


class Unstoppable(FakeBackend):
    def stop(self, handle):
        self.events(handle, 0)


class TestDoesNotStopBeforeTheStart(Defect):
    """test_stop_before_the_start"""

    backend_type = Unstoppable


class TestDoesNotStopInTheMiddle(Defect):
    """test_stop_in_the_middle"""

    backend_type = Unstoppable


class TestStopsTheEnded(Defect):
    """test_stopping_an_ended_run_changes_nothing"""

    class Broken(Sieve):
        stopped = False

        def stop(self, handle):
            self.stopped = True

        def change(self, events):
            return events[:-1] if self.stopped else events

    backend_type = Broken


class TestDiscardsTheRecord(Defect):
    """test_discard_keeps_the_events"""

    class Broken(Sieve):
        discarded = False

        def discard(self, handle):
            self.discarded = True

        def change(self, events):
            return [Queued()] if self.discarded else events

    backend_type = Broken


class TestKeepsTheModel(Defect):
    """test_discard_keeps_the_events"""

    class Broken(FakeBackend):
        def discard(self, handle):
            pass

    backend_type = Broken


class TestAnswersInAnyOrder(Defect):
    """test_predict_labels"""

    class Broken(FakeBackend):
        def predict(self, model, prompts, options):
            return sorted(super().predict(model, prompts, options), key=str)

    backend_type = Broken


class TestReadsTheAnswer(Defect):
    """test_predict_labels"""

    class Broken(FakeBackend):
        def predict(self, model, prompts, options):
            if options.labels is None:
                return super().predict(model, prompts, options)
            right = [options.labels.index(each["completion"]) for each in prompts]
            scores = [
                tuple(math.log(0.8 if n == label else 0.1) for n in range(len(options.labels))) for label in right
            ]
            return [Prediction(options.labels[n], each) for n, each in zip(right, scores, strict=True)]

    backend_type = Broken


class TestLogprobsForNothing(Defect):
    """test_predict_text"""

    class Broken(FakeBackend):
        def predict(self, model, prompts, options):
            return [Prediction("text", (0.0,)) for _ in prompts]

    backend_type = Broken


class TestAnswersForAnybody(Defect):
    """test_predict_with_an_unknown_model"""

    class Broken(FakeBackend):
        def predict(self, model, prompts, options):
            return super().predict("fake-small", prompts, options)

    backend_type = Broken


class TestNoBackend(Defect):
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
