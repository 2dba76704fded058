"""What the model of a run reads of its examples: tokens, what is cut, what it does not know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from backends.contract import DataFile, Dataset, TrainingRequest
from backends.example_report import MAX_NOTICE_EXAMPLES, ExampleNotice, ExampleReport, TokenLengths
from backends.local import encoding
from backends.local.dropped_messages import dropped_messages
from backends.local.encoded_data import CausalData, EncodedData
from backends.local.example_template import ExampleTemplate
from backends.local.generation import prompt_room
from backends.local.model_cache import MODEL_CACHE
from backends.local.request_resolution import ResolvedRequest
from backends.local.truncation import LengthRule, Truncation
from backends.metrics.sample import sampled_examples

PARTS = {"train": "training", "valid": "validation", "test": "test"}
"""The name of each part in messages."""

OUTLIER_RATIO, OUTLIER_TOKENS, OUTLIER_SHARE = 10, 256, 0.02
"""An example is an outlier if it has more than `OUTLIER_RATIO` times the tokens of the median one,
and more than `OUTLIER_TOKENS`, and at most `OUTLIER_SHARE` of the part are so (our choice). Where
more are, the part is of that kind.
"""

UNKNOWN_SHARE = 0.01
"""Unknown tokens are reported from this share of a part's tokens on, or in this share of its
examples (our choice).
"""


def report(request: TrainingRequest, resolved: ResolvedRequest, test: DataFile | None) -> ExampleReport:
    """Return the report; see `example_report.SupportsExampleReport`."""
    dataset = request.dataset
    files = {"train": dataset.train, "valid": dataset.valid} | ({"test": test} if test is not None else {})
    notices: list[ExampleNotice] = []
    lengths: dict[str, TokenLengths] = {}
    for part, file in files.items():
        if not file.examples:
            continue
        data = _encoded(resolved, dataset, part, file)
        looked_at = _Part(part, file, data, dataset, resolved)
        lengths[part] = looked_at.lengths
        # A text is generated for a test prompt, whatever the length of its completion.
        if part != "test" or dataset.labels or resolved.task != "causal-lm":
            notices += looked_at.notices()
    if request.evaluation.metrics and resolved.task == "causal-lm":
        for part in ("valid", "test"):
            if part in files:
                notices += _generation_notices(request, resolved, part, files[part])
    return ExampleReport(tuple(notices), lengths, resolved.max_length)


def _encoded(resolved: ResolvedRequest, dataset: Dataset, part: str, file: DataFile) -> EncodedData:
    if part != "test":
        return MODEL_CACHE.encoded_data(resolved.base, resolved.task, dataset, part, resolved.length_rule)
    # Every test example is scored: nothing is dropped or refused there.
    rule = LengthRule(resolved.max_length, "cut", "cut")
    as_valid = Dataset(dataset.train, file, dataset.layout, dataset.labels, dataset.stop, dataset.train_on)
    return MODEL_CACHE.encoded_data(resolved.base, resolved.task, as_valid, "valid", rule)


@dataclass(frozen=True)
class _Part:
    """A part as the model reads it."""

    name: str
    file: DataFile
    data: EncodedData
    dataset: Dataset
    resolved: ResolvedRequest

    @property
    def lengths(self) -> TokenLengths:
        """The tokens of its examples, before anything is cut."""
        kept, truncation = len(self.data.ids), self.data.truncation
        tokens = max(truncation.tokens, int(self.data.lengths.sum()))
        completions = int(self.data.target_counts.sum()) if isinstance(self.data, CausalData) else None
        return TokenLengths(
            examples=kept,
            prompt_mean=(tokens - (completions or 0)) / kept,
            completion_mean=None if completions is None else completions / kept,
            longest=int(self.data.lengths.max()),
        )

    def notices(self) -> Iterator[ExampleNotice]:
        """Yield what the user should know."""
        yield from self._losses(self.data.truncation)
        yield from self._outliers()
        yield from self._unknown_tokens()
        if self.dataset.layout == "chat" and self.resolved.task == "causal-lm" and self.name == "train":
            yield from self._dropped_messages()

    def _notice(self, code: str, message: str, hint: str, numbers: Sequence[int]) -> ExampleNotice:
        shown = tuple(numbers[:MAX_NOTICE_EXAMPLES])
        return ExampleNotice(code, self.name, self.file.path, message, hint, len(numbers), shown)

    def _losses(self, truncation: Truncation) -> Iterator[ExampleNotice]:
        limit, noun = f"{self.resolved.max_length:,} tokens", PARTS[self.name]
        of = f"of {truncation.examples:,} {noun}"
        lost = f"{truncation.lost_tokens:,} of {truncation.tokens:,} tokens"
        raising = self.resolved.length_rule.remedy
        if cut := truncation.cut_prompts:
            end = "beginning" if isinstance(self.data, CausalData) else "end"
            message = f"{len(cut):,} {of} prompts lose their {end} to fit into {limit}; {lost} are lost"
            yield self._notice("cut-prompts", message, f"{raising}, or leave them out with long_prompts: drop", cut)
        if cut := truncation.cut_completions:
            message = f"{len(cut):,} {of} completions lose their end to fit into {limit}"
            hint = f"the model does not learn to end there; {raising}, or leave them out with long_completions: drop"
            yield self._notice("cut-completions", message, hint, cut)
        if dropped := truncation.dropped:
            message = f"{len(dropped):,} {of} examples are left out because they do not fit into {limit}"
            yield self._notice("dropped-examples", message, raising, dropped)

    def _outliers(self) -> Iterator[ExampleNotice]:
        lengths = self.data.lengths
        if len(lengths) != self.data.truncation.examples:  # several sequences an example, or some are left out
            return
        median = float(np.median(lengths))
        long = np.flatnonzero(lengths > max(OUTLIER_RATIO * median, OUTLIER_TOKENS))
        if 0 < len(long) <= max(1, OUTLIER_SHARE * len(lengths)):
            have = "example has" if len(long) == 1 else "examples have"
            message = (
                f"{len(long):,} {PARTS[self.name]} {have} more than {OUTLIER_RATIO} times the {median:,.0f} tokens of "
                f"the median one, up to {int(lengths.max()):,}"
            )
            hint = "look whether they belong there: the longest examples decide the memory of a run"
            yield self._notice("token-outliers", message, hint, [int(n) + 1 for n in long])

    def _unknown_tokens(self) -> Iterator[ExampleNotice]:
        unknown = MODEL_CACHE.tokenizer(self.resolved.base).unk_token_id
        if unknown is None or len(self.data.ids) != self.data.truncation.examples:
            return
        counts = np.array([int((ids == unknown).sum()) for ids in self.data.ids])
        affected, tokens = np.flatnonzero(counts), int(self.data.lengths.sum())
        if counts.sum() >= UNKNOWN_SHARE * tokens or len(affected) >= max(1, UNKNOWN_SHARE * len(counts)):
            message = (
                f"{len(affected):,} of {len(counts):,} {PARTS[self.name]} examples have text that the tokenizer does "
                f"not know: {int(counts.sum()):,} of {tokens:,} tokens"
            )
            hint = "the model sees the same unknown token for all of it; choose a model for this language or script"
            if len(affected):
                yield self._notice("unknown-tokens", message, hint, [int(n) + 1 for n in affected])

    def _dropped_messages(self) -> Iterator[ExampleNotice]:
        lines = encoding.read_lines(self.file.path)
        for what, numbers in dropped_messages(MODEL_CACHE.tokenizer(self.resolved.base), lines).items():
            message = (
                f"the chat template of the model drops {what}, which {len(numbers):,} of {len(lines):,} "
                f"{PARTS[self.name]} examples have"
            )
            hint = "the model never reads them; move their text into a message of the user, or use another model"
            yield self._notice("template-drops", message, hint, numbers)


def _generation_notices(
    request: TrainingRequest, resolved: ResolvedRequest, part: str, file: DataFile
) -> Iterator[ExampleNotice]:
    """Yield how many prompts are cut when texts are generated: room is kept for `max_tokens`.

    Evaluations generate for a sample of the validation examples, the winner for all test examples.
    """
    settings = request.evaluation.generation_in_use
    lines = encoding.read_lines(file.path)
    is_sample = part == "valid"
    numbers = sampled_examples(len(lines), settings.examples, file.sha256) if is_sample else range(len(lines))
    template = ExampleTemplate(MODEL_CACHE.tokenizer(resolved.base), request.dataset.layout, request.dataset.stop)
    room = prompt_room(settings.decoding, resolved.max_length)
    whole = template.prompt_tokens([lines[n] for n in numbers])
    cut = [n + 1 for n, tokens in zip(numbers, whole, strict=True) if len(tokens) > room]
    if cut:
        message = (
            f"{len(cut):,} of {len(numbers):,} {PARTS[part]} prompts lose their beginning when a text is generated: "
            f"{room:,} tokens remain beside an answer of up to {settings.decoding.max_tokens:,} "
            f"(evaluation.generate.max_tokens) in {resolved.max_length:,}"
        )
        hint = f"lower evaluation.generate.max_tokens, or {resolved.length_rule.remedy}"
        shown = tuple(cut[:MAX_NOTICE_EXAMPLES])
        yield ExampleNotice("cut-generation-prompts", part, file.path, message, hint, len(cut), shown)
