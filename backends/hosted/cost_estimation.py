"""`CostEstimator`: tokens and cost of a training run, counted if possible, or else estimated."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.contract import (
    BackendError,
    DataFile,
    Estimate,
    Failure,
    FailureKind,
    TrainingRequest,
)
from backends.hosted.example_format import base_model_of, format_of, formatted, read_examples
from backends.hosted.journal import Journal
from backends.hosted.options import HostedOptions
from backends.hosted.profile import AutoEpochs, Profile

EXTRA_TOKENS_PER_EXAMPLE, EXTRA_TOKENS_PER_MESSAGE = 32, 8
"""Tokens that a host's template may add. Only the upper bound uses them.

Our own, generous numbers: a published figure is three tokens per message.
"""


@dataclass(frozen=True)
class TokenCount:
    """The tokens of one epoch, an upper bound for them, and in words how they were counted."""

    tokens: float
    at_most: float
    basis: str


@dataclass(frozen=True)
class PlannedEpochs:
    """The epochs of a run, an upper bound, and who chose them: "" if the request did."""

    expected: int
    at_most: int
    basis: str


class CostEstimator:
    """Counts the training files of requests, each file once per process."""

    def __init__(self, options: HostedOptions, journal: Journal) -> None:
        self._options, self._accounts = options, journal.accounts
        self._counts: dict[tuple[DataFile, str], TokenCount] = {}

    def tokens_per_epoch(self, request: TrainingRequest) -> TokenCount:
        """Return the tokens of one epoch. The host's own count from an earlier job wins."""
        model, file = base_model_of(request), request.dataset.train
        host_count = self._accounts.tokens_per_epoch(model, self._content_digest(request))
        if host_count is not None:
            return TokenCount(host_count, host_count, "as counted by the host in an earlier job")
        if (file, model) not in self._counts:
            self._counts[file, model] = self._count(request)
        return self._counts[file, model]

    def record_host_count(self, request: TrainingRequest, trained_tokens: int, n_epochs: int) -> None:
        """Record the host's token count of a completed job."""
        if trained_tokens > 0 and n_epochs > 0:
            digest = self._content_digest(request)
            self._accounts.set_tokens_per_epoch(base_model_of(request), digest, trained_tokens / n_epochs)

    def _content_digest(self, request: TrainingRequest) -> str:
        """Return a digest of what decides the host's count: account, file and format."""
        format_ = dataclasses.asdict(format_of(request, self._options))
        if request.dataset.layout != "chat":  # they decide nothing there, and version 0.1 counted without them
            del format_["train_on"], format_["weights"]
        identity = [self._options.account, request.dataset.train.sha256, format_]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def estimate(self, request: TrainingRequest) -> Estimate:
        """Return tokens and cost of the complete run. Its duration is unknown.

        Raises BackendError (user) if the host would choose the epochs by an unknown rule.
        """
        count, epochs = self.tokens_per_epoch(request), planned_epochs(request, self._options.profile)
        tokens = math.ceil(count.tokens * epochs.expected)
        max_tokens = math.ceil(count.at_most * epochs.at_most)
        price = self._options.usd_per_million_tokens(base_model_of(request))
        basis = f"{epochs.expected} epochs{epochs.basis} of {count.tokens:.0f} tokens: {count.basis}"
        basis = f"{basis}; {self._price_basis(request)}"
        if price is not None and request.evaluation.metrics:
            basis += f"; without the price of {_questions(request)} answers for the task metrics"
        return Estimate(
            tokens=tokens,
            seconds=None,
            usd=None if price is None else tokens * price / 1e6,
            disk_bytes=None,
            max_tokens=max_tokens,
            max_usd=None if price is None else max_tokens * price / 1e6,
            basis=basis,
        )

    def _price_basis(self, request: TrainingRequest) -> str:
        host, model = self._options.profile, base_model_of(request)
        if self._options.price_per_million_tokens is not None:
            return f"{self._options.price_per_million_tokens:g} USD per million tokens, from the sweep file"
        if (price := host.price(model)) is not None:
            return f"{price.usd_per_million_tokens:g} USD per million tokens ({host.source_of(price)})"
        return f"the price of {model} is unknown: set price_per_million_tokens"

    def _count(self, request: TrainingRequest) -> TokenCount:
        host, format_ = self._options.profile, format_of(request, self._options)
        examples = [formatted(example, format_) for example in read_examples(request.dataset.train)]
        texts = [example_text(example) for example in examples]
        extra_tokens = sum(
            EXTRA_TOKENS_PER_EXAMPLE + EXTRA_TOKENS_PER_MESSAGE * len(example.get("messages", ()))
            for example in examples
        )
        if self._options.tokenizer is None:
            # Upper bound: no token is shorter than a byte.
            size = sum(len(text.encode("utf-8")) for text in texts)
            per_token = host.bytes_per_token
            return TokenCount(size / per_token, size + extra_tokens, f"estimated, {per_token:g} bytes per token")
        tokenizer = load_tokenizer(self._options.tokenizer)
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)  # type: ignore[attr-defined]
        name = Path(self._options.tokenizer).name
        basis = f"counted with {name}, without the tokens that the host adds around messages"
        tokens = float(sum(len(encoding.ids) for encoding in encodings))
        return TokenCount(tokens, tokens + extra_tokens, basis)


