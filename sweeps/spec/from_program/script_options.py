"""The options that a Python script declares, read from its source without running it.

Known ways to declare them: argparse, click, typer, Fire, absl flags, dataclasses (`tyro.cli`,
`simple_parsing`, `jsonargparse`, `HfArgumentParser`, `TrlParser`), and LightningCLI.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sweeps.spec.from_program.python_source import (
    Function,
    PythonSource,
    argument_of,
    called_name,
    dotted_name,
    parameters_of,
    receiver_of,
)

HUGGING_FACE_PARSERS = ("HfArgumentParser", "TrlParser")
"""Parsers that usually get a subclass of transformers.TrainingArguments, which adds its options."""


@dataclass(frozen=True)
class ScriptOption:
    """An option of a command line: `flag` is what to write, with its dashes.

    `default` is None if the source does not write it as a value. No value follows a switch.
    """

    flag: str
    default: Any = None
    is_required: bool = False
    is_switch: bool = False

    @property
    def name(self) -> str:
        """The flag in lower case, with underscores and without the dashes before it."""
        return self.flag.lstrip("-").replace("-", "_").lower()


@dataclass(frozen=True)
class Command:
    """One command of a script: the words that select it, its options and its required arguments.

    The command of a script without subcommands has no words.
    """

    words: tuple[str, ...] = ()
    options: tuple[ScriptOption, ...] = ()
    arguments: tuple[str, ...] = ()

    def with_option(self, option: ScriptOption) -> Command:
        """Return the command with one more option."""
        return replace(self, options=(*self.options, option))

    def with_argument(self, name: str) -> Command:
        """Return the command with one more required argument."""
        return replace(self, arguments=(*self.arguments, name.upper()))


def commands_of(source: PythonSource) -> Iterator[Command]:
    """Yield every command that a script declares, in all known ways."""
    yield from _of_parsers(source)
    yield from _of_decorators(source)
    yield from _of_called_functions(source)
    yield from _of_dataclasses(source)
    yield from _of_lightning(source)


# -------------------------------------------------------------------------- argparse and absl flags
def _of_parsers(source: PythonSource) -> Iterator[Command]:
    """Yield the command of each subparser, or the only one. Absl flags count as options too."""
    shared, subcommands = Command(), dict(_subparsers(source))
    for call in source.calls:
        owner, method = receiver_of(call), called_name(call)
        command = subcommands.get(owner, shared)
        if method == "add_argument":
            command = _with_argument(source, command, call)
        elif method.startswith("DEFINE_") and call.args:
            name, is_switch = source.value(call.args[0]), method in ("DEFINE_bool", "DEFINE_boolean")
            default = source.argument(call, 1, "default")
            command = command.with_option(ScriptOption(f"--{name}", default, _is_marked(source, name), is_switch))
        if owner in subcommands:
            subcommands[owner] = command
        else:
            shared = command
    if source.calls_of("add_argparse_args"):  # of the Trainer of Lightning before version 2
        shared = shared.with_option(ScriptOption("--max_epochs")).with_option(ScriptOption("--default_root_dir"))
    declared = [command for command in subcommands.values() if command.options or command.arguments]
    for command in declared or [Command()]:
        yield Command(command.words, shared.options + command.options, shared.arguments + command.arguments)


def _subparsers(source: PythonSource) -> Iterator[tuple[str, Command]]:
    """Yield the variables that hold subparsers, with the words of their commands."""
    for node in source.nodes:
        if isinstance(node, ast.Assign) and called_name(node.value) == "add_parser":
            word = source.argument(node.value, 0, "name")
            yield from ((target.id, Command((str(word),))) for target in node.targets if isinstance(target, ast.Name))


def _with_argument(source: PythonSource, command: Command, call: ast.Call) -> Command:
    names = [name for argument in call.args if isinstance(name := source.value(argument), str)]
    flags = [name for name in names if name.startswith("-")]
    given = {keyword.arg: source.value(keyword.value) for keyword in call.keywords}
    if flags:
        written = argument_of(call, None, "action")
        action = str(source.value(written) or called_name(written)) if written is not None else ""
        is_switch = action.startswith("store_") or action.endswith(("BooleanOptionalAction", "count", "version"))
        flag = next((name for name in flags if name.startswith("--")), flags[0])
        return command.with_option(ScriptOption(flag, given.get("default"), given.get("required") is True, is_switch))
    is_optional = given.get("nargs") in ("?", "*") or given.get("default") is not None
    return command if is_optional or not names else command.with_argument(names[0])


def _is_marked(source: PythonSource, name: Any) -> bool:
    marks = source.calls_of("mark_flag_as_required", "mark_flags_as_required")
    return any(
        name in (value if isinstance(value, list) else [value])
        for value in (source.value(mark.args[0]) for mark in marks if mark.args)
    )


# ---------------------------------------------------------------------------------- click and typer
def _of_decorators(source: PythonSource) -> Iterator[Command]:
    """Yield the commands of click and of typer, which are functions with decorators."""
    decorated = {function: _decorators(function) for function in source.functions.values()}
    groups = {function.name for function, decorators in decorated.items() if "group" in decorators}
    of_typer = [
        function
        for function, decorators in decorated.items()
        if "typer" in source.imported and "command" in decorators and not {"option", "argument"} & set(decorators)
    ]
    for function, decorators in decorated.items():
        if "command" not in decorators:
            continue
        is_one_of_many = receiver_of(decorators["command"]) in groups or (function in of_typer and len(of_typer) > 1)
        written = source.argument(decorators["command"], 0, "name") or function.name.replace("_", "-")
        words = (str(written),) if is_one_of_many else ()
        yield _of_parameters(source, function, words) if function in of_typer else _of_click(source, function, words)


def _of_click(source: PythonSource, function: Function, words: tuple[str, ...]) -> Command:
    command = Command(words)
    for call in (node for node in function.decorator_list if isinstance(node, ast.Call)):
        names = [name for argument in call.args if isinstance(name := source.value(argument), str)]
        given = {keyword.arg: source.value(keyword.value) for keyword in call.keywords}
        flags = [name for name in names if name.startswith("-")]
        if called_name(call) == "option" and flags:
            flag = next((name for name in flags if name.startswith("--")), flags[0])
            is_switch = "/" in flag or given.get("is_flag") is True
            flag, is_required = flag.partition("/")[0].strip(), given.get("required") is True
            command = command.with_option(ScriptOption(flag, given.get("default"), is_required, is_switch))
        elif called_name(call) == "argument" and names:
            is_optional = given.get("required") is False or given.get("nargs") == -1 or "default" in given
            command = command if is_optional else command.with_argument(names[0])
    return command


def _decorators(function: Function) -> dict[str, ast.expr]:
    return {called_name(node): node for node in function.decorator_list}


# ------------------------------------------------------------------------ functions and dataclasses
def _of_called_functions(source: PythonSource) -> Iterator[Command]:
    """Yield the commands of `Fire(function)`, `Fire()` and `typer.run(function)`."""
    for call in source.calls:
        is_fire = called_name(call) == "Fire"
        if not is_fire and dotted_name(call) != "typer.run":
            continue
        component = argument_of(call, 0, "component")
        if component is None:
            for name, function in source.functions.items():
                yield _of_parameters(source, function, (name,), dashes=False)
        elif isinstance(component, ast.Name) and component.id in source.functions:
            yield _of_parameters(source, source.functions[component.id], (), dashes=not is_fire)


def _of_parameters(source: PythonSource, function: Function, words: tuple[str, ...], *, dashes: bool = True) -> Command:
    """Return the command that typer (with `dashes`) or Fire makes of a function's parameters."""
    command = Command(words)
    for name, annotation, default in parameters_of(function):
        marker = next((node for node in (default, *_metadata(annotation)) if _is_marker(node)), None)
        value, is_required, flag = source.value(default), default is None, ""
        if isinstance(marker, ast.Call):
            if marker is default:
                value = source.argument(marker, 0, "default")
                is_required = value is ... or argument_of(marker, 0, "default") is None
            texts = [source.value(argument) for argument in marker.args]
            flag = next((text for text in texts if isinstance(text, str) and text.startswith("--")), "")
        if dashes and (called_name(marker) == "Argument" if marker is not None else is_required):
            command = command.with_argument(name) if is_required else command
            continue
        flag = flag.partition("/")[0] or f"--{name.replace('_', '-') if dashes else name}"
        is_switch = dashes and (isinstance(value, bool) or _is_bool(annotation))
        command = command.with_option(ScriptOption(flag, None if value is ... else value, is_required, is_switch))
    return command


