"""What `sweep scale` is asked for: sizes, models, seeds. Checks what needs no data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from sweeps.errors import Problem, UserInputError
from sweeps.spec.sweep_file import NAME_PATTERN

MAX_SEEDS = 20
MIN_SEEDS_OF_AN_INTERVAL = 3
"""The interval of two seeds has 12.7 standard errors to each side, so it says nothing."""

_EXAMPLE = "e.g. --sizes 100,300,1000,3000"


@dataclass(frozen=True)
class ModelChoice:
    """A base model and the label of its line. `model` is None for the model of the sweep file."""

    label: str
    model: str | None = None


@dataclass(frozen=True)
class ScaleRequest:
    """The sizes in ascending order, the models, and how many seeds each point trains.

    `searches`: the hyperparameters are swept at each size. Otherwise each point trains the centre
    of the space.
    """

    sizes: tuple[int, ...]
    models: tuple[ModelChoice, ...]
    seeds: int = MIN_SEEDS_OF_AN_INTERVAL
    searches: bool = False


def read_request(sizes: str, models: Sequence[str], seeds: int, *, searches: bool) -> ScaleRequest:
    """Read the options of the command. An empty `models` means the model of the sweep file.

    `models` holds names or LABEL=NAME, each text one or several of them with commas between. Raises
    UserInputError with every mistake.
    """
    problems: list[Problem] = []
    read_sizes = _sizes(sizes, problems)
    choices = [_choice(text) for listed in models for text in listed.split(",") if text.strip()]
    problems += _label_problems(choices)
    if not 1 <= seeds <= MAX_SEEDS:
        problems.append(Problem("--seeds", f"{seeds} is not between 1 and {MAX_SEEDS}", "e.g. --seeds 3"))
    elif 1 < seeds < MIN_SEEDS_OF_AN_INTERVAL:
        hint = f"write --seeds {MIN_SEEDS_OF_AN_INTERVAL} or more, or 1 for a first look without intervals"
        problems.append(Problem("--seeds", "the interval of two seeds is too wide to say anything", hint))
    elif searches and seeds < MIN_SEEDS_OF_AN_INTERVAL:
        hint = f"write --seeds {MIN_SEEDS_OF_AN_INTERVAL} or more"
        problems.append(Problem("--seeds", "the best of a search owes a part of its value to chance", hint))
    if problems:
        raise UserInputError(problems)
    return ScaleRequest(tuple(read_sizes), tuple(choices), seeds, searches)


def model_label(model: str) -> str:
    """Return the default label of a model: the last part of its name."""
    last = PurePosixPath(model.rstrip("/").replace("\\", "/")).name.rpartition(":")[2]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-._") or "model"


def _sizes(text: str, problems: list[Problem]) -> list[int]:
    sizes: list[int] = []
    for word in (part.strip() for part in text.split(",")):
        if not re.fullmatch(r"[0-9]{1,12}", word) or int(word) < 1:
            problems.append(Problem("--sizes", f"{word!r} is not a number of training examples", _EXAMPLE))
        else:
            sizes.append(int(word))
    if problems:
        return sizes
    ascending = sorted(set(sizes))
    if sizes != ascending:
        hint = f"write --sizes {','.join(map(str, ascending))}"
        problems.append(Problem("--sizes", "the sizes do not ascend", hint))
    if len(ascending) < 2:
        hint = f"name at least two, and four for an extrapolation: {_EXAMPLE}"
        problems.append(Problem("--sizes", "one size makes no curve", hint))
    return sizes


def _choice(text: str) -> ModelChoice:
    label, equals, model = (part.strip() for part in text.partition("="))
    return ModelChoice(label, model) if equals else ModelChoice(model_label(label), label)


def _label_problems(choices: Sequence[ModelChoice]) -> Iterator[Problem]:
    seen: set[str] = set()
    for choice in choices:
        if not re.fullmatch(NAME_PATTERN.rstrip("$"), choice.label) or not choice.model:
            hint = "write LABEL=MODEL, with letters, digits, `.`, `_` and `-` in the label"
            problem = f"{choice.label!r} cannot be a label" if choice.model else f"{choice.label!r} has no model"
            yield Problem("--models", problem, hint)
        elif choice.label in seen:
            hint = f"give each its own label, e.g. --models small={choice.model},large=..."
            yield Problem("--models", f"two models have the label {choice.label!r}", hint)
        seen.add(choice.label)
