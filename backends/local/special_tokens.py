"""The tokens that pad a text and end an answer, where a model's files disagree about them.

config.json, generation_config.json, the tokenizer and its chat template each name some. What counts
is which of them the training data contain and the model's own code reads.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from backends.contract import BackendError
from backends.local.model_source import user_error

_QUESTION, _ANSWER = "question", "answer"

TEMPLATE_DATE = date(2024, 7, 26)
"""The date in texts of templates that write today's one: with the real date, a run that is resumed
on another day would train on other texts. It is the default of Llama 3.1.
"""

_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(
        f" | replace('{code}', '{TEMPLATE_DATE.strftime(code)}')" for code in ("%d", "%m", "%b", "%B", "%Y", "%y")
    )
    + " }}{%- endmacro +%}"
)
"""Hides the function of this name that templates can call."""


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
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    *,
    for_generation: bool = False,
) -> str:
    """Return a conversation as the tokenizer's chat template writes it, on `TEMPLATE_DATE`.

    With `for_generation`, the beginning of the answer follows. Raises BackendError (user) if the
    template rejects the conversation.
    """
    try:
        template = str(tokenizer.get_chat_template(tools=list(tools) or None))
        text = tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            chat_template=_FIXED_DATE + template if "strftime_now" in template else template,
            tokenize=False,
            add_generation_prompt=for_generation,
        )
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        roles = ", ".join(str(message["role"]) for message in messages[:6])
        message = f"the chat template of the model rejects a conversation ({roles}): {error}"
        raise user_error(message, "change the messages, or the template in the tokenizer's files") from error
    return str(text)


@lru_cache(maxsize=8)
def turn_end(tokenizer: Any) -> str:
    """Return the text that the chat template puts after an answer; empty if there is none.

    If the template writes an answer in another way than its prompt for one begins, the end of
    sequence counts as the end where the template has it there.
    """
    if not tokenizer.chat_template:
        return ""
    eos = str(tokenizer.eos_token or "")
    question = {"role": "user", "content": _QUESTION}
    try:
        prompt = render(tokenizer, [question], for_generation=True)
        whole = render(tokenizer, [question, {"role": "assistant", "content": _ANSWER}])
    except BackendError:  # it takes other conversations only; those of the data are rendered as they are
        return eos
    if whole.startswith(prompt):
        return whole[len(prompt) :].partition(_ANSWER)[2]
    end = whole.rpartition(_ANSWER)[2] if _ANSWER in whole else ""
    return eos if (eos and eos in end) or not end.strip() else end


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
