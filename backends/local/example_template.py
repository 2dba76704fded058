"""Conversion of a line of a data file into the text and the tokens of prompt and completion."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from backends.local.conversations import ConversationText
from backends.local.special_tokens import stop_text
from backends.model_packages.chat_text import Message, Tools, fitting, messages_before_answer, turn_end

Line = Mapping[str, Any]

_ANCHOR = "\n"


@dataclass(frozen=True)
class ExampleTemplate:
    """Conversion of a line into prompt and completion.

    `chat` uses the tokenizer's chat template if it has one.
    """

    tokenizer: Any
    layout: str
    stop: str

    @cached_property
    def conversations(self) -> ConversationText:
        """The writer of conversations, for the layout `chat`."""
        return ConversationText(self.tokenizer)

    @property
    def _ends_in_text(self) -> bool:
        """Whether a stop sequence or the chat template ends a completion."""
        return bool(self.stop or (self.layout == "chat" and turn_end(self.tokenizer).strip()))

    @property
    def eos(self) -> tuple[int, ...]:
        """The tokens to add to a completion: end-of-sequence, or nothing if a stop sequence or
        template ends it.
        """
        return () if self._ends_in_text or self.tokenizer.eos_token_id is None else (self.tokenizer.eos_token_id,)

    @property
    def stop_text(self) -> str:
        """The text before which a generated answer ends; empty if only tokens end it."""
        return self.stop or (stop_text(self.tokenizer) if self.layout == "chat" else "")

    @property
    def has_end(self) -> bool:
        """Whether something marks the end of a completion, so that generation can stop."""
        return self._ends_in_text or bool(self.eos)

    @cached_property
    def bos(self) -> tuple[int, ...]:
        """The tokens before a prompt: beginning-of-sequence if the tokenizer itself adds it, else
        nothing.
        """
        if self.layout == "chat" and self.tokenizer.chat_template:
            return ()  # the chat template contains it
        bos = self.tokenizer.bos_token_id
        with_special = self.tokenizer("a", verbose=False)["input_ids"]
        return (bos,) if bos is not None and with_special[:1] == [bos] else ()

    def prompt(self, line: Line) -> str:
        """Return the text before the completion."""
        if self.layout == "completion":
            return str(line["prompt"])
        return self.conversations.render(messages_before_answer(line), line.get("tools") or (), for_generation=True)

    def completion(self, line: Line) -> str:
        """Return the text of the line's own completion."""
        return self.completion_for(line, str(self.answer(line)))

    def completion_for(self, line: Line, answer: str) -> str:
        """Return the text that the line's completion would have if its answer were `answer`."""
        if self.layout == "completion":
            return answer
        message = {"role": "assistant", "content": answer}
        return self.without_eos(
            self.conversations.answer(messages_before_answer(line), message, line.get("tools") or ())
        )

    def without_eos(self, answer: str) -> str:
        """Return the text of an answer without an end that `eos` adds as a token."""
        return (
            answer.removesuffix(self.tokenizer.eos_token) if self.eos and not self.tokenizer.chat_template else answer
        )

    def answer(self, line: Line) -> str:
        """Return the correct answer exactly as the file has it."""
        return str(line["completion"] if self.layout == "completion" else line["messages"][-1]["content"])

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts as they are, without special tokens."""
        if not texts:
            return []
        encoded: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return encoded

    def tokenize_continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts that follow another text, and add `eos`."""
        eos = self.eos
        return [[*tokens, *eos] for tokens in self.tokenize_inner(texts)]

    def tokenize_inner(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts that follow another text.

        Some tokenizers insert a space at the beginning of a text. Each text is therefore tokenized
        after an anchor whose tokens are then removed.
        """
        anchor = self.tokenize([_ANCHOR])[0]
        continuations = self.tokenize([_ANCHOR + text for text in texts])
        merged = [n for n, tokens in enumerate(continuations) if tokens[: len(anchor)] != anchor]
        result = [tokens[len(anchor) :] for tokens in continuations]
        for n, tokens in zip(merged, self.tokenize([texts[n] for n in merged]), strict=True):
            result[n] = tokens  # the tokenizer has merged the anchor with the text
        return result

    def prompt_tokens(self, lines: Sequence[Line]) -> list[list[int]]:
        """Return the tokens of each whole prompt, at least one."""
        return [self.cut_prompt(tokens, sys.maxsize) for tokens in self.tokenize([self.prompt(line) for line in lines])]

    def fitted_prompt(self, line: Line, whole: Sequence[int], limit: int) -> list[int]:
        """Return a prompt, of which `whole` has the tokens, cut to at most `limit` tokens, but at
        least one.

        A conversation loses its earliest exchanges before it loses a part of the last question.
        """
        if len(whole) <= max(limit, 1):
            return list(whole)
        tokens = whole[len(self.bos) :]
        if self.layout == "chat":
            before, tools = messages_before_answer(line), line.get("tools") or ()
            kept = [before[index] for index in self.fitting(before, tools, "", limit)]
            tokens = self.tokenize([self.conversations.render(kept, tools, for_generation=True)])[0]
        return self.cut_prompt(tokens, limit)

    def tokenize_prompts(self, lines: Sequence[Line], limit: int) -> tuple[list[list[int]], list[bool]]:
        """Return the tokens of each prompt, at most `limit`, and whether it was cut for that."""
        whole = self.prompt_tokens(lines)
        fitted = [self.fitted_prompt(line, tokens, limit) for line, tokens in zip(lines, whole, strict=True)]
        return fitted, [len(tokens) > limit for tokens in whole]

    def cut_prompt(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return a prompt of at most `limit` tokens, and at least one: without its beginning."""
        room = max(limit - len(self.bos), 0)
        # A completion's first token must be predicted from some token, even after an empty prompt.
        return [*self.bos, *tokens[max(len(tokens) - room, 0) :]] or [self.tokenizer.eos_token_id or 0]

    def fitting(self, before: Sequence[Message], tools: Tools, answer: str, limit: int) -> list[int]:
        """Return the indices of the messages that stay, without early exchanges, so that the prompt
        and the text of its answer fit into `limit` tokens; see `chat_text.fitting`.
        """

        def fits(messages: Sequence[Message]) -> bool:
            text = self.conversations.render(messages, tools, for_generation=True) + answer
            return len(self.bos) + len(self.tokenize([text])[0]) <= limit

        return fitting(before, fits)
