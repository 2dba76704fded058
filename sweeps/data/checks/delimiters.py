"""Structural checks of the separator and the stop sequence inside texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweeps.data.checks.cases import Cases
from sweeps.data.examples import SEPARATORS, STOPS, ChatRecipe, Example, PairRecipe, Recipe
from sweeps.data.findings import Finding

DOUBLED_SHARE = 0.01
"""Share of the examples that must end with a delimiter of their own; fewer may be chance."""


def check_delimiters(examples: Sequence[Example], recipe: Recipe) -> Iterator[Finding]:
    """Look for the separator and the stop sequence inside texts, and for doubled ones."""
    if isinstance(recipe, ChatRecipe):
        return
    stop, separator = recipe.stop, recipe.separator
    cut, in_prompt, separated = Cases(), Cases(), Cases()
    unused = [candidate for candidate in STOPS if candidate not in separator]
    for example in examples:
        completion, segments = example.completion, example.segments
        if stop and stop in completion[: -len(stop)]:
            cut.add(example)
        unused = [candidate for candidate in unused if candidate not in completion]
        # Prompts may have line breaks and spaces: the stop sequence cuts generated text only.
        if stop.strip() and any(stop in text for text in segments):
            in_prompt.add(example)
        if separator in completion.removesuffix(stop) or any(separator in text for text in segments):
            separated.add(example)
    if cut:
        hint = f"set stop: {_yaml(unused[0])}, which no completion has" if unused else "set stop: to another text"
        message = f"the stop sequence {stop!r} would cut the completion of {cut.in_words()}"
        yield cut.error("stop-inside", message, hint)
    if in_prompt:
        message = f"the stop sequence {stop!r} is inside the prompt of {in_prompt.in_words()}"
        yield in_prompt.warning("stop-in-prompt", message, "set stop: to a text that the data does not have")
    if separated:
        message = f"the separator {separator!r} is inside {separated.in_words()}"
        yield separated.warning("separator-inside", message, "set separator: to a text that the data does not have")
    yield from _doubled(examples, recipe)


def _doubled(examples: Sequence[Example], recipe: PairRecipe) -> Iterator[Finding]:
    """Look for texts that bring a separator or a stop sequence before the one of the recipe.

    Files that were prepared for another model have them, and the model would learn both.
    """
    separators: dict[str, Cases] = {ending: Cases() for ending in SEPARATORS if ending != recipe.separator}
    stops: dict[str, Cases] = {ending: Cases() for ending in STOPS if ending != recipe.stop}
    for example in examples:
        own_text = example.segments[-1].removesuffix(recipe.separator)
        for ending, cases in separators.items():
            if own_text.endswith(ending) or own_text.endswith(ending.rstrip("\n")):
                cases.add(example)
                break
        answer = example.completion.removesuffix(recipe.stop)
        for ending, cases in stops.items():
            if answer.endswith(ending):
                cases.add(example)
                break
    for ending, cases in separators.items():
        if _is_habit(cases, examples):
            message = f"prompts end with {ending!r} before the separator {recipe.separator!r}: {cases.in_words()}"
            hint = f"write separator: {_yaml(ending)}, or remove it from the texts"
            yield cases.warning("doubled-separator", message, hint)
    for ending, cases in stops.items():
        if _is_habit(cases, examples):
            message = f"completions end with {ending!r} before the stop sequence {recipe.stop!r}: {cases.in_words()}"
            yield cases.warning("doubled-stop", message, f"write stop: {_yaml(ending)}, or remove it from the texts")


def _is_habit(cases: Cases, examples: Sequence[Example]) -> bool:
    return cases.count >= max(2, DOUBLED_SHARE * len(examples))


def _yaml(text: str) -> str:
    return '"' + text.replace("\n", "\\n") + '"'
