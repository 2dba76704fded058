"""Packages of hosted models, and the hosts whose models cannot be packaged."""

from __future__ import annotations

import json

import pytest

from backends.contract import BackendError, DataFile, Dataset, Decoding
from backends.hosted.options import AzureDeployment, HostedOptions
from backends.hosted.packaging import package

pytestmark = pytest.mark.unit

NO_FILE = DataFile("none", 0, "")
DATA = Dataset(NO_FILE, NO_FILE, "completion", (" yes\n", " no\n"), "\n")


def test_a_chat_model_is_packaged_for_messages() -> None:
    options = HostedOptions(model="gpt-4.1-mini-2025-04-14", system_message="Be brief.", organization="org-1")
    packaged = package("ft:gpt-4.1-mini:x", options.model, DATA, options, Decoding())
    assert packaged.settings["chat"] is True
    assert packaged.settings["alternatives"] == options.profile.inference.chat_alternatives
    assert packaged.settings["key_name"] == "OPENAI_API_KEY"
    assert packaged.settings["extra_headers"] == {"OpenAI-Organization": "org-1"}
    assert packaged.settings["extra_body"] == {}
    assert json.loads(json.dumps(packaged.settings))["system_message"] == "Be brief."


def test_a_model_of_our_own_server_is_packaged_for_texts_with_its_labels() -> None:
    options = HostedOptions(host="local", model="tiny-lm")
    packaged = package("ft:tiny-lm:local::1", options.model, DATA, options, Decoding())
    assert packaged.settings["chat"] is False
    assert packaged.settings["needs_key"] is False
    assert packaged.settings["extra_body"] == {"labels": [" yes\n", " no\n"]}
    assert packaged.requirements == ("openai",)


def test_a_model_that_needs_a_deployment_cannot_be_packaged() -> None:
    deployment = AzureDeployment(subscription="s", resource_group="g", account="a")
    options = HostedOptions(host="azure", model="m", base_url="https://a.example/openai/v1", deployment=deployment)
    with pytest.raises(BackendError, match="only while they are deployed"):
        package("ft:m", "m", DATA, options, Decoding())
