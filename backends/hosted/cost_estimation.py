"""How many tokens a training run has, and what it costs: counted where that can be, else labelled an estimate."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

from backends.contract import BackendError, DataFile, Estimate, Failure, FailureKind, TrainingRequest
from backends.hosted.examples import as_given, lines
from backends.hosted.job_creation import base_model, form_of
from backends.hosted.journal import Journal
from backends.hosted.options import HostedOptions
from backends.hosted.profile import AutoEpochs, Profile

AROUND_EXAMPLE, AROUND_MESSAGE = 32, 8
"""Tokens that a host's template may add, for the bound alone; ours, and generous: three a message are published."""


@dataclass(frozen=True)
class Count:
    """The tokens of one epoch, the most that they can be, and in words who counted them."""

    tokens: float
    at_most: float
    basis: str


class Counting:
    """Counts the training files of requests; each file once a process."""

    def __init__(self, options: HostedOptions, journal: Journal) -> None:
        self._options, self._journal = options, journal
        self._counts: dict[tuple[DataFile, str], Count] = {}

    def tokens_per_epoch(self, request: TrainingRequest) -> Count:
        """Return the tokens of one epoch. What the host itself counted in an earlier job wins."""
        model, file = base_model(request), request.dataset.train
        counted = self._journal.tokens(model, self._content(request))
        if counted is not None:
            return Count(counted, counted, "tokens as the host counted them in an earlier job")
        if (file, model) not in self._counts:
            self._counts[file, model] = self._count(request)
        return self._counts[file, model]

    def learn(self, request: TrainingRequest, trained_tokens: int, n_epochs: int) -> None:
        """Keep what the host counted in a job that ran to its end."""
        if trained_tokens > 0 and n_epochs > 0:
            self._journal.keep_tokens(base_model(request), self._content(request), trained_tokens / n_epochs)

    def _content(self, request: TrainingRequest) -> str:
        """Return a digest of what the host is given to count: the file, in which form, and by whom it is counted."""
        form = dataclasses.asdict(form_of(request, self._options))
        identity = [self._options.account, request.dataset.train.sha256, form]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def estimate(self, request: TrainingRequest) -> Estimate:
        """Return tokens and money of the complete run; how long it takes, nobody knows.

        Raises BackendError (user) where nobody knows how many epochs the host would choose.
        """
        count = self.tokens_per_epoch(request)
        n_epochs, most, whose = epochs(request, self._options.profile)
        tokens, at_most = math.ceil(count.tokens * n_epochs), math.ceil(count.at_most * most)
        price = self._options.usd_per_million_tokens(base_model(request))
        return Estimate(
            tokens=tokens,
            seconds=None,
            usd=None if price is None else tokens * price / 1e6,
            disk_bytes=None,
            max_tokens=at_most,
            max_usd=None if price is None else at_most * price / 1e6,
            basis=f"{n_epochs} epochs{whose} of {count.tokens:.0f} tokens: {count.basis}; {self._price(request)}",
        )

    def _price(self, request: TrainingRequest) -> str:
        host, model = self._options.profile, base_model(request)
        if self._options.price_per_million_tokens is not None:
            return f"{self._options.price_per_million_tokens:g} USD per million tokens, as the file says"
        if (price := host.price(model)) is not None:
            return f"{price.usd_per_million_tokens:g} USD per million tokens ({host.source_of(price)})"
        return f"no price of {model} is known: give price_per_million_tokens"

    def _count(self, request: TrainingRequest) -> Count:
        host, form = self._options.profile, form_of(request, self._options)
        examples = [as_given(line, form) for line in lines(request.dataset.train)]
        texts = [_text(each) for each in examples]
        around = sum(AROUND_EXAMPLE + AROUND_MESSAGE * len(each.get("messages", ())) for each in examples)
        if self._options.tokenizer is None:
            size = sum(len(each.encode("utf-8")) for each in texts)
            per_token = host.bytes_per_token
            return Count(size / per_token, size + around, f"an estimate, {per_token:g} bytes a token")
        encoder = _tokenizer(self._options.tokenizer)
        encoded = encoder.encode_batch(texts, add_special_tokens=False)  # type: ignore[attr-defined]
        basis = f"counted with {Path(self._options.tokenizer).name}, without what the host adds around messages"
        tokens = float(sum(len(each.ids) for each in encoded))
        return Count(tokens, tokens + around, basis)


def epochs(request: TrainingRequest, host: Profile) -> tuple[int, int, str]:
    """Return the epochs of a run, the most there can be, and whose choice they are where the request does not say.

    Raises BackendError (user) where nobody knows how many there would be.
    """
    if "n_epochs" in request.hyperparameters:
        asked = int(request.hyperparameters["n_epochs"])
        return asked, asked, ""
    declared = next((each for each in host.hyperparameters if each.name == "n_epochs"), None)
    if declared is not None and declared.default is not None:
        return int(declared.default), int(declared.default), " (the host's default)"
    rule = host.auto_epochs
    if rule == "unknown":
        message = "n_epochs is not given, and how many epochs this host takes by itself is not known"
        raise BackendError(Failure(FailureKind.USER, message, "give n_epochs: without it a run may cost anything"))
    chosen = automatic(request.dataset.train.examples, rule)
    return chosen, max(chosen, rule.most), f" (as hosts are said to choose: {host.source_of(rule)})"


def automatic(examples: int, rule: AutoEpochs) -> int:
    """Return the epochs that a host chooses for so many examples, by the rule that was published."""
    examples = max(1, examples)
    if examples * rule.target < rule.least_examples:
        return min(rule.most, rule.least_examples // examples)
    if examples * rule.target > rule.most_examples:
        return max(1, rule.most_examples // examples)
    return rule.target


def _text(given: dict[str, object]) -> str:
    messages = given.get("messages")
    if isinstance(messages, list):
        return "\n".join(str(each.get("content", "")) for each in messages)
    return f"{given.get('prompt', '')}{given.get('completion', '')}"


def _tokenizer(path: str) -> object:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(path)
    except Exception as error:
        message = f"the tokenizer {path} cannot be read: {error}"
        raise BackendError(Failure(FailureKind.USER, message, "give the path of a tokenizer.json")) from error
