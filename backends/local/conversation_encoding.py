"""Encoding of conversations for training on their answers.

A conversation becomes one sequence of texts that are targets or not, each tokenized separately, or
several sequences; see `conversations`. One that is too long loses its earliest exchanges, but not
its system prompt.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backends.contract import BackendError, Dataset
from backends.local.conversations import Conversation, TrainingText
from backends.local.encoded_data import AnswerCounts, CausalData, Flags, Ids
from backends.local.example_template import ExampleTemplate
from backends.local.model_source import user_error
from backends.local.truncation import LengthLedger


class Row:
    """A sequence of pieces, each with its tokens, and whether they are targets."""

    def __init__(self, pieces: Sequence[tuple[Sequence[int], bool]]) -> None:
        self.pieces = pieces

    @property
    def ids(self) -> Ids:
        """The tokens of all pieces, (T,)."""
        return np.array([token for tokens, _ in self.pieces for token in tokens], dtype=np.int64)

    @property
    def targets(self) -> Flags:
        """Whether each token is a target, (T,)."""
        return np.repeat([is_target for _, is_target in self.pieces], [len(tokens) for tokens, _ in self.pieces])

    @property
    def last(self) -> Sequence[int]:
        """The tokens of the last answer."""
        return self.pieces[-1][0]

    def __len__(self) -> int:
        return sum(len(tokens) for tokens, _ in self.pieces)


class ConversationEncoder:
    """Encodes the conversations of one file, and enters what they lose into a ledger."""

    def __init__(self, template: ExampleTemplate, dataset: Dataset, ledger: LengthLedger) -> None:
        self._template, self._writer = template, template.conversations
        self._train_on, self._ledger = dataset.train_on, ledger
        self._max_length = ledger.rule.max_length

    def encode(self, lines: Sequence[Mapping[str, Any]]) -> CausalData:
        """Return the data. `encoding.encode_causal` says which errors it raises."""
        texts: list[TrainingText] = []
        numbers: list[int] = []  # of the line of each text
        finals: set[int] = set()  # the indices of the texts that train the last answer of a line
        answers: dict[int, int] = {}
        split: set[int] = set()
        for number, line in enumerate(lines, 1):
            conversation = Conversation.of(line, self._train_on)
            if not conversation.targets:
                message = f"example {number} has no answer to train"
                raise user_error(message, "remove it, or end it with an answer whose weight is not 0")
            answers[number] = len(conversation.targets)
            try:
                own = self._writer.training_texts(conversation)
            except BackendError as error:
                raise user_error(f"example {number}: {error.failure.message}", error.failure.detail) from error
            texts += own
            numbers += [number] * len(own)
            finals.add(len(texts) - 1)
            if len(own) > 1:
                split.add(number)
        rows = self._rows(texts)
        self._check_last_answers({numbers[index]: rows[index].last for index in finals})
        kept: list[tuple[int, Row]] = []
        for index, (number, text, row) in enumerate(zip(numbers, texts, rows, strict=True)):
            if number in self._ledger.dropped:
                continue
            fitted = self._fitted(text, row, is_final=index in finals)
            # A completion that is cut is counted as such, whether or not its prompt is whole.
            lost = len(row) - sum(map(len, fitted))
            from_completion = len(row.last) - len(fitted[-1].last) if fitted and index in finals else 0
            self._ledger.record(number, len(row), len(row) - max(lost, 0), prompt_is_cut=lost > from_completion)
            kept += [(number, one) for one in fitted]
        truncation = self._ledger.close()
        kept = [(number, row) for number, row in kept if number not in self._ledger.dropped]
        trained = sum(is_target for _, row in kept for _, is_target in row.pieces)
        wanted = sum(count for number, count in answers.items() if number not in self._ledger.dropped)
        return CausalData(
            ids=tuple(row.ids for _, row in kept),
            targets=tuple(row.targets for _, row in kept),
            labels=None,
            label_ids=None,
            truncation=truncation,
            answers=AnswerCounts(trained, wanted - trained, len(split - self._ledger.dropped)),
        )

    def _check_last_answers(self, last_answers: Mapping[int, Sequence[int]]) -> None:
        """Report the last answers that are empty or too long, by the number of their example."""
        for number, tokens in sorted(last_answers.items()):
            if not tokens:
                raise user_error(f"example {number} has an empty completion", "remove it, or add a stop sequence")
        self._ledger.take_long_completions(
            {number: len(tokens) for number, tokens in last_answers.items() if len(tokens) >= self._max_length}
        )

    def _rows(self, texts: Sequence[TrainingText]) -> list[Row]:
        """Tokenize texts, each piece separately, so that targets are whole tokens."""
        template = self._template
        firsts = template.tokenize([text.texts[0] for text in texts])
        contexts = iter(template.tokenize_inner([piece for text in texts for piece in text.texts[2::2]]))
        answers = [template.without_eos(piece) for text in texts for piece in text.texts[1::2]]
        targets = iter(template.tokenize_continuations(answers))
        rows = []
        for text, first in zip(texts, firsts, strict=True):
            pieces: list[tuple[Sequence[int], bool]] = [(template.cut_prompt(first, sys.maxsize), False)]
            pieces.append((next(targets), True))
            for _ in text.texts[2::2]:
                pieces += [(next(contexts), False), (next(targets), True)]
            rows.append(Row(pieces))
        return rows

    def _fitted(self, text: TrainingText, row: Row, *, is_final: bool = False) -> list[Row]:
        """Return the row if it fits, else the rows that train what a shorter conversation has.

        The text of an earlier answer that alone is too long has none.
        """
        if len(row) <= self._max_length:
            return [row]
        conversation = text.conversation
        before = conversation.messages[:-1]
        if len(row.last) >= self._max_length:
            return [self._with_cut_answer(conversation, row.last)] if is_final else []
        kept = self._template.fitting(before, conversation.tools, text.texts[-1], self._max_length)
        if len(kept) < len(before):
            texts = self._writer.training_texts(conversation.of_messages([*kept, len(before)]))
            rows = self._rows(texts)
            return [fitted for pair in zip(texts, rows, strict=True) for fitted in self._fitted(*pair)]
        prompt = self._template.tokenize([text.prompt])[0]
        room = self._max_length - len(row.last)
        return [Row([(self._template.cut_prompt(prompt, room), False), (row.last, True)])]

    def _with_cut_answer(self, conversation: Conversation, answer: Sequence[int]) -> Row:
        """Return the last exchange with the beginning of its answer."""
        room, before = self._ledger.rule.least_prompt_room, conversation.messages[:-1]
        kept = self._template.fitting(before, conversation.tools, "", room)
        text = self._writer.render([before[index] for index in kept], conversation.tools, for_generation=True)
        prompt = self._template.cut_prompt(self._template.tokenize([text])[0], room)
        return Row([(prompt, False), (answer[: self._max_length - len(prompt)], True)])
