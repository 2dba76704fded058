"""An example as the trainer sees it: the text of its tokens, and which of them are targets."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from backends.chat_lines import most_answers
from backends.contract import TrainingRequest
from backends.local import encoding
from backends.local.encoded_data import AnswerCounts, CausalData, EncodedData
from backends.local.example_template import ExampleTemplate
from backends.local.model_cache import MODEL_CACHE
from backends.local.request_resolution import ResolvedRequest
from backends.local.truncation import LengthRule
from backends.model_packages.text_generation import text_of
from backends.rendering import LOOKED_AT, Piece, RenderedExample


def render(request: TrainingRequest, resolved: ResolvedRequest) -> RenderedExample:
    """Return one training example; see `rendering.SupportsRendering`."""
    dataset = request.dataset
    lines = encoding.read_lines(dataset.train.path)
    with encoding.missing_fields_reported(dataset.train.path):
        number = most_answers(lines[:LOOKED_AT], dataset.train_on)
        data = MODEL_CACHE.encoded_data(resolved.base, resolved.task, dataset, "train", resolved.length_rule)
        tokenizer = MODEL_CACHE.tokenizer(resolved.base)
        line = lines[number]
        if not isinstance(data, CausalData):
            ids, _, _ = encoding.encode_segments(tokenizer, [line], resolved.max_length, False)
            template = ExampleTemplate(tokenizer, dataset.layout, dataset.stop)
            pieces = [Piece(tokenizer.decode(ids[0].tolist()), False), Piece(template.answer(line), True)]
            return RenderedExample(number + 1, tuple(pieces), notes(data))
        # The example is shown cut, even if it is left out.
        shown = LengthRule(resolved.max_length, completions="cut")
        own = encoding.encode_causal(tokenizer, [line], dataset, shown)
    return RenderedExample(number + 1, pieces_of(tokenizer, own), notes(data))


def pieces_of(tokenizer: Any, data: CausalData) -> tuple[Piece, ...]:
    """Return the text of the last sequence, which has the whole example, in pieces.

    A piece is the text of consecutive tokens that are all targets, or none.
    """
    ids, flags = data.ids[-1].tolist(), data.targets[-1].tolist()
    pieces, end = [], 0
    for is_target, group in groupby(flags):
        begin, end = end, end + len(list(group))
        pieces.append(Piece(text_of(tokenizer, ids[:begin], ids[begin:end], skip_special_tokens=False), is_target))
    return tuple(pieces)


def notes(data: EncodedData) -> tuple[str, ...]:
    """Return what happens to answers that cannot be trained as they are, in sentences."""
    answers = data.answers if isinstance(data, CausalData) else AnswerCounts(len(data.ids))
    found = []
    if answers.lost:
        found.append(
            f"{answers.lost:,} of {answers.trained + answers.lost:,} answers are not trained: they are in the lost "
            "beginnings, or the chat template rejects the messages before them"
        )
    if answers.split:
        are = "conversations are" if answers.split > 1 else "conversation is"
        found.append(
            f"the chat template changes earlier turns when later ones come, so {answers.split:,} {are} trained as "
            f"several sequences ({len(data.ids):,} in all), each answer in the text in which it is asked for"
        )
    return tuple(found)
