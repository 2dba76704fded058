"""Thorough checks of style: few texts that are written unlike nearly all the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from sweeps.data.checks.cases import Cases
from sweeps.data.checks.view import DataView
from sweeps.data.examples import ChatRecipe, Example
from sweeps.data.findings import Finding

MIN_EXAMPLES = 50

EXCEPTION_SHARE = 0.02
"""Up to this share are exceptions from a habit; more are a style of their own (our choice)."""

SCRIPT_SHARE = 0.1
"""Up to this share of the texts may be in another script than the others to be reported."""

MIN_LETTERS = 5

CASE_SAMPLE = 5_000
"""Texts whose letters are counted, evenly from all."""

_ENDINGS = tuple(".!?;:…。！？；：\"'”’»)]}`*")

_SCRIPTS = {
    "Cyrillic": "\u0400-\u052f",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f",
    "Hebrew": "\u0590-\u05ff",
    "Devanagari": "\u0900-\u097f",
    "Thai": "\u0e00-\u0e7f",
    "Chinese or Japanese": "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff",
    "Korean": "\u1100-\u11ff\uac00-\ud7af",
}
_LETTERS = {name: re.compile(f"[{letters}]") for name, letters in _SCRIPTS.items()}
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")


class Habit(NamedTuple):
    """A property that texts have, have not, or (None) do not show, and how to name both."""

    code: str
    shows: Callable[[str], bool | None]
    named: str
    named_without: str
    hint: str
    least: int = 1
    """Fewer exceptions are chance: free text is not uniform."""


ANSWER_HABITS = (
    Habit(
        "leading-space",
        lambda text: text[0].isspace() if text else None,
        "start with a space",
        "start without a space",
        "a word with a space before it is another token; write all completions alike",
    ),
    Habit(
        "first-letter",
        lambda text: first.isupper() if (first := text.lstrip()[:1]) and first.lower() != first.upper() else None,
        "start with a capital letter",
        "start with a small letter",
        "the model learns both ways of writing; write all completions alike",
        3,
    ),
    Habit(
        "end-punctuation",
        lambda text: text.rstrip().endswith(_ENDINGS) if text.strip() else None,
        "end with a punctuation mark",
        "end without a punctuation mark",
        "they may be cut off; complete them, or write all completions alike",
        3,
    ),
)
"""Habits of the completions. Labels have stricter checks of their own."""

PROMPT_HABIT = Habit(
    "surrounding-space",
    lambda text: text != text.strip() if text else None,
    "have spaces around a field",
    "have no space around a field",
    "a prompt at inference without the spaces is another prompt; remove them",
)


def check_style(view: DataView) -> Iterator[Finding]:
    """Report the exceptions from habits that nearly all training examples share, and upper case."""
    examples = view.parts["train"]
    if len(examples) < MIN_EXAMPLES:
        return
    if not view.labels:
        for habit in ANSWER_HABITS:
            yield from _exceptions(examples, habit, view.answer, "completions")
        yield from _upper_case(examples, view.answer, "completions")
    if not isinstance(view.recipe, ChatRecipe):
        yield from _exceptions(examples, PROMPT_HABIT, lambda example: _outermost(example.segments), "prompts")
    yield from _upper_case(examples, lambda example: " ".join(example.segments), "prompts")
    yield from _scripts(view)


def _exceptions(
    examples: Sequence[Example], habit: Habit, text_of: Callable[[Example], str], what: str
) -> Iterator[Finding]:
    shown = {True: Cases(), False: Cases()}
    for example in examples:
        shows = habit.shows(text_of(example))
        if shows is not None:
            shown[shows].add(example)
    rare, usual = sorted(shown.values(), key=lambda cases: cases.count)
    if habit.least <= rare.count <= EXCEPTION_SHARE * (rare.count + usual.count):
        named, others = habit.named, habit.named_without
        if rare is shown[False]:
            named, others = others, named
        message = f"{what} that {named}: {rare.in_words()}; the other {usual.count:,} {others}"
        yield rare.warning(habit.code, message, habit.hint)


def _outermost(segments: Sequence[str]) -> str:
    """Return the first field with a space around it, else the first one."""
    return next((text for text in segments if text != text.strip()), segments[0] if segments else "")


def _upper_case(examples: Sequence[Example], text_of: Callable[[Example], str], what: str) -> Iterator[Finding]:
    """Report texts mostly in capital letters: the rule of OpenAI's retired preparation tool."""
    upper = lower = 0
    for example in islice(examples, 0, None, max(1, len(examples) // CASE_SAMPLE)):
        text = text_of(example)
        small = sum(map(str.islower, text))
        lower += small
        upper += sum(map(str.isupper, text)) if small < len(text) else 0
    if upper * 2 > lower:
        cases = Cases.of(examples, range(len(examples)))
        message = f"{upper / (upper + lower):.0%} of the letters of the {what} are capital letters"
        hint = "models know ordinary writing best; write them in lower case unless the case has a meaning"
        yield cases.warning("upper-case", message, hint)


def _scripts(view: DataView) -> Iterator[Finding]:
    """Report texts in another script than nearly all others of their kind, by most letters."""
    texts: list[tuple[str, Callable[[Example], str]]] = [("prompts", lambda example: " ".join(example.segments))]
    if not view.labels:
        texts.append(("completions", view.answer))
    for part, examples in view.parts.items():
        for what, text_of in texts:
            yield from _rare_scripts(examples, text_of, f"{part} {what}")


def _rare_scripts(examples: Sequence[Example], text_of: Callable[[Example], str], what: str) -> Iterator[Finding]:
    found: dict[str, Cases] = {}
    for example in examples:
        if script := script_of(text_of(example)):
            found.setdefault(script, Cases()).add(example)
    total = sum(cases.count for cases in found.values())
    usual = max(found, key=lambda script: found[script].count, default="")
    for script, cases in sorted(found.items()):
        if script != usual and total >= MIN_EXAMPLES and cases.count <= SCRIPT_SHARE * total:
            message = f"{what} in {script} letters: {cases.in_words()}; nearly all others are in {usual} ones"
            hint = "if only one language is meant, remove them; else add more of the rare one"
            yield cases.warning("mixed-scripts", message, hint)


def script_of(text: str) -> str:
    """Return the script of most letters of a text, empty if it has hardly any letter."""
    counts = {"Latin": len(_LATIN.findall(text))}
    if not text.isascii():
        counts |= {name: len(letters.findall(text)) for name, letters in _LETTERS.items()}
    script = max(counts, key=lambda name: counts[name])
    return script if counts[script] >= MIN_LETTERS else ""
