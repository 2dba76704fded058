"""Secrets, waiting, counting: the small parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import credentials
from backends.contract import BackendError, Dataset, Failure, FailureKind, TrainingRequest
from backends.hosted import HostedBackend, cost_estimation, profile, rate_limiter
from backends.hosted.cost_estimation import Counting
from backends.hosted.failures import ServiceError
from backends.hosted.journal import Journal
from backends.hosted.options import HostedOptions
from backends.hosted.rate_limiter import Pace
from backends.testing import write_jsonl

pytestmark = pytest.mark.unit


# -------------------------------------------------------------------------------------------------------------- secrets
def test_a_secret_is_found_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-a-file\n")
    assert credentials.secret("A", {"A": " plain "}) == "plain"
    assert credentials.secret("A", {"A_FILE": str(file)}) == "from-a-file"
    assert credentials.secret("A", {"A": "plain", "A_FILE": str(file)}) == "plain"
    assert credentials.secret("A", {"B": "x"}) is None
    assert credentials.secret("A", {"A": "", "A_FILE": ""}) is None


def test_a_file_that_cannot_be_read_is_a_failure_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(BackendError) as raised:
        credentials.secret("A", {"A_FILE": str(tmp_path / "gone")})
    assert raised.value.failure.kind is FailureKind.USER
    assert "A_FILE" in raised.value.failure.message


def test_what_is_handed_in_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"A": "one"}
    credentials.hand_in(source)
    source["A"] = "two"
    assert credentials.secret("A") == "two"
    credentials.hand_in({})
    assert credentials.secret("A") is None


# -------------------------------------------------------------------------------------------------------------- waiting
class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def failing(*errors: ServiceError | None) -> Callable[[], str]:
    left = list(errors)

    def call() -> str:
        error = left.pop(0) if left else None
        if error is not None:
            raise error
        return "answer"

    return call


def error(kind: FailureKind, wait_s: float | None = None) -> ServiceError:
    return ServiceError(Failure(kind, "m"), ambiguous=False, wait_s=wait_s, status=None)


@given(st.integers(1, 60), st.one_of(st.none(), st.floats(0, 1e6)))
def test_a_host_is_never_asked_sooner_than_it_wants(failures: int, asked: float | None) -> None:
    pause = rate_limiter.pause_s(failures, asked)
    assert pause >= (asked or 0.0)
    assert pause >= rate_limiter.FIRST_PAUSE_S
    assert pause <= max(rate_limiter.LONGEST_PAUSE_S, asked or 0.0)


def test_a_long_wait_is_honoured() -> None:
    clock = Clock()
    pace = Pace(10.0, None, clock, clock.sleep)
    assert pace.patiently(failing(error(FailureKind.QUOTA, 3600.0))) == "answer"
    assert clock.now >= 4600.0


def test_patience_ends() -> None:
    clock = Clock()
    pace = Pace(30.0, None, clock, clock.sleep)
    with pytest.raises(ServiceError):
        pace.patiently(failing(*[error(FailureKind.TRANSIENT)] * 50))
    assert clock.now < 1000.0 + 60


def test_what_waiting_does_not_help_is_raised_at_once() -> None:
    clock = Clock()
    with pytest.raises(ServiceError):
        Pace(30.0, None, clock, clock.sleep).patiently(failing(error(FailureKind.USER)))
    assert clock.now == 1000.0


def test_a_rate_is_kept() -> None:
    clock = Clock()
    pace = Pace(30.0, 30.0, clock, clock.sleep)
    for _ in range(10):
        pace.patiently(failing())
    assert clock.now == pytest.approx(1000.0 + 9 * 2.0)


# ------------------------------------------------------------------------------------------------------------- counting
@pytest.fixture
def request_(tmp_path: Path) -> TrainingRequest:
    lines = [{"prompt": "12345678", "completion": "1234"}] * 100
    file = write_jsonl(tmp_path / "d.jsonl", lines)
    return TrainingRequest("k", "gpt-4o-mini-2024-07-18", Dataset(file, file, "completion"), {"n_epochs": 2}, 1)


def counted(tmp_path: Path, **options: object) -> Counting:
    given_ = {"model": "gpt-4o-mini-2024-07-18", **options}
    return Counting(HostedOptions.model_validate(given_), Journal(tmp_path / "journal"))


def test_an_estimate_says_that_it_is_one(tmp_path: Path, request_: TrainingRequest) -> None:
    found = counted(tmp_path).estimate(request_)
    assert found.tokens == 2 * 100 * 13 / 4  # two messages: 12 characters and the line between
    assert found.usd == pytest.approx(650 * 3.0 / 1e6)
    assert found.max_tokens == 2 * 100 * (13 + 32 + 2 * 8), "no token is shorter than a byte"
    assert found.max_usd == pytest.approx((found.max_tokens or 0) * 3.0 / 1e6)
    assert found.seconds is None
    assert "an estimate" in found.basis
    assert "developers.openai.com" in found.basis
    assert "2026-10-01" in found.basis


def test_what_the_host_counted_wins(tmp_path: Path, request_: TrainingRequest) -> None:
    counting_ = counted(tmp_path)
    counting_.learn(request_, trained_tokens=2400, n_epochs=2)
    found = counting_.estimate(request_)
    assert found.tokens == found.max_tokens == 2400
    assert "as the host counted" in found.basis


def test_a_tokenizer_counts(tmp_path: Path, request_: TrainingRequest) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = counted(tmp_path, tokenizer=str(tmp_path / "tokenizer.json")).estimate(request_)
    assert found.tokens == 2 * 100 * 2
    assert "counted with tokenizer.json" in found.basis


def test_a_tokenizer_that_is_not_there(tmp_path: Path, request_: TrainingRequest) -> None:
    with pytest.raises(BackendError, match="tokenizer"):
        counted(tmp_path, tokenizer=str(tmp_path / "gone.json")).estimate(request_)


def test_the_most_that_a_run_may_take_holds_for_epochs_that_the_host_chooses(
    tmp_path: Path, request_: TrainingRequest
) -> None:
    unsaid = dataclasses.replace(request_, hyperparameters={})
    found = counted(tmp_path).estimate(unsaid)
    assert found.tokens == 3 * 325
    assert found.max_tokens == 25 * 100 * (13 + 32 + 2 * 8)


@pytest.mark.parametrize("host", ["nebius", "compatible"])
def test_a_host_whose_choice_of_epochs_is_not_known_is_not_left_to_choose(
    tmp_path: Path, request_: TrainingRequest, host: str
) -> None:
    options = {"host": host, "base_url": "https://x.invalid/v1", "price_per_million_tokens": 1.0}
    counting_ = counted(tmp_path, **options)
    assert counting_.estimate(request_).max_usd is not None
    unsaid = dataclasses.replace(request_, hyperparameters={})
    with pytest.raises(BackendError, match="n_epochs is not given") as raised:
        counting_.estimate(unsaid)
    secrets = {"NEBIUS_API_KEY": "k", "OPENAI_API_KEY": "k"}
    backend = HostedBackend(HostedOptions.model_validate({"model": "m", **options}), tmp_path / "w", secrets)
    assert raised.value.failure in backend.check(unsaid)
    with pytest.raises(BackendError, match="n_epochs is not given"):
        backend.submit(unsaid)
    backend.close()


def test_what_was_counted_of_another_text_or_by_another_account_says_nothing(
    tmp_path: Path, request_: TrainingRequest
) -> None:
    counted(tmp_path).learn(request_, trained_tokens=2400, n_epochs=2)
    assert counted(tmp_path).estimate(request_).tokens == 2400
    for other in ({"system_message": "Be brief."}, {"base_url": "https://x.invalid/v1"}, {"project": "p"}):
        assert "an estimate" in counted(tmp_path, **other).estimate(request_).basis


def test_an_unknown_price_is_no_price(tmp_path: Path, request_: TrainingRequest) -> None:
    found = counted(tmp_path, host="compatible", base_url="https://x.invalid/v1").estimate(request_)
    assert found.usd is None
    assert "price_per_million_tokens" in found.basis


@pytest.mark.parametrize(
    ("examples", "epochs"),
    [(1, 25), (10, 10), (33, 3), (34, 3), (100, 3), (8333, 3), (8334, 2), (20000, 1), (100000, 1)],
)
def test_the_published_rule_for_epochs(examples: int, epochs: int) -> None:
    rule = profile.load("openai").auto_epochs
    assert isinstance(rule, profile.AutoEpochs)
    assert cost_estimation.automatic(examples, rule) == epochs
