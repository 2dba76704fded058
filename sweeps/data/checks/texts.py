"""Structural checks of each example by itself: empty, very long, and unencodable texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeps.data.checks.cases import Cases
from sweeps.data.examples import ChatRecipe, Example, Recipe
from sweeps.data.findings import Finding, error
from sweeps.data.readers.decoding import is_utf8

LONG_EXAMPLE_CHARACTERS = 10_000
"""Characters of prompt and completion above which OpenAI's tool proposed to drop an example."""


def check_texts(examples: Sequence[Example], recipe: Recipe) -> Iterator[Finding]:
    """Check each example by itself: empty, very long, and unencodable texts."""
    blank = (
        "" if isinstance(recipe, ChatRecipe) else recipe.completion_text([""] * len(recipe.completion.fields)).strip()
    )
    long = Cases()
    for example in examples:
        prompt, completion = example.prompt, example.completion
        if not any(map(str.strip, example.segments)):
            yield error("empty-prompt", example.place, "the prompt is empty")
        if completion.strip() == blank:
            yield error("empty-completion", example.place, "the completion is empty")
        if not (prompt.isascii() and completion.isascii()) and not is_utf8(prompt + completion):
            message = "the text has half a character (an unpaired surrogate escape), which UTF-8 cannot encode"
            yield error("surrogate", example.place, message)
        if len(prompt) + len(completion) > LONG_EXAMPLE_CHARACTERS:
            long.add(example)
    if long:
        message = (
            f"more than {LONG_EXAMPLE_CHARACTERS:,} characters in {long.in_words()}; models cut text that is too long"
        )
        yield long.warning("long-example", message)


def check_conversations(examples: Sequence[Example]) -> Iterator[Finding]:
    """Report messages after the last answer, which cannot be trained."""
    unanswered = Cases()
    messages = 0
    for example in examples:
        if example.unanswered:
            unanswered.add(example)
            messages += example.unanswered
    if unanswered:
        left_out = f"{messages} message{'s' if messages != 1 else ''} after the last answer left out"
        yield unanswered.warning("unanswered", f"{left_out}: {unanswered.in_words()}")
