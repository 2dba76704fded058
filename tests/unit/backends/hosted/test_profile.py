"""Host profiles: complete, with sources, and the options that complement them."""

from __future__ import annotations

import tomllib
from datetime import date
from importlib import resources
from pathlib import Path

import pytest
from pydantic import ValidationError

from backends.hosted import HostedBackend, profile
from backends.hosted.options import HostedOptions
from backends.hosted.profile import JobStatus, Profile, SourcedTable
from backends.local import hyperparameters as local
from sweeps.errors import UserInputError
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import read

pytestmark = pytest.mark.unit

HOSTS = profile.names()


def options(**values: object) -> HostedOptions:
    return HostedOptions.model_validate({"model": "m", **values})


def sourced(host: Profile) -> list[SourcedTable]:
    tables: list[SourcedTable] = [host.files, host.metrics, host.jobs, host.inference]
    tables += [] if host.auto_epochs == "unknown" else [host.auto_epochs]
    return [*tables, *host.hyperparameters, *host.prices]


def test_the_set_of_hosts() -> None:
    assert set(HOSTS) == {"openai", "azure", "azure-legacy", "nebius", "local", "compatible"}


@pytest.mark.parametrize("name", HOSTS)
def test_every_table_has_a_source_and_a_date(name: str) -> None:
    host = profile.load(name)
    for table in sourced(host):
        assert host.source_of(table)
        assert (table.as_of or host.as_of) >= date(2026, 1, 1)
    assert all(price.source and price.as_of for price in host.prices), "a price has its own source"


@pytest.mark.parametrize("name", HOSTS)
def test_every_host_has_capabilities(name: str) -> None:
    address = {} if profile.load(name).base_url else {"base_url": "https://example.invalid/v1"}
    capabilities = HostedBackend.describe(options(host=name, **address))
    assert capabilities.hyperparameter("n_epochs") is not None
    assert not capabilities.in_process
    assert "valid_loss" in capabilities.metrics
    assert capabilities.max_concurrent is not None, "there is always a limit of concurrent jobs"


@pytest.mark.parametrize("name", HOSTS)
def test_statuses_are_translated_and_an_unknown_one_ends_nothing(name: str) -> None:
    host = profile.load(name)
    assert host.job_status("succeeded") is JobStatus.SUCCEEDED
    assert host.job_status("paused") is JobStatus.PAUSED
    for unknown in ("moderating", "", None, "PREEMPTED"):
        assert host.job_status(unknown) is JobStatus.UNKNOWN
        assert not host.job_status(unknown).is_final


def test_no_code_compares_the_name_of_a_host() -> None:
    for file in resources.files("backends.hosted").iterdir():
        if file.name.endswith(".py"):
            text = file.read_text(encoding="utf-8")
            for name in HOSTS:
                assert f'== "{name}"' not in text, file.name


def test_our_server_accepts_the_hyperparameters_of_the_local_trainer() -> None:
    declared = {
        hyperparameter.name: hyperparameter.declared() for hyperparameter in profile.load("local").hyperparameters
    }
    assert declared == {
        hyperparameter.name: hyperparameter for hyperparameter in local._ALL if hyperparameter.name != "base_model"
    }
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
def test_a_dated_version_has_the_price_of_its_model(model: str, price: float | None) -> None:
    assert options(model=model).usd_per_million_tokens(model) == price
    assert options(model=model, price_per_million_tokens=7.0).usd_per_million_tokens(model) == 7.0


def test_azure_does_not_inherit_the_prices_of_openai() -> None:
    azure = options(host="azure", base_url="https://r.openai.azure.com/openai/v1/", model="gpt-4.1")
    assert azure.usd_per_million_tokens("gpt-4.1") is None
    assert not HostedBackend.describe(azure).priced


SWEEP_FILE = """\
name: shared-jobs
data: {checks: quick, source: "builtin:nli", prompt: "{premise} {hypothesis}", completion: " {label}"}
backend:
  type: hosted
  model: gpt-4.1-mini
  epoch_ladder: WRITTEN
space: {n_epochs: [1, 2]}
objective: {minimize: valid_loss}
"""


@pytest.mark.parametrize(
    ("written", "expected"),
    [("on", True), ("off", False), ("true", True), ("false", False), ('"on"', True), ("On", True), ("NO", False)],
)
def test_the_option_epoch_ladder_accepts_every_spelling_of_on_and_off(
    tmp_path: Path, written: str, expected: bool
) -> None:
    """Our reader follows YAML 1.2, where `on` is a string."""
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP_FILE.replace("WRITTEN", written))
    backend_options = from_document(read(file)).backend_options
    assert isinstance(backend_options, HostedOptions)
    assert backend_options.epoch_ladder is expected


def test_any_other_value_of_epoch_ladder_is_an_error_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP_FILE.replace("WRITTEN", "sometimes"))
    with pytest.raises(UserInputError) as caught:
        from_document(read(file))
    [problem] = caught.value.problems
    assert problem.place == f"{file}:6"
    assert "`backend.epoch_ladder`" in problem.message


def test_the_error_for_an_unknown_host_suggests_the_nearest_name() -> None:
    with pytest.raises(ValidationError, match="Did you mean openai"):
        options(host="openay")


@pytest.mark.parametrize(
    "address", ["example.invalid/v1", "ftp://x/v1", "https://me:secret@x/v1", "https://x/v1?key=secret"]
)
def test_an_address_with_a_secret_is_an_error(address: str) -> None:
    with pytest.raises(ValidationError):
        options(base_url=address)


def test_the_option_api_key_is_the_name_of_a_variable() -> None:
    with pytest.raises(ValidationError):
        options(api_key="sk-proj-this-is-a-key")
    assert options(api_key="MY_KEY").key_name == "MY_KEY"


def test_a_host_without_a_fixed_address_needs_base_url() -> None:
    for name in ("azure", "azure-legacy", "compatible"):
        with pytest.raises(ValidationError, match="needs a base_url"):
            options(host=name)


def test_a_profile_inherits_everything_that_it_does_not_change() -> None:
    text = resources.files("backends.hosted").joinpath("profiles", "azure-legacy.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["like"] == "azure"
    legacy, modern = profile.load("azure-legacy"), profile.load("azure")
    assert legacy.jobs == modern.jobs
    assert (legacy.client, modern.client) == ("AzureOpenAI", "OpenAI")


def test_predictions_at_azure_need_a_deployment() -> None:
    where = {"subscription": "s", "resource_group": "g", "account": "a"}
    address = "https://r.openai.azure.com/openai/v1/"
    assert not HostedBackend.describe(options(host="azure", base_url=address)).can_predict
    assert HostedBackend.describe(options(host="azure", base_url=address, deployment=where)).can_predict
