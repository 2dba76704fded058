"""What is to be learned: the task, its labels, and the answers that are trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from backends.chat_lines import TrainOn
from sweeps.data import checks
from sweeps.data.examples import Example, PairRecipe, Recipe
from sweeps.data.spec import DataSpec


def task_and_labels(
    spec: DataSpec, examples: Sequence[Example], recipe: Recipe
) -> tuple[Literal["classification", "generation"], tuple[str, ...]]:
    """Return the task and the labels as they stand in the prepared files.

    Labels are in the order of the sweep file, else in alphabetical order.
    """
    if spec.labels is not None:
        if isinstance(recipe, PairRecipe) and len(recipe.completion.fields) == 1:
            labels = [recipe.completion_text([label]) for label in spec.labels]
            # A column of completions may already begin with the space that separates words.
            with_space = [recipe.completion_text([f" {label}"]) for label in spec.labels]
            known = set(labels) | set(with_space)
            found = {example.completion for example in examples if example.completion in known}
            if found and not found & set(labels):
                labels = with_space
        else:
            labels = [label + recipe.stop for label in spec.labels]
        return "classification", tuple(labels)
    is_classification = spec.task == "classification"
    if spec.task == "auto" and answers_to_train(spec, examples, ()) == "last":
        is_classification = checks.is_classification(
            example.completion.removesuffix(recipe.stop) for example in examples
        )
    if not is_classification:
        return "generation", ()
    return "classification", tuple(sorted({example.completion for example in examples}))


def answers_to_train(spec: DataSpec, examples: Iterable[Example], labels: Sequence[str]) -> TrainOn:
    """Return which answers to train: `last` wherever all trained answers are last messages anyway.

    So a data set with one answer per example is the same, whatever the sweep file says.
    """
    if labels or spec.train_on == "last":
        return "last"
    has_others = any(example.trained_answers("all") != example.trained_answers("last") for example in examples)
    return "all" if has_others else "last"
