"""The architecture: packages import each other in one direction, and the README lists every
folder.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sweeps

pytestmark = pytest.mark.unit

CHECKOUT = Path(sweeps.__file__).parents[1]
PACKAGES = ("search_spaces", "backends", "sweeps")


def imported_modules(file: Path) -> Iterable[str]:
    """Yield every module that a file imports, at its top or inside a function; not under
    TYPE_CHECKING.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(dotted: str) -> str | None:
    """Return the part of the product that a module belongs to: a subpackage, or a module at the top
    of a package.
    """
    names = dotted.split(".")
    if names[0] not in PACKAGES:
        return None
    return ".".join(names[:2])


def dependencies() -> dict[str, set[str]]:
    """Return which parts each part imports."""
    graph: dict[str, set[str]] = {}
    for package in PACKAGES:
        for file in (CHECKOUT / package).rglob("*.py"):
            module = ".".join(file.relative_to(CHECKOUT).with_suffix("").parts).removesuffix(".__init__")
            importer = part_of(module)
            assert importer is not None
            imported = {part for name in imported_modules(file) if (part := part_of(name)) is not None}
            graph.setdefault(importer, set()).update(imported - {importer})
    return graph


def test_no_two_packages_import_each_other_directly_or_in_a_circle() -> None:
    graph = dependencies()
    assert "sweeps.execution" in graph["sweeps.cli"]
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' -> '.join(error.args[1])}")


def test_a_cycle_would_be_noticed() -> None:
    graph = dependencies()
    graph["sweeps.errors"] = {"sweeps.cli"}
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(graph).static_order())


def test_the_readme_lists_every_folder_with_its_first_line() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    for package in PACKAGES:
        for file in sorted((CHECKOUT / package).glob("*/__init__.py")):
            assert f"  {file.parent.name}/" in readme, f"README.md does not list {package}/{file.parent.name}/"


def test_every_module_says_in_its_first_line_what_lives_there() -> None:
    for package in PACKAGES:
        for file in (CHECKOUT / package).rglob("*.py"):
            docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
            assert docstring, f"{file} has no docstring"


def test_the_documentation_names_only_files_that_exist() -> None:
    pages = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *(CHECKOUT / "docs").rglob("*.md")]
    missing = []
    for page in pages:
        if page.name == "log.md":  # old entries name files of their time
            continue
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:sweeps|backends|search_spaces|tests|benchmarks|scripts)/[\w./-]*)`", text):
            if not (CHECKOUT / path).exists():
                missing.append(f"{page.relative_to(CHECKOUT)}: {path}")
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
            if not (page.parent / link).exists():
                missing.append(f"{page.relative_to(CHECKOUT)}: link {link}")
    assert not missing, missing
