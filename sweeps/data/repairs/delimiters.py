"""Separator, leading space and stop sequence: those that a file carries, and those to write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count

from sweeps.data.examples import DEFAULT_SEPARATOR, DEFAULT_STOP, SEPARATORS, STOPS, PairRecipe
from sweeps.data.repairs.repair import Change
from sweeps.data.repairs.rows import Parts, Row, Texts, all_rows

_LINE_SEPARATOR = re.compile(r"\s*\n(?:#{2,}|={3,}|-{3,}|={3,}>|-{3,}>)\s*\Z")
"""A separator on a line of its own, also without its last line breaks, which editors remove."""

_ARROW = re.compile(r"\s*->\s*\Z")

_ALONE_SHARE = 0.05

_LONGEST = 60
"""Characters at the end of a prompt in which a separator is looked for."""

HABIT = 0.5
"""Share of the texts that must end with ` ->` or a stop sequence to show that it is no accident."""


@dataclass(frozen=True)
class Delimiters:
    """What ends every prompt, what begins every completion, and what ends it."""

    separator: str
    stop: str
    lead: str = " "

    def prompt(self, text: str) -> str:
        """Return the prompt as it is trained."""
        return text + self.separator

    def completion(self, text: str) -> str:
        """Return the completion as it is trained; one that begins with a space needs no other."""
        return f"{'' if text[:1].isspace() else self.lead}{text}{self.stop}"


def without_delimiters(parts: Parts, recipe: PairRecipe) -> Parts:
    """Move the delimiters that the texts carry from the texts to `Row.carried`.

    Which stop sequences they carry depends on all rows; ask again when rows were left out. Beside
    the literal text of a template nothing is looked for.
    """
    prompts = [row.inputs[-1] for _, row in all_rows(parts)] if recipe.prompt.text.endswith("}") else []
    answers = [row.answers[-1] for _, row in all_rows(parts)] if recipe.completion.text.endswith("}") else []
    has_arrows = _is_habit(bool(_ARROW.search(text, max(0, len(text) - _LONGEST))) for text in prompts)
    stops = [stop for stop in STOPS if _is_stop(stop, answers)]
    if recipe.stop.strip() and recipe.stop not in stops:
        stops.append(recipe.stop)

    def separated(row: Row) -> Row:
        carried, inputs, answers = row.carried, row.inputs, row.answers
        if recipe.prompt.text.endswith("}"):
            body = _prompt_body(inputs[-1], recipe.separator, has_arrows)
            carried = carried._replace(separator=inputs[-1][len(body) :] + carried.separator)
            inputs = (*inputs[:-1], body)
        if recipe.completion.text.endswith("}"):
            body = _answer_body(answers[-1], stops)
            carried = carried._replace(stop=answers[-1][len(body) :] + carried.stop)
            answers = (*answers[:-1], body)
        if recipe.completion.text.startswith("{") and answers[0][:1] == " " and not answers[0][1:2].isspace():
            carried = carried._replace(lead=" ")
            answers = (answers[0][1:], *answers[1:])
        return row._replace(inputs=inputs, answers=answers, carried=carried)

    return {part: [separated(row) for row in rows] for part, rows in parts.items()}


def choose(parts: Parts, texts: Texts, separator: str | None, stop: str | None) -> Delimiters:
    """Choose delimiters that occur in no text: those asked for, else carried ones, else usual ones.

    One that the user or a template asks for stays, wherever it occurs.
    """
    recipe = texts.recipe
    assert isinstance(recipe, PairRecipe)
    prompts = [texts.prompt(row) for _, row in all_rows(parts)]
    answers = [texts.answer(row) for _, row in all_rows(parts)]
    if separator is None and recipe.prompt.tail and recipe.separator == recipe.prompt.tail:
        separator = recipe.separator
    stop_habit = _habit([row.carried.stop for _, row in all_rows(parts)], (recipe.stop, *STOPS))
    if separator is None:
        habit = _habit([row.carried.separator for _, row in all_rows(parts)], (recipe.separator, *SEPARATORS))
        longer = (f"\n\n{'#' * length}\n\n" for length in count(4))
        others = (
            known
            for known in chain((DEFAULT_SEPARATOR,), SEPARATORS)
            if not _contains(known, stop_habit if stop is None else [stop])
        )
        separator = _unused(chain(habit, others, longer), prompts, answers)
    if stop is None:
        if stop_habit in ([], [DEFAULT_STOP]) and not any(DEFAULT_STOP in text for text in answers):
            stop = DEFAULT_STOP
        else:
            longer = (f"\n{'=' * length}\n" for length in count(4))
            others = (known for known in STOPS if known not in separator)
            stop = _unused(chain(stop_habit, others, longer), [f" {answer}" for answer in answers], prompts)
    return Delimiters(separator, stop)


def separator_changes(parts: Parts, texts: Texts, delimiters: Delimiters) -> list[Change]:
    """Return the prompts whose own separator is not the one that is written.

    Adding one is no repair, because every sweep does it, unless most prompts have one already.
    """
    rows = [row for _, row in all_rows(parts)]
    is_habit = _is_habit(bool(row.carried.separator) for row in rows)
    return [
        Change(row.place, before, delimiters.prompt(text))
        for row in rows
        if (is_habit or row.carried.separator)
        and (before := (text := texts.prompt(row)) + row.carried.separator) != delimiters.prompt(text)
    ]


def stop_changes(parts: Parts, texts: Texts, delimiters: Delimiters) -> list[Change]:
    """Return the completions whose own stop sequence is not the one that is written."""
    rows = [row for _, row in all_rows(parts)]
    is_habit = _is_habit(bool(row.carried.stop.strip()) for row in rows)
    return [
        Change(row.place, texts.answer(row) + row.carried.stop, texts.answer(row) + delimiters.stop)
        for row in rows
        if (is_habit or row.carried.stop.strip()) and row.carried.stop != delimiters.stop
    ]


def lead_changes(parts: Parts, texts: Texts, delimiters: Delimiters) -> list[Change]:
    """Return the completions without a leading space if most of the others have one."""
    rows = [row for _, row in all_rows(parts)]
    if not _is_habit(bool(row.carried.lead) for row in rows):
        return []
    return [
        Change(row.place, text, delimiters.lead + text)
        for row in rows
        if not row.carried.lead and not (text := texts.answer(row))[:1].isspace()
    ]


def _prompt_body(text: str, separator: str, has_arrows: bool) -> str:
    """Return the text before all the separators at its end."""
    while True:
        body = text.removesuffix(separator)
        start = max(0, len(body) - _LONGEST)
        if found := _LINE_SEPARATOR.search(body, start) or (has_arrows and _ARROW.search(body, start)):
            body = body[: found.start()]
        if body == text:
            return body
        text = body


def _answer_body(text: str, stops: Sequence[str]) -> str:
    """Return the text before all the stop sequences at its end."""
    while True:
        body = text
        for stop in stops:
            bare = body.rstrip()
            if _ends_with(bare, stop):
                body = bare[: len(bare) - len(stop.rstrip())]
        body = body.removesuffix(DEFAULT_STOP) if body == text else body
        if body == text:
            return body
        text = body


def _is_stop(stop: str, answers: Sequence[str]) -> bool:
    """Return whether most answers end with the stop sequence, and hardly any is it alone.

    `$$$` is a stop sequence, and a price class.
    """
    ending = [text for text in answers if _ends_with(text, stop)]
    alone = sum(text.strip() == stop.strip() for text in ending)
    return len(ending) > HABIT * len(answers) and alone <= _ALONE_SHARE * len(ending)


def _ends_with(text: str, stop: str) -> bool:
    return text.rstrip().endswith(stop.rstrip())


def _habit(carried: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the delimiter that most texts carry, if any; lost line breaks do not matter."""
    for delimiter in known:
        bare = delimiter.strip()
        if _is_habit(text == delimiter or bool(bare and text.strip() == bare) for text in carried):
            return [delimiter]
    return []


def _contains(separator: str, stops: Sequence[str]) -> bool:
    return any(stop.strip() and stop in separator for stop in stops)


def _is_habit(cases: Iterable[bool]) -> bool:
    """Return whether more than `HABIT` of the cases are true."""
    flags = list(cases)
    return sum(flags) > HABIT * len(flags)


def _unused(candidates: Iterable[str], delimited: Sequence[str], others: Sequence[str]) -> str:
    """Return the first delimiter that is in no text, and begins only at the end of those it ends.

    `***` after `a*` would begin too early.
    """
    return next(
        candidate
        for candidate in candidates
        if not any(candidate in text for text in others)
        and all((text + candidate).index(candidate) == len(text) for text in delimited)
    )
