"""Models that answer only while they are deployed."""

from __future__ import annotations

import pytest
from hosted_world import AZURE, LABELS, HostedWorld, evaluations
from scripted_host import KEY, change_behaviour

from backends.contract import BackendError, FailureKind, Finished, PredictOptions

pytestmark = pytest.mark.integration


def deployments_made(world: HostedWorld) -> int:
    return sum(
        operation.startswith("PUT subscriptions/s/resourceGroups/g/providers/") for operation in world.host.operations
    )


def test_a_model_is_deployed_for_its_queries_and_not_longer(world: HostedWorld) -> None:
    change_behaviour(world.host, needs_deployment=True)
    world.host.deployment_polls = 3
    backend = world.open(host="azure", base_url="http://host/v1", deployment=AZURE)
    events = world.complete(backend)
    assert isinstance(events[-1], Finished)
    assert "valid_accuracy" in evaluations(events)[-1].values
    assert deployments_made(world) == 1
    assert world.host.deployments == {}, "it ends with the last prompt of the evaluation"
    options = PredictOptions(labels=LABELS)
    answers = backend.predict(events[-1].model, [{"prompt": "something else"}], options)
    assert all(answer.text in LABELS for answer in answers)
    assert (deployments_made(world), len(world.host.deployments)) == (2, 1)
    backend.predict(events[-1].model, [{"prompt": "a third"}], options)
    assert deployments_made(world) == 2
    backend.close()
    assert world.host.deployments == {}


def test_without_deployment_settings_models_are_not_evaluated(world: HostedWorld) -> None:
    change_behaviour(world.host, needs_deployment=True)
    backend = world.open(host="azure", base_url="http://host/v1")
    assert not {"valid_accuracy"} & set(backend.capabilities.metrics)
    assert isinstance(world.complete(backend)[-1], Finished)
    assert world.host.prediction_requests == []


def test_the_deployment_of_a_killed_process_is_listed(world: HostedWorld) -> None:
    backend = world.open(host="azure", base_url="http://host/v1", deployment=AZURE, ask_labels=False)
    handle = backend.submit(world.request())
    end = world.drain(backend, handle)[-1]
    assert isinstance(end, Finished)
    backend.predict(end.model, world.prompts, PredictOptions(labels=LABELS))
    successor = world.open(host="azure", base_url="http://host/v1", deployment=AZURE)
    assert next(iter(successor.cleanup.leftovers(["k"]))).kind == "deployment"
    successor.discard(handle)
    assert world.host.deployments == {}


def test_a_wrong_management_token_is_a_user_error_and_stays_secret(world: HostedWorld) -> None:
    secrets = {"AZURE_OPENAI_API_KEY": KEY, "AZURE_MANAGEMENT_TOKEN": "another-token"}
    backend = world.open(host="azure", base_url="http://host/v1", deployment=AZURE, secrets=secrets)
    with pytest.raises(BackendError) as raised:
        backend.predict("base-chat", world.prompts, PredictOptions(labels=LABELS))
    assert raised.value.failure.kind is FailureKind.USER
    assert "another-token" not in str(raised.value.failure)