def _of_dataclasses(source: PythonSource) -> Iterator[Command]:
    """Yield the command that a parser makes of dataclasses, or of a function."""
    command = Command()
    for call in source.calls:
        text, name = dotted_name(call), called_name(call)
        is_tyro = text == "tyro.cli"
        is_simple_parsing = "simple_parsing" in source.imported and name in ("parse", "add_arguments")
        is_jsonargparse = "jsonargparse" in source.imported and name in ("CLI", "auto_cli")
        if not call.args or not (name in HUGGING_FACE_PARSERS or is_tyro or is_simple_parsing or is_jsonargparse):
            continue
        first = call.args[0]
        for component in first.elts if isinstance(first, ast.Tuple | ast.List) else [first]:
            class_name = component.id if isinstance(component, ast.Name) else ""
            if class_name in source.functions:
                options = _of_parameters(source, source.functions[class_name], (), dashes=False).options
                command = replace(command, options=command.options + options)
            for field_name, annotation, default in source.fields(class_name):
                value, is_required = _field_default(source, default)
                flag = f"--{field_name.replace('_', '-') if is_tyro else field_name}"
                is_switch = isinstance(value, bool) or _is_bool(annotation)
                command = command.with_option(ScriptOption(flag, value, is_required, is_switch))
    if command.options:
        yield command


