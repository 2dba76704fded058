"""Thorough checks of texts that all prompts or all completions begin or end with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sweeps.data.checks.view import DataView
from sweeps.data.examples import ChatRecipe, Example
from sweeps.data.findings import Finding, quoted, warning

PROMPT_PREFIX, COMPLETION_PREFIX, PROMPT_SUFFIX = 12, 5, 3
"""The least lengths that are reported: those of OpenAI's retired preparation tool for prefixes.

A suffix of three characters is a separator that somebody has written, such as `\\n->`.
"""

MIN_EXAMPLES = 20


def check_affixes(view: DataView) -> Iterator[Finding]:
    """Report what all training examples begin with, and what all prompts end with.

    The templates of the sweep file do not count, nor does anything in a conversation.
    """
    train = view.parts["train"]
    if isinstance(view.recipe, ChatRecipe) or len(train) < MIN_EXAMPLES:
        return
    place = train[0].file
    prefix = _shared(train, lambda example: example.segments[0])
    if len(prefix.strip()) > PROMPT_PREFIX:
        message = f"all prompts begin with {quoted(prefix)}, {len(prefix)} characters"
        hint = "fine-tuning needs no instruction that is always the same; without it, training costs less"
        yield warning("common-prompt-prefix", place, message, hint, len(train))
    suffix = _shared(train, lambda example: example.segments[-1][::-1])[::-1]
    if len(suffix) >= PROMPT_SUFFIX and not suffix.strip().isalnum() and suffix.strip(" .?!\"')"):
        message = f"all prompts end with {quoted(suffix)} before the separator {view.recipe.separator!r}"
        hint = "if this is the separator, name it with separator: and it is not doubled"
        yield warning("common-prompt-suffix", place, message, hint, len(train))
    prefix = _shared(train, view.answer)
    is_markup = prefix.lstrip().startswith(("{", "[", "<", "```"))
    if len(prefix.strip()) >= COMPLETION_PREFIX and not view.labels and not is_markup:
        message = f"all completions begin with {quoted(prefix)}, {len(prefix)} characters"
        yield warning("common-completion-prefix", place, message, "write only the answer itself", len(train))


def _common_start(first: str, second: str) -> str:
    length = next((n for n, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), len(second))
    return first[:length]


def _shared(examples: Sequence[Example], text_of: Callable[[Example], str]) -> str:
    """Return what all texts begin with; empty if they are all the same."""
    shared: str | None = None
    is_same = True
    for example in examples:
        text = text_of(example)
        if shared is None:
            shared = text
        elif not text.startswith(shared):
            shared = _common_start(shared, text)
            is_same = False
            if not shared:
                break
        else:
            is_same = is_same and len(text) == len(shared)
    return "" if is_same or shared is None else shared
