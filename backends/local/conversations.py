"""Conversations as the model's chat template writes them, and which part of the text is trained.

An answer is trained in the text in which the model will be asked for it: the template's text of the
messages before it, with the beginning of an answer (the prompt for generation). Its target is the
text that the template adds to that prompt for the answer, the end of the turn included. Nothing is
read from the template's source: the texts of growing prefixes of the conversation decide.

If the text up to and with an answer is also the beginning of the prompt of a later answer, one
sequence trains both. Some templates change earlier turns when later ones come: they remove
reasoning, move the list of tools, or end only the last turn. Then the earlier answer gets a
sequence of its own, so that no answer is trained in a text that the model never sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backends.chat_lines import TrainOn, trained_messages
from backends.contract import BackendError
from backends.local.special_tokens import render
from backends.model_packages.chat_text import Message, answer_after, for_template, turn_end


@dataclass(frozen=True)
class Conversation:
    """Messages, the tools that they may call, and the indices of the answers to train."""

    messages: tuple[Message, ...]
    targets: tuple[int, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(cls, line: Mapping[str, Any], train_on: TrainOn = "last") -> Conversation:
        """Return the conversation of a line of a chat file."""
        messages, tools = line["messages"], tuple(line.get("tools") or ())
        return cls(tuple(map(for_template, messages)), tuple(trained_messages(messages, train_on)), tools)

    def until(self, index: int, targets: Iterable[int]) -> Conversation:
        """Return the part that ends with message `index`, with these answers to train."""
        return Conversation(self.messages[: index + 1], tuple(targets), self.tools)

    def of_messages(self, indices: Sequence[int]) -> Conversation:
        """Return the conversation of these messages, with the answers to train among them."""
        targets = (new for new, old in enumerate(indices) if old in self.targets)
        return Conversation(tuple(self.messages[index] for index in indices), tuple(targets), self.tools)


@dataclass(frozen=True)
class TrainingText:
    """The text of one sequence: what the model reads and what it learns, by turns.

    `texts` begins with a prompt and alternates: the second, fourth, ... text is a target. It ends
    with a target. `conversation` holds the messages up to the last target, and as `targets` the
    answers that this sequence trains.
    """

    texts: tuple[str, ...]
    conversation: Conversation

    @property
    def prompt(self) -> str:
        """The text before the last target."""
        return "".join(self.texts[:-1])


class ConversationText:
    """Writes conversations as text, with the tokenizer's chat template or without one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ends_turns = not tokenizer.chat_template or bool(turn_end(tokenizer).strip())

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), *, for_generation: bool = False
    ) -> str:
        """Return the text of messages; with `for_generation`, the beginning of an answer follows.

        Raises BackendError (user) if the template rejects them.
        """
        return render(self._tokenizer, messages, tools, for_generation=for_generation)

    def answer(self, before: Sequence[Message], answer: Message, tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return the text of an answer after the prompt for it, the end of its turn included."""
        return self._prompt_and_answer(before, answer, tools)[1]

    def _prompt_and_answer(
        self, before: Sequence[Message], answer: Message, tools: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str]:
        whole = self.render([*before, answer], tools)
        prompt = self.render(before, tools, for_generation=True)
        return prompt, answer_after(self._tokenizer, prompt, whole, answer)

    def training_texts(self, conversation: Conversation) -> list[TrainingText]:
        """Return the sequences that train the targets.

        No sequence trains an answer if the template rejects the messages before it. Raises
        BackendError (user) if it rejects those before the last target.
        """
        waiting, texts = list(conversation.targets), []
        turns: dict[int, tuple[str, str]] = {}
        while waiting:
            last = waiting[-1]
            try:
                prompt, answer = self._turn(conversation, last, turns)
            except BackendError:
                if last == conversation.targets[-1]:
                    raise
                waiting.pop()
                continue
            spans = self._spans(conversation, waiting[:-1], prompt, turns)
            pieces, end = [], 0
            for begin, stop in spans.values():
                pieces += [prompt[end:begin], prompt[begin:stop]]
                end = stop
            targets = (*spans, last)
            texts.append(TrainingText((*pieces, prompt[end:], answer), conversation.until(last, targets)))
            waiting = [index for index in waiting if index not in targets]
        return texts[::-1]

    def _turn(self, conversation: Conversation, index: int, turns: dict[int, tuple[str, str]]) -> tuple[str, str]:
        """Return the prompt for an answer, and the text of the answer."""
        if index not in turns:
            messages = conversation.messages
            turns[index] = self._prompt_and_answer(messages[:index], messages[index], conversation.tools)
        return turns[index]

    def _spans(
        self, conversation: Conversation, targets: Sequence[int], prompt: str, turns: dict[int, tuple[str, str]]
    ) -> dict[int, tuple[int, int]]:
        """Return the begin and end in `prompt` of the answers that it contains as they are asked.

        The end of such a turn is a part of the text, so a model learns it.
        """
        spans: dict[int, tuple[int, int]] = {}
        end = 0
        for index in targets if self._ends_turns else ():
            try:
                before, answer = self._turn(conversation, index, turns)
            except BackendError:
                continue
            if len(before) >= end and prompt.startswith(before + answer):
                end = len(before) + len(answer)
                spans[index] = len(before), end
        return spans
