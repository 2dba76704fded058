"""A Python file as a syntax tree, with what is looked up in it by name. Nothing of it is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from backends.file_kind import kind_of
from sweeps.errors import Problem, UserInputError

MAX_BYTES = 5_000_000
"""Nobody writes a larger script."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Parameter: TypeAlias = tuple[str, ast.expr | None, ast.expr | None]
"""The name, the annotation and the default of a parameter or of a field."""


class PythonSource:
    """The parts of a syntax tree: `functions` and `classes` by name, all `calls`, and imports.

    `constants` are the names that the module assigns at its top level.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.nodes: Sequence[ast.AST] = list(ast.walk(tree))
        self.functions = {node.name: node for node in self.nodes if isinstance(node, Function)}
        self.classes = {node.name: node for node in self.nodes if isinstance(node, ast.ClassDef)}
        calls = [node for node in self.nodes if isinstance(node, ast.Call)]
        self.calls = sorted(calls, key=lambda call: (call.lineno, call.col_offset))
        self.imported = frozenset(_imports(self.nodes))
        self.constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    @classmethod
    def read(cls, path: Path) -> PythonSource:
        """Read a file. Raises UserInputError if it is no file, or is not Python."""
        try:
            if (kind := kind_of(path)) != "a file":
                raise UserInputError([Problem(str(path), f"is {kind}, not a script", "name a Python script")])
            if path.stat().st_size > MAX_BYTES:
                raise UserInputError([Problem(str(path), "is too large for a script", "name the script that trains")])
            content = path.read_bytes()
        except OSError as error:
            raise UserInputError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
        try:
            return cls(ast.parse(content))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line, reason = getattr(error, "lineno", None), getattr(error, "msg", None) or str(error)
            place = f"{path}:{line}" if line else str(path)
            raise UserInputError([Problem(place, "is not valid Python", f"Python says: {reason}")]) from None

    # ---------------------------------------------------------------------------------------- names
    def calls_of(self, *names: str) -> list[ast.Call]:
        """Return the calls of functions, methods or classes of these names."""
        return [call for call in self.calls if called_name(call) in names]

    @cached_property
    def mentioned(self) -> frozenset[str]:
        """All names, attributes and texts, and the keywords of calls that get more than None."""
        found = {node.id for node in self.nodes if isinstance(node, ast.Name)}
        found |= {node.attr for node in self.nodes if isinstance(node, ast.Attribute)}
        found |= {node.value for node in self.nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        keywords = [node for node in self.nodes if isinstance(node, ast.keyword) and node.arg]
        return frozenset(found | {keyword.arg or "" for keyword in keywords if not _is_none(keyword.value)})

    @property
    def has_score_dict(self) -> bool:
        """Whether it makes a dict with a loss or an accuracy, as a script does that prints one."""
        keys = (key for node in self.nodes if isinstance(node, ast.Dict) for key in node.keys)
        texts = (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
        return any("loss" in text.lower() or "acc" in text.lower() for text in texts)

    @property
    def assigned_numbers(self) -> Mapping[str, int]:
        """The names in lower case that get a number, such as `lr = 1e-3`, with their lines."""
        found = {}
        for node in self.nodes:
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(self.value(node.value), int | float):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name | ast.Attribute):
                    found[(target.id if isinstance(target, ast.Name) else target.attr).lower()] = node.lineno
        return found

    def fields(self, class_name: str, seen: frozenset[str] = frozenset()) -> Iterator[Parameter]:
        """Yield the fields of a dataclass of this file, and of its bases in this file."""
        if class_name not in self.classes or class_name in seen:
            return
        for base in self.classes[class_name].bases:
            if isinstance(base, ast.Name):
                yield from self.fields(base.id, seen | {class_name})
        for node in self.classes[class_name].body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id, node.annotation, node.value

    # --------------------------------------------------------------------------------------- values
    def argument(self, call: ast.expr, position: int | None, keyword: str) -> Any:
        """Return the value of an argument of a call; None if it is absent or not written out."""
        return self.value(argument_of(call, position, keyword))

    def value(self, node: ast.expr | None, depth: int = 0) -> Any:
        """Return the value of an expression of literals and constants of the module, or None."""
        if node is None or depth > 20:
            return None
        if isinstance(node, ast.Name):
            return self.value(self.constants.get(node.id), depth + 1)
        if isinstance(node, ast.Dict):
            pairs = [(self.value(key, depth + 1), item) for key, item in zip(node.keys, node.values, strict=True)]
            return {key: self.value(item, depth + 1) for key, item in pairs if isinstance(key, str)}
        if isinstance(node, ast.Call) and called_name(node) == "dict":
            return {keyword.arg: self.value(keyword.value, depth + 1) for keyword in node.keywords}
        if isinstance(node, ast.BinOp):
            return _computed(self.value(node.left, depth + 1), node.op, self.value(node.right, depth + 1))
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None


def called_name(node: ast.expr) -> str:
    """Return the last name of what is called, or of a name itself: `cli` for `tyro.cli(...)`."""
    called = node.func if isinstance(node, ast.Call) else node
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def dotted_name(node: ast.expr) -> str:
    """Return the whole name of what is called, `tyro.cli` for `tyro.cli(...)`, or an empty text."""
    called = node.func if isinstance(node, ast.Call) else node
    if isinstance(called, ast.Attribute):
        return f"{dotted_name(called.value)}.{called.attr}"
    return called.id if isinstance(called, ast.Name) else ""


def receiver_of(node: ast.expr) -> str:
    """Return the name whose method is called: `parser` for `parser.add_argument(...)`."""
    called = node.func if isinstance(node, ast.Call) else node
    owner = called.value if isinstance(called, ast.Attribute) else None
    return owner.id if isinstance(owner, ast.Name) else ""


def argument_of(call: ast.expr, position: int | None, keyword: str) -> ast.expr | None:
    """Return an argument of a call by its keyword or its position, or None.

    The position is None if the argument has only a keyword.
    """
    if not isinstance(call, ast.Call):
        return None
    named = next((given.value for given in call.keywords if given.arg == keyword), None)
    if named is None and position is not None and position < len(call.args):
        return call.args[position]
    return named


def parameters_of(function: Function) -> Iterator[Parameter]:
    """Yield the parameters of a function or a method but `self`, `*args` and `**kwargs`."""
    positional = [*function.args.posonlyargs, *function.args.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(function.args.defaults))
    pairs = [*zip(positional, [*defaults, *function.args.defaults], strict=True)]
    pairs += zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    yield from (
        (parameter.arg, parameter.annotation, default) for parameter, default in pairs if parameter.arg != "self"
    )


def _imports(nodes: Sequence[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _computed(left: Any, operator: ast.operator, right: Any) -> Any:
    """Return the result of `2 ** 5` and the like for moderate numbers, else None."""
    if not all(isinstance(number, int | float) and abs(number) <= 1_000_000 for number in (left, right)):
        return None
    if isinstance(operator, ast.Mult):
        return left * right
    if isinstance(operator, ast.Div) and right:
        return left / right
    return left**right if isinstance(operator, ast.Pow) and left > 0 and abs(right) <= 20 else None
