"""Objectives that search for the worst model, or for the one that memorises, with each backend."""

from __future__ import annotations

import pytest
from sweep_files import GOOD

from sweeps.errors import UserInputError
from sweeps.spec.loading import from_document
from sweeps.spec.yaml_source import parse

pytestmark = pytest.mark.unit

BACKENDS = {
    "fake": "{type: fake, model: fake-small}",
    "local": "{type: local, model: 'builtin:tiny-lm'}",
    "hosted": "{type: hosted, host: openai, model: gpt-4.1-mini-2025-04-14}",
    "command": "{type: command, run: 'python train.py --epochs {n_epochs} --batch {batch_size} --out {output}', "
    "hyperparameters: {n_epochs: {type: int, low: 1}, batch_size: {type: int, low: 1}}}",
}


def problems(backend: str, objective: str) -> list[str]:
    text = GOOD.replace("{type: fake, model: fake-small}", BACKENDS[backend])
    text = text.replace("{maximize: valid_accuracy}", objective).replace("trials: 4", "trials: 4, scheduler: none")
    try:
        from_document(parse(text, "f.yaml"))
    except UserInputError as mistakes:
        return [f"{problem.place}: {problem.message} ({problem.hint})" for problem in mistakes.problems]
    return []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("objective", "right"),
    [
        ("{maximize: valid_loss}", "write `minimize: valid_loss`"),
        ("{minimize: valid_accuracy}", "write `maximize: valid_accuracy`"),
        ("{minimize: valid_macro_f1}", "write `maximize: valid_macro_f1`"),
        ("[{minimize: valid_loss}, {minimize: valid_accuracy}]", "write `maximize: valid_accuracy`"),
    ],
)
def test_a_reversed_objective_is_a_mistake_with_every_backend(backend: str, objective: str, right: str) -> None:
    (problem,) = problems(backend, objective)
    assert "searches for the worst model" in problem
    assert right in problem


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("objective", "right"),
    [
        ("{minimize: train_loss}", "write `minimize: valid_loss`"),
        ("{maximize: train_accuracy}", "write `maximize: valid_accuracy`"),
        ("[{minimize: valid_loss}, {maximize: train_loss}]", "write `minimize: valid_loss`"),
    ],
)
def test_an_objective_of_the_training_examples_is_a_mistake(backend: str, objective: str, right: str) -> None:
    (problem,) = problems(backend, objective)
    assert "prefers what it memorises" in problem
    assert "write `m" in problem if backend == "command" else right in problem


@pytest.mark.parametrize("backend", BACKENDS)
def test_objectives_of_the_validation_set_are_accepted(backend: str) -> None:
    assert problems(backend, "[{minimize: valid_loss}, {maximize: valid_accuracy}]") == []