def _field_default(source: PythonSource, node: ast.expr | None) -> tuple[Any, bool]:
    """Return the default of a field of a dataclass, and whether the field needs a value."""
    if not isinstance(node, ast.Call):
        return source.value(node), node is None
    given = {keyword.arg for keyword in node.keywords}
    return source.argument(node, None, "default"), not {"default", "default_factory"} & given


def _metadata(annotation: ast.expr | None) -> list[ast.expr]:
    """Return what stands beside the type in `Annotated[type, ...]`."""
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
        return annotation.slice.elts[1:]
    return []


def _is_marker(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Call) and called_name(node) in ("Option", "Argument")


def _is_bool(annotation: ast.expr | None) -> bool:
    return annotation is not None and ast.unparse(annotation) == "bool"


# ------------------------------------------------------------------------------------- LightningCLI
def _of_lightning(source: PythonSource) -> Iterator[Command]:
    """Yield the command of LightningCLI, with the parameters of the classes of this file."""
    for call in source.calls_of("LightningCLI"):
        defaults = source.argument(call, None, "trainer_defaults")
        epochs = defaults.get("max_epochs") if isinstance(defaults, dict) else None
        command = Command(() if source.argument(call, None, "run") is False else ("fit",))
        command = command.with_option(ScriptOption("--trainer.max_epochs", epochs))
        command = command.with_option(ScriptOption("--trainer.default_root_dir"))
        command = command.with_option(ScriptOption("--seed_everything"))
        for group, position, keyword in (("model", 0, "model_class"), ("data", 1, "datamodule_class")):
            component = argument_of(call, position, keyword)
            owner = source.classes.get(component.id) if isinstance(component, ast.Name) else None
            for node in owner.body if owner is not None else ():
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    for name, _, default in parameters_of(node):
                        option = ScriptOption(f"--{group}.{name}", source.value(default), default is None)
                        command = command.with_option(option)
        yield command