def _questions(request: TrainingRequest) -> int:
    """Return how many texts the trained model writes."""
    return min(request.evaluation.generation_in_use.examples, request.dataset.valid.examples)


def planned_epochs(request: TrainingRequest, host: Profile) -> PlannedEpochs:
    """Return the epochs of a run.

    Raises BackendError (user) if the request does not set them and the host's own choice is
    unknown.
    """
    if "n_epochs" in request.hyperparameters:
        requested = int(request.hyperparameters["n_epochs"])
        return PlannedEpochs(requested, requested, "")
    declared = next((declared for declared in host.hyperparameters if declared.name == "n_epochs"), None)
    if declared is not None and declared.default is not None:
        default = int(declared.default)
        return PlannedEpochs(default, default, " (the host's default)")
    rule = host.auto_epochs
    if rule == "unknown":
        message = "n_epochs is missing, and how many epochs this host would choose is unknown"
        raise BackendError(Failure(FailureKind.USER, message, "Set n_epochs: without it, a run has no cost limit."))
    chosen = auto_epochs(request.dataset.train.examples, rule)
    basis = f" (the host's published rule: {host.source_of(rule)})"
    return PlannedEpochs(chosen, max(chosen, rule.max_epochs), basis)


def auto_epochs(examples: int, rule: AutoEpochs) -> int:
    """Return the epochs that a host chooses for this many examples by its published rule."""
    examples = max(1, examples)
    if examples * rule.target_epochs < rule.min_examples_seen:
        return min(rule.max_epochs, rule.min_examples_seen // examples)
    if examples * rule.target_epochs > rule.max_examples_seen:
        return max(1, rule.max_examples_seen // examples)
    return rule.target_epochs


def example_text(example: Mapping[str, Any]) -> str:
    """Return all text of an example in a host's format, with its calls and tools."""
    messages = example.get("messages")
    if isinstance(messages, list):
        called = [call.get("function") for message in messages for call in message.get("tool_calls") or ()]
        others = [json.dumps(value, ensure_ascii=False) for value in (example.get("tools"), called) if value]
        return "\n".join([*(str(message.get("content", "")) for message in messages), *others])
    return f"{example.get('prompt', '')}{example.get('completion', '')}"


def load_tokenizer(path: str) -> object:
    """Load a tokenizer.json. Raises BackendError (user)."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(path)
    except Exception as error:  # the library raises nothing more specific
        message = f"cannot read the tokenizer {path}: {error}"
        raise BackendError(Failure(FailureKind.USER, message, "Give the path of a tokenizer.json.")) from error
