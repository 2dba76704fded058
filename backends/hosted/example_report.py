"""The examples as a host receives them: their tokens, counted or estimated, and its limit."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backends.contract import DataFile, TrainingRequest
from backends.example_report import MAX_NOTICE_EXAMPLES, ExampleNotice, ExampleReport, TokenLengths
from backends.hosted.cost_estimation import example_text, load_tokenizer
from backends.hosted.example_format import base_model_of, format_of, formatted, read_examples
from backends.hosted.options import HostedOptions
from backends.hosted.profile import ExampleLimit

_PARTS = {"train": "training", "valid": "validation"}


def report(request: TrainingRequest, test: DataFile | None, options: HostedOptions) -> ExampleReport:
    """Return the report; see `example_report.SupportsExampleReport`. Test examples are only asked
    for, and cost no training tokens.
    """
    count, basis = _counter(options)
    format_, limit = format_of(request, options), limit_of(options, base_model_of(request))
    lengths: dict[str, TokenLengths] = {}
    notices: list[ExampleNotice] = []
    for part, file in {"train": request.dataset.train, "valid": request.dataset.valid}.items():
        examples = [formatted(example, format_) for example in read_examples(file)]
        if not examples:
            continue
        whole = count([example_text(example) for example in examples])
        completions = count([_completion(example) for example in examples])
        total, answers = sum(whole), sum(completions)
        lengths[part] = TokenLengths(
            len(examples), (total - answers) / len(examples), answers / len(examples), round(max(whole)), basis
        )
        long = [] if limit is None else [n for n, tokens in enumerate(whole, 1) if tokens > limit.tokens]
        if limit is not None and long:
            notices.append(_notice(part, file, long, len(examples), round(max(whole)), limit, basis))
    return ExampleReport(tuple(notices), lengths, None if limit is None else limit.tokens)


def limit_of(options: HostedOptions, model: str) -> ExampleLimit | None:
    """Return the most tokens of an example for a model; None if the host states none."""
    limits = options.profile.example_limits
    return next((limit for limit in limits if fnmatch.fnmatchcase(model, limit.model)), None)


def _notice(
    part: str, file: DataFile, long: Sequence[int], examples: int, longest: int, limit: ExampleLimit, basis: str
) -> ExampleNotice:
    have = "has" if len(long) == 1 else "have"
    message = (
        f"{len(long):,} of {examples:,} {_PARTS[part]} examples {have} more than {limit.tokens:,} tokens, up to "
        f"{longest:,} ({basis}); the host cuts their end, and with it the answer"
    )
    shown = tuple(long[:MAX_NOTICE_EXAMPLES])
    hint = "shorten or remove them before you pay for them"
    return ExampleNotice("cut-completions", part, file.path, message, hint, len(long), shown)


def _counter(options: HostedOptions) -> tuple[Callable[[Sequence[str]], list[float]], str]:
    """Return a function that counts the tokens of texts, and how it does it in words."""
    if options.tokenizer is None:
        per_token = options.profile.bytes_per_token
        return (
            lambda texts: [len(text.encode("utf-8")) / per_token for text in texts],
            f"estimated, {per_token:g} bytes per token",
        )
    tokenizer: Any = load_tokenizer(options.tokenizer)
    return (
        lambda texts: [float(len(one.ids)) for one in tokenizer.encode_batch(list(texts), add_special_tokens=False)],
        "counted with the tokenizer of the sweep file, without what the host adds around messages",
    )


def _completion(example: Mapping[str, Any]) -> str:
    messages = example.get("messages")
    if not isinstance(messages, list):
        return str(example.get("completion", ""))
    trained = [message for message in messages if message["role"] == "assistant" and message.get("weight", 1)]
    return example_text({"messages": trained})
