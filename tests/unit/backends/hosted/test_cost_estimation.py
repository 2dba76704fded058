"""Token counts and costs of training runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from backends.contract import BackendError, Dataset, TrainingRequest
from backends.hosted import HostedBackend, cost_estimation, profile
from backends.hosted.cost_estimation import CostEstimator
from backends.hosted.journal import Journal
from backends.hosted.options import HostedOptions
from backends.testing import write_jsonl

pytestmark = pytest.mark.unit


@pytest.fixture
def request_(tmp_path: Path) -> TrainingRequest:
    lines = [{"prompt": "12345678", "completion": "1234"}] * 100
    file = write_jsonl(tmp_path / "d.jsonl", lines)
    return TrainingRequest("k", "gpt-4o-mini-2024-07-18", Dataset(file, file, "completion"), {"n_epochs": 2}, 1)


def estimator(tmp_path: Path, **options: object) -> CostEstimator:
    values = {"model": "gpt-4o-mini-2024-07-18", **options}
    return CostEstimator(HostedOptions.model_validate(values), Journal(tmp_path / "journal"))


def test_an_estimate_has_an_upper_bound_and_its_sources(tmp_path: Path, request_: TrainingRequest) -> None:
    estimate = estimator(tmp_path).estimate(request_)
    assert estimate.tokens == 2 * 100 * 13 / 4  # two messages: 12 characters and the line break between them
    assert estimate.usd == pytest.approx(650 * 3.0 / 1e6)
    assert estimate.max_tokens == 2 * 100 * (13 + 32 + 2 * 8), "no token is shorter than a byte"
    assert estimate.max_usd == pytest.approx((estimate.max_tokens or 0) * 3.0 / 1e6)
    assert estimate.seconds is None
    assert "estimated" in estimate.basis
    assert "developers.openai.com" in estimate.basis
    assert "2026-10-01" in estimate.basis


def test_the_count_of_the_host_wins(tmp_path: Path, request_: TrainingRequest) -> None:
    cost_estimator = estimator(tmp_path)
    cost_estimator.record_host_count(request_, trained_tokens=2400, n_epochs=2)
    estimate = cost_estimator.estimate(request_)
    assert estimate.tokens == estimate.max_tokens == 2400
    assert "as counted by the host" in estimate.basis


def test_a_tokenizer_counts_the_tokens(tmp_path: Path, request_: TrainingRequest) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    estimate = estimator(tmp_path, tokenizer=str(tmp_path / "tokenizer.json")).estimate(request_)
    assert estimate.tokens == 2 * 100 * 2
    assert "counted with tokenizer.json" in estimate.basis


def test_a_missing_tokenizer_is_an_error(tmp_path: Path, request_: TrainingRequest) -> None:
    with pytest.raises(BackendError, match="tokenizer"):
        estimator(tmp_path, tokenizer=str(tmp_path / "gone.json")).estimate(request_)


def test_the_upper_bound_covers_epochs_that_the_host_chooses(tmp_path: Path, request_: TrainingRequest) -> None:
    without_epochs = dataclasses.replace(request_, hyperparameters={})
    estimate = estimator(tmp_path).estimate(without_epochs)
    assert estimate.tokens == 3 * 325
    assert estimate.max_tokens == 25 * 100 * (13 + 32 + 2 * 8)


@pytest.mark.parametrize("host", ["nebius", "compatible"])
def test_n_epochs_is_required_where_the_rule_of_the_host_is_unknown(
    tmp_path: Path, request_: TrainingRequest, host: str
) -> None:
    options = {"host": host, "base_url": "https://x.invalid/v1", "price_per_million_tokens": 1.0}
    cost_estimator = estimator(tmp_path, **options)
    assert cost_estimator.estimate(request_).max_usd is not None
    without_epochs = dataclasses.replace(request_, hyperparameters={})
    with pytest.raises(BackendError, match="n_epochs is missing") as raised:
        cost_estimator.estimate(without_epochs)
    secrets = {"NEBIUS_API_KEY": "k", "OPENAI_API_KEY": "k"}
    backend = HostedBackend(HostedOptions.model_validate({"model": "m", **options}), tmp_path / "w", secrets)
    assert raised.value.failure in backend.check(without_epochs)
    with pytest.raises(BackendError, match="n_epochs is missing"):
        backend.submit(without_epochs)
    backend.close()


def test_a_count_of_another_text_or_account_is_not_used(tmp_path: Path, request_: TrainingRequest) -> None:
    estimator(tmp_path).record_host_count(request_, trained_tokens=2400, n_epochs=2)
    assert estimator(tmp_path).estimate(request_).tokens == 2400
    for other in ({"system_message": "Be brief."}, {"base_url": "https://x.invalid/v1"}, {"project": "p"}):
        assert "estimated" in estimator(tmp_path, **other).estimate(request_).basis


def test_without_a_price_there_is_no_cost(tmp_path: Path, request_: TrainingRequest) -> None:
    estimate = estimator(tmp_path, host="compatible", base_url="https://x.invalid/v1").estimate(request_)
    assert estimate.usd is None
    assert "price_per_million_tokens" in estimate.basis


@pytest.mark.parametrize(
    ("examples", "epochs"),
    [(1, 25), (10, 10), (33, 3), (34, 3), (100, 3), (8333, 3), (8334, 2), (20000, 1), (100000, 1)],
)
def test_the_published_rule_for_the_number_of_epochs(examples: int, epochs: int) -> None:
    rule = profile.load("openai").auto_epochs
    assert isinstance(rule, profile.AutoEpochs)
    assert cost_estimation.auto_epochs(examples, rule) == epochs
