"""No source file repeats a recommendation: the numbers are in catalogue.toml and nowhere else.

A passage of code repeats a recommendation if it is about a hyperparameter and contains both ends of
a range that is recommended for it. A passage is about a hyperparameter if it is

- the value next to its name in a dictionary or a keyword argument,
- the smallest call or sequence that contains its name as text, or
- a statement that has it as a variable.

So the declarations of a backend, one call per hyperparameter, are not mixed up with each other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import backends
import search_spaces
import sweeps
from search_spaces.catalogue import Catalogue

pytestmark = pytest.mark.unit

SOURCES = sorted(
    path
    for package in (backends, search_spaces, sweeps)
    for folder in package.__path__
    for path in Path(folder).rglob("*.py")
)


Ranges = dict[str, set[tuple[float, float]]]


def recommended_ranges(with_cases: bool) -> Ranges:
    ranges: Ranges = {}
    for entry in Catalogue.load().entries.values():
        cases = [(case.low, case.high) for case in entry.cases if with_cases]
        for low, high in [(entry.low, entry.high), *cases]:
            if low is not None and high is not None and low != high:
                percent = {(low * 100, high * 100)} if entry.unit == "fraction_of_training_set" else set()
                ranges.setdefault(entry.parameter, set()).update({(low, high)}, percent)
    return ranges


DECLARED = recommended_ranges(with_cases=True)
COMPUTED = recommended_ranges(with_cases=False)
"""For statements with variables, in which 1 and 2 can mean anything."""


def passages(tree: ast.AST) -> Iterator[tuple[str, ast.AST, Ranges]]:
    """Yield (name, passage about it, ranges that the passage must not contain)."""
    for node in ast.walk(tree):
        match node:
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant):
                        yield str(key.value), value, DECLARED
            case ast.keyword(arg=str(name), value=value):
                yield name, value, DECLARED
            case ast.Call() | ast.Tuple() | ast.List():
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.Constant) and isinstance(child.value, str):
                        yield child.value, node, DECLARED
            case ast.stmt() if not hasattr(node, "body"):
                for variable in ast.walk(node):
                    if isinstance(variable, ast.Name | ast.Attribute):
                        name = variable.id if isinstance(variable, ast.Name) else variable.attr
                        yield name.lower(), node, COMPUTED


def numbers_in(node: ast.AST) -> set[float]:
    return {
        float(constant.value)
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant)
        and isinstance(constant.value, int | float)
        and not isinstance(constant.value, bool)
    }


def repetitions(source: str) -> list[str]:
    return [
        f"line {getattr(passage, 'lineno', 0)}: {name} {low:g} .. {high:g}"
        for name, passage, ranges in passages(ast.parse(source))
        for low, high in ranges.get(name, ())
        if {low, high} <= numbers_in(passage)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-3:]))
def test_no_source_file_repeats_a_recommendation(path: Path) -> None:
    assert repetitions(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "N_EPOCHS = (2, 4)",
        "n_epochs: tuple[int, int] = (2, 4)",
        "space = {'n_epochs': {'low': 2, 'high': 4}}",
        "Range('learning_rate_multiplier', Bounds(0.02, 0.2))",
        "def f(trial):\n    return trial.suggest_int('batch_size', round(n * 0.01 / 100), round(n * 4 / 100))",
        "Space(batch_size=Span(0.0001, 0.04))",
        "TABLE = [('learning_rate', 2e-5, 5e-5)]",
        "if config.n_epochs not in range(2, 4):\n    n_epochs = min(4, max(2, config.n_epochs))",
    ],
)
def test_a_repetition_is_found(source: str) -> None:
    assert repetitions(source) != []


@pytest.mark.parametrize(
    "source",
    [
        "Hyperparameter('n_epochs', 'int', low=1, high=50, default=3)",
        "ALL = (Hyperparameter('n_epochs', low=2, high=50), Hyperparameter('lora_rank', low=4, high=1024))",
        "lora_dropout = Hyperparameter('lora_dropout', low=0.0, high=0.95)",
        "threads = 4\nn_epochs = 2",
        "DEFAULTS = {'n_epochs': 2, 'lora_rank': 4}",
        "steps = range(1, 2 * n_epochs)",
    ],
)
def test_the_limits_of_a_backend_are_not_a_repetition(source: str) -> None:
    assert repetitions(source) == []
