"""What is given away of a host's model, and of which hosts nothing is."""

from __future__ import annotations

import json

import pytest

from backends.contract import BackendError, DataFile, Dataset
from backends.hosted.options import AzureDeployment, HostedOptions
from backends.hosted.packaging import package

pytestmark = pytest.mark.unit

NO_FILE = DataFile("none", 0, "")
DATA = Dataset(NO_FILE, NO_FILE, "completion", (" yes\n", " no\n"), "\n")


def test_a_chat_model_is_asked_with_messages() -> None:
    options = HostedOptions(model="gpt-4.1-mini-2025-04-14", system_message="Be brief.", organization="org-1")
    given = package("ft:gpt-4.1-mini:x", options.model, DATA, options)
    assert given.settings["chat"] is True
    assert given.settings["alternatives"] == options.profile.inference.chat_alternatives
    assert given.settings["key_name"] == "OPENAI_API_KEY"
    assert given.settings["extra_headers"] == {"OpenAI-Organization": "org-1"}
    assert given.settings["extra_body"] == {}
    assert json.loads(json.dumps(given.settings))["system_message"] == "Be brief."


def test_our_own_server_continues_texts_and_is_told_the_labels() -> None:
    options = HostedOptions(host="local", model="tiny-lm")
    given = package("ft:tiny-lm:local::1", options.model, DATA, options)
    assert given.settings["chat"] is False
    assert given.settings["needs_key"] is False
    assert given.settings["extra_body"] == {"labels": [" yes\n", " no\n"]}
    assert given.requirements == ("openai",)


def test_a_model_that_must_be_deployed_is_not_given_away() -> None:
    deployment = AzureDeployment(subscription="s", resource_group="g", account="a")
    options = HostedOptions(host="azure", model="m", base_url="https://a.example/openai/v1", deployment=deployment)
    with pytest.raises(BackendError, match="only while they are deployed"):
        package("ft:m", "m", DATA, options)
