"""Hosts as data: complete, sourced, and the options that go with them."""

from __future__ import annotations

import tomllib
from datetime import date
from importlib import resources
from pathlib import Path

import pytest
from pydantic import ValidationError

from backends.hosted import HostedBackend, profile
from backends.hosted.options import HostedOptions
from backends.hosted.profile import JobStatus, Profile, Sourced
from backends.local import hyperparameters as local
from sweeps.errors import UserInputError
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import read

pytestmark = pytest.mark.unit

HOSTS = profile.names()


def options(**values: object) -> HostedOptions:
    return HostedOptions.model_validate({"model": "m", **values})


def sourced(host: Profile) -> list[Sourced]:
    tables: list[Sourced] = [host.files, host.metrics, host.jobs, host.inference]
    tables += [] if host.auto_epochs == "unknown" else [host.auto_epochs]
    return [*tables, *host.hyperparameters, *host.prices]


def test_the_hosts_are_known() -> None:
    assert set(HOSTS) == {"openai", "azure", "azure-legacy", "nebius", "local", "compatible"}


@pytest.mark.parametrize("name", HOSTS)
def test_everything_has_a_source_and_a_date(name: str) -> None:
    host = profile.load(name)
    for table in sourced(host):
        assert host.source_of(table)
        assert (table.as_of or host.as_of) >= date(2026, 1, 1)
    assert all(each.source and each.as_of for each in host.prices), "a price says itself where it is from"


@pytest.mark.parametrize("name", HOSTS)
def test_each_host_can_be_described(name: str) -> None:
    address = {} if profile.load(name).base_url else {"base_url": "https://example.invalid/v1"}
    described = HostedBackend.describe(options(host=name, **address))
    assert described.hyperparameter("n_epochs") is not None
    assert not described.in_process
    assert "valid_loss" in described.metrics
    assert described.max_concurrent is not None, "the limit of an account is never left open"


@pytest.mark.parametrize("name", HOSTS)
def test_the_standing_of_each_status(name: str) -> None:
    host = profile.load(name)
    assert host.standing("succeeded") is JobStatus.SUCCEEDED
    assert host.standing("paused") is JobStatus.PAUSED
    for unknown in ("moderating", "", None, "PREEMPTED"):
        assert host.standing(unknown) is JobStatus.UNKNOWN
        assert not host.standing(unknown).is_end


def test_no_code_asks_for_a_host_by_name() -> None:
    for each in resources.files("backends.hosted").iterdir():
        if each.name.endswith(".py"):
            text = each.read_text(encoding="utf-8")
            for name in HOSTS:
                assert f'== "{name}"' not in text, each.name


def test_the_server_takes_what_the_local_trainer_takes() -> None:
    served = {each.name: each.declared() for each in profile.load("local").hyperparameters}
    assert served == {each.name: each for each in local._ALL if each.name != "base_model"}
    assert set(profile.load("local").metrics.evaluation.values()) == set(local.capabilities("causal-lm").metrics)
    assert profile.load("local").metrics.label_metrics == local.LABEL_METRICS


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("gpt-4.1", 25.0),
        ("gpt-4.1-mini", 5.0),
        ("gpt-4.1-mini-2025-04-14", 5.0),
        ("gpt-4o-mini-2024-07-18", 3.0),
        ("gpt-4.1-mini-preview", None),
        ("gpt-5", None),
    ],
)
def test_a_dated_version_costs_what_its_model_costs(model: str, price: float | None) -> None:
    assert options(model=model).usd_per_million_tokens(model) == price
    assert options(model=model, price_per_million_tokens=7.0).usd_per_million_tokens(model) == 7.0


def test_azure_prices_are_not_those_of_openai() -> None:
    given = options(host="azure", base_url="https://r.openai.azure.com/openai/v1/", model="gpt-4.1")
    assert given.usd_per_million_tokens("gpt-4.1") is None
    assert not HostedBackend.describe(given).priced


LADDER = """\
name: ladder
data: {source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}"}
backend:
  type: hosted
  model: gpt-4.1-mini
  epoch_ladder: WRITTEN
space: {n_epochs: [1, 2]}
objective: {minimize: valid_loss}
"""


@pytest.mark.parametrize(
    ("written", "meant"),
    [("on", True), ("off", False), ("true", True), ("false", False), ('"on"', True), ("On", True), ("NO", False)],
)
def test_the_epoch_ladder_is_on_or_off_however_a_file_says_it(tmp_path: Path, written: str, meant: bool) -> None:
    """The reader's YAML is 1.2, where `on` is a word."""
    file = tmp_path / "ladder.yaml"
    file.write_text(LADDER.replace("WRITTEN", written))
    given = from_document(read(file)).backend_options
    assert isinstance(given, HostedOptions)
    assert given.epoch_ladder is meant


def test_an_epoch_ladder_that_is_neither_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "ladder.yaml"
    file.write_text(LADDER.replace("WRITTEN", "sometimes"))
    with pytest.raises(UserInputError) as caught:
        from_document(read(file))
    [problem] = caught.value.problems
    assert problem.place == f"{file}:6"
    assert "`backend.epoch_ladder`" in problem.message


def test_an_unknown_host_gets_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="did you mean openai"):
        options(host="openay")


@pytest.mark.parametrize(
    "address", ["example.invalid/v1", "ftp://x/v1", "https://me:secret@x/v1", "https://x/v1?key=secret"]
)
def test_an_address_holds_no_secret(address: str) -> None:
    with pytest.raises(ValidationError):
        options(base_url=address)


def test_the_option_for_the_key_is_a_name() -> None:
    with pytest.raises(ValidationError):
        options(api_key="sk-proj-this-is-a-key")
    assert options(api_key="MY_KEY").key_name == "MY_KEY"


def test_a_host_without_an_address_needs_one() -> None:
    for name in ("azure", "azure-legacy", "compatible"):
        with pytest.raises(ValidationError, match="needs a base_url"):
            options(host=name)


def test_only_what_differs_is_written_twice() -> None:
    text = resources.files("backends.hosted").joinpath("profiles", "azure-legacy.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["like"] == "azure"
    legacy, modern = profile.load("azure-legacy"), profile.load("azure")
    assert legacy.jobs == modern.jobs
    assert (legacy.client, modern.client) == ("AzureOpenAI", "OpenAI")


def test_predictions_at_azure_need_a_place_to_deploy() -> None:
    where = {"subscription": "s", "resource_group": "g", "account": "a"}
    address = "https://r.openai.azure.com/openai/v1/"
    assert not HostedBackend.describe(options(host="azure", base_url=address)).can_predict
    assert HostedBackend.describe(options(host="azure", base_url=address, deployment=where)).can_predict
