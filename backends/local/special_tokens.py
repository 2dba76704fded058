"""The tokens that pad a text and end an answer, where a model's files disagree about them.

config.json, generation_config.json, the tokenizer and its chat template each name some. What counts
is which of them the training data contain and the model's own code reads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.local.model_source import user_error
from backends.model_packages import chat_text
from backends.model_packages.chat_text import turn_end


def padding_id(tokenizer: Any, config: Any) -> int:
    """Return the id to pad with: a token that the model has, and that ends no text.

    A classifier of the decoder kind reads its result at the last token that is not padding. So the
    padding of the inputs must be the padding of its configuration; see `model.load_model`.
    """
    text_config = config.get_text_config()
    candidates = (tokenizer.pad_token_id, text_config.pad_token_id, tokenizer.eos_token_id)
    vocabulary_size = int(getattr(text_config, "vocab_size", sys.maxsize))
    known = (int(candidate) for candidate in candidates if isinstance(candidate, int))
    return next((candidate for candidate in known if 0 <= candidate < vocabulary_size), 0)


def render(
    tokenizer: Any,
    messages: Sequence[chat_text.Message],
    tools: chat_text.Tools = (),
    *,
    for_generation: bool = False,
) -> str:
    """Return the text of a conversation; see `chat_text.write`.

    Raises BackendError (user) if the chat template rejects the conversation.
    """
    try:
        return chat_text.write(tokenizer, messages, tools, for_generation=for_generation)
    except chat_text.RejectedConversationError as error:
        message = f"the chat template of the model rejects a conversation {error}"
        raise user_error(message, "change the messages, or the template in the tokenizer's files") from error


def end_ids(tokenizer: Any, module: Any) -> frozenset[int]:
    """Return the tokens after which a generated answer is complete.

    These are the tokenizer's end of sequence, those that the model's own configurations name, and
    the one that ends an answer in the chat template. A number in a configuration counts only if the
    tokenizer has a special token for it: by default it may be that of an ordinary word.
    """
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    configured = (
        *_ids(getattr(getattr(module, "generation_config", None), "eos_token_id", None)),
        *_ids(module.config.get_text_config().eos_token_id),
    )
    first_after_turn = tokenizer(turn_end(tokenizer), add_special_tokens=False, verbose=False)["input_ids"][:1]
    return frozenset(
        [*_ids(tokenizer.eos_token_id), *(token for token in (*configured, *first_after_turn) if token in special)]
    )


def stop_text(tokenizer: Any) -> str:
    """Return the text that ends an answer where the chat template has no special token for it."""
    text = turn_end(tokenizer).strip()
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    first = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:1] if text else []
    return "" if set(first) & special else text


def check_token_ids(
    rows: Iterable[Sequence[int] | NDArray[np.int64]], vocabulary_size: int, tokenizer: Any, model_name: str
) -> None:
    """Raise BackendError (user) if a row has a token for which the model has no embedding."""
    largest = max((int(max(row)) for row in rows if len(row)), default=0)
    if largest >= vocabulary_size:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise user_error(
            f"the tokenizer of {model_name} writes token {largest} ({token!r}), "
            f"but the model knows only {vocabulary_size} tokens",
            "give model and tokenizer that belong together, or resize the model's embeddings",
        )


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(token) for token in value) if isinstance(value, list | tuple) else (int(value),)
