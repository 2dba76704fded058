"""The catalogue has every code that the package emits, and no other; the guide has its tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.data.checks.catalogue import CHECKS, RETIRED_TOOL, RETIRED_TOOL_NOTES, RULES
from sweeps.data.checks.tables import guide_tables

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "guide" / "data-checks.md"
CODE = re.compile(r"[a-z]+(-[a-z]+)*")
FUNCTIONS = {
    **dict.fromkeys(("error", "warning", "FileFaultError", "Habit", "ExampleNotice", "_notice", "add", "record"), 0),
    "Finding": 1,
}
"""What makes findings, and the position of the code among the arguments."""


def emitted_codes() -> Iterator[tuple[str, str]]:
    """Yield the codes that stand in the source as text, each with its file."""
    for package in ("sweeps", "backends"):
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if any(word in text for word in ("data.findings", "readers.damage", "example_report", "checks.cases")):
                for node in ast.walk(ast.parse(text)):
                    for value in codes_in(node):
                        if CODE.fullmatch(value):
                            yield value, str(path.relative_to(ROOT))


def codes_in(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        position = FUNCTIONS.get(name)
        if position is not None and len(node.args) > position + 1:
            yield from texts_in(node.args[position])
    elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "code":
        yield from texts_in(node.value)


def texts_in(value: ast.expr) -> Iterator[str]:
    """Return a text, or both texts of `a if ... else b`."""
    branches = (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
    for branch in branches:
        if isinstance(branch, ast.Constant) and isinstance(branch.value, str):
            yield branch.value


def test_every_code_that_the_package_emits_is_in_the_catalogue() -> None:
    missing = {code: file for code, file in emitted_codes() if code not in CHECKS}
    assert not missing, f"describe these codes in sweeps/data/checks/catalogue.py: {missing}"


def test_every_code_of_the_catalogue_is_emitted() -> None:
    unused = set(CHECKS) - {code for code, _ in emitted_codes()}
    assert not unused, f"nothing emits these codes of sweeps/data/checks/catalogue.py: {sorted(unused)}"


def test_every_rule_has_a_check_and_every_check_known_rules() -> None:
    enforced = {rule for check in CHECKS.values() for rule in check.rules}
    assert enforced == set(RULES)


def test_all_fifteen_checks_of_the_retired_tool_have_their_counterpart() -> None:
    assert len(RETIRED_TOOL) == 15
    assert {code for codes in RETIRED_TOOL.values() for code in codes} <= set(CHECKS)
    assert set(RETIRED_TOOL_NOTES) <= set(RETIRED_TOOL)


def test_the_guide_has_the_tables_of_the_catalogue() -> None:
    guide = GUIDE.read_text(encoding="utf-8")
    for name, table in guide_tables().items():
        assert table in guide, f"run `python -m sweeps.data.checks.tables`: the table {name} has changed"
