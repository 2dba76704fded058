"""Scripts of the user's own: the one that reads a configuration, and the settings of Hydra."""

from __future__ import annotations

import ast
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backends.command import config_file
from backends.contract import BackendError
from sweeps.spec.from_program.python_source import PythonSource, dotted_name

_FOLDERS = 4
"""How far above a configuration its script is looked for, as in `recipes/MODEL/dpo/config.yaml`."""

_SCRIPTS = ("scripts/{method}.py", "scripts/run_{method}.py", "{method}.py", "run_{method}.py", "train_{method}.py")
_POSITIONAL = b"H4ArgumentParser"
"""The parser of the alignment handbook takes the configuration without an option."""


def call_of_own_script(configuration: Path, method: str, *, elsewhere: bool = False) -> tuple[str, bool]:
    """Return the command that trains with a configuration, and whether its script was found.

    The path of the script is absolute if it runs `elsewhere` than here.
    """
    found = next(_scripts_near(configuration, method), None)
    script = found or Path(f"{method}.py")
    option = "" if found is not None and _POSITIONAL in found.read_bytes() else "--config "
    path = os.path.abspath(script) if elsewhere else os.path.relpath(script)
    return f"python {shlex.quote(path)} {option}{{config}}", found is not None


def _scripts_near(configuration: Path, method: str) -> Iterator[Path]:
    for folder in configuration.absolute().parents[:_FOLDERS]:
        for pattern in _SCRIPTS:
            if (script := folder / pattern.format(method=method)).is_file() and os.access(script, os.R_OK):
                yield script


def hydra_settings(source: PythonSource, script: Path) -> dict[str, Any] | None:
    """Return the settings of the configuration that a Hydra script reads, by keys with dots.

    The groups of its `defaults` are included. None if no function is decorated with `hydra.main`.
    """
    for function in source.functions.values():
        for decorator in function.decorator_list:
            if isinstance(decorator, ast.Call) and dotted_name(decorator) in ("hydra.main", "main"):
                folder, name = (
                    source.argument(decorator, 0, "config_path"),
                    source.argument(decorator, 1, "config_name"),
                )
                if isinstance(name, str) and "hydra" in source.imported:
                    folder = script.absolute().parent / (folder if isinstance(folder, str) else ".")
                    return dict(_with_groups(folder, folder / (name if name.endswith(".yaml") else f"{name}.yaml")))
    return None


def _with_groups(folder: Path, file: Path) -> Iterator[tuple[str, Any]]:
    content = _read(file)
    for entry in content.get("defaults") or ():
        for group, choice in entry.items() if isinstance(entry, Mapping) else ():
            name = str(group).rpartition(" ")[2]
            if isinstance(choice, str) and not name.startswith("hydra"):
                nested = _read(folder / name / f"{choice.removesuffix('.yaml')}.yaml")
                yield from config_file.flattened(nested, f"{name.replace('/', '.')}.")
    yield from config_file.flattened({key: value for key, value in content.items() if key != "defaults"})


def _read(file: Path) -> Mapping[str, Any]:
    """Return the content of a file, or nothing: Hydra itself reports what is wrong with it."""
    try:
        return config_file.read_template(file, file.name)
    except BackendError:
        return {}
