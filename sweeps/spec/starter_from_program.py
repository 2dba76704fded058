"""`sweep init --from`: a first sweep file for a training script, or for the configuration of one.

The file says which program it belongs to: a configuration by its keys, a script by its imports and
by the options that it declares. Ranges come from the recommendation catalogue, and always contain
the value in the file.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.command import config_file, presets
from backends.contract import BackendError
from search_spaces.catalogue import Catalogue, Recommendation
from sweeps.errors import Problem, UserInputError
from sweeps.spec.json_schema import FILE_NAME

SCOPE = "local"
"""Programs train on the user's own machines, as the local backend does."""

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("learning_rate", "lr"),
    "n_epochs": ("num_train_epochs", "n_epochs", "num_epochs", "max_epochs", "epochs"),
    "batch_size": ("per_device_train_batch_size", "train_batch_size", "batch_size", "micro_batch_size"),
    "lora_rank": ("lora_rank", "lora_r"),
    "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout",),
    "weight_decay": ("weight_decay",),
    "warmup_ratio": ("warmup_ratio",),
    "dropout": ("dropout",),
}
"""What scripts call the hyperparameters, by our name."""

CONFIGURED = ("learning_rate", "n_epochs", "lora_rank", "lora_dropout", "weight_decay", "warmup_ratio")
"""What is tried if a configuration has it. A batch size is not, because the memory depends on it."""

ALWAYS = ("learning_rate", "n_epochs")
"""What every configuration has, if only by default."""

OUTPUT_NAMES = ("output_dir", "out_dir", "save_dir", "default_root_dir", "log_dir", "logdir", "output", "out")
SEED_NAMES = ("seed", "random_seed")

_TRAINERS: Mapping[str, tuple[str, ...]] = {
    "lightning": ("lightning", "pytorch_lightning"),
    "keras": ("keras", "tensorflow"),
}
"""What a script imports, by preset."""

_OWN_KEYS: Mapping[str, tuple[frozenset[str], ...]] = {
    "llamafactory": (frozenset({"stage", "finetuning_type"}), frozenset({"template", "cutoff_len"})),
    "axolotl": (frozenset({"base_model", "micro_batch_size"}), frozenset({"base_model", "datasets"})),
    "torchtune": (frozenset({"tokenizer", "optimizer", "model"}),),
    "trl": (frozenset({"model_name_or_path"}),),
}
"""Keys that only the configuration of this program has together; the first match counts."""

_KEPT_SHARE = 4
"""Without a recommendation, a range reaches from a quarter to four times the value in the file."""


@dataclass(frozen=True)
class _Found:
    """What a file reveals: its preset, and the program's key and value of each hyperparameter."""

    preset: str
    run: str
    keys: Mapping[str, str]
    values: Mapping[str, Any]
    template: Path | None = None
    own_folder: bool = False
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def starter_from(program: Path, name: str) -> str:
    """Return the text of a first sweep file for a script or a configuration.

    Raises UserInputError if the file is neither, or reveals nothing that can be tried.
    """
    found = _script(program) if program.suffix == ".py" else _configuration(program)
    if not {"learning_rate", "n_epochs"} & set(found.keys):
        raise UserInputError(
            [Problem(str(program), "no option for a learning rate or for epochs was found", _hint(found))]
        )
    return "\n".join(_lines(found, program, name)) + "\n"


def _hint(found: _Found) -> str:
    known = ", ".join(found.values) or "none"
    return f"its options are {known}; write the sweep file by hand, docs/guide/command.md shows how"


# ------------------------------------------------------------------------------------ configuration
def _configuration(path: Path) -> _Found:
    if config_file.format_of(path.name) is None:
        hint = "give a Python script, or a configuration that ends in .yml, .yaml, .json or .toml"
        raise UserInputError([Problem(str(path), "is neither a script nor a configuration", hint)])
    try:
        content = config_file.read_template(path, path.name)
    except BackendError as error:
        raise UserInputError([Problem(str(path), error.failure.message, error.failure.detail)]) from None
    flat = dict(config_file.flattened(content))
    preset = next((name for name, sets in _OWN_KEYS.items() if any(keys <= _names(flat) for keys in sets)), None)
    if preset is None:
        hint = f"known programs: {', '.join(_OWN_KEYS)}; write `backend: {{type: command, ...}}` by hand for others"
        raise UserInputError([Problem(str(path), "this is the configuration of no known program", hint)])
    known = presets.load(preset)
    keys = {ours: known.keys[ours] for ours in CONFIGURED if known.keys.get(ours) in flat or ours in ALWAYS}
    return _Found(preset, known.run, keys, flat, path, settings=known.set)


def _names(flat: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(flat) | {key.partition(".")[0] for key in flat}


# ------------------------------------------------------------------------------------------- script
def _script(path: Path) -> _Found:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserInputError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise UserInputError([Problem(f"{path}:{line}" if line else str(path), "is not valid Python")]) from None
    imported = set(_imports(tree))
    options = dict(_options(tree))
    preset = next((name for name, modules in _TRAINERS.items() if imported & set(modules)), "plain")
    if "transformers" in imported and preset == "plain":
        preset = "hf-trainer"
        if "HfArgumentParser" in ast.dump(tree):
            options |= {"learning_rate": 5e-5, "num_train_epochs": 3, "output_dir": None, "seed": 42}
    keys = {ours: option for ours, names in USUAL_NAMES.items() if (option := _first(names, options)) is not None}
    output, seed = _first(OUTPUT_NAMES, options), _first(SEED_NAMES, options)
    script = str(path if output is not None else path.absolute())
    words = ["python", script, *(f"--{option} {{{ours}}}" for ours, option in keys.items())]
    words += [f"--{output} {{output}}"] if output is not None else []
    words += [f"--{seed} {{seed}}"] if seed is not None else []
    missing = [option for option, value in options.items() if value is ... and option not in {*keys.values(), output}]
    notes = (f"also needed by the script: {', '.join(f'--{option}' for option in missing)}",) if missing else ()
    return _Found(preset, " ".join(words), keys, options, own_folder=output is None, notes=notes)


def _first(names: Sequence[str], options: Mapping[str, Any]) -> str | None:
    by_name = {option.replace("-", "_").lower(): option for option in options}
    return next((by_name[name] for name in names if name in by_name), None)


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def _options(tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield the options that a script declares with argparse or click, each with its default.

    The default is None if it is not written as a value, and `...` if the option is required.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr not in ("add_argument", "option"):
            continue
        names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        long_name = next((name for name in names if isinstance(name, str) and name.startswith("--")), None)
        if long_name is not None:
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            default, required = given.get("default"), given.get("required")
            value = default.value if isinstance(default, ast.Constant) else None
            is_required = isinstance(required, ast.Constant) and required.value is True
            yield long_name.removeprefix("--"), ... if is_required else value


# ------------------------------------------------------------------------------------------- output
def _lines(found: _Found, program: Path, name: str) -> Iterator[str]:
    yield f"# yaml-language-server: $schema=./{FILE_NAME}"
    yield f"# Sweeps {program.name}. `sweep check {name}.yaml` finds mistakes, `sweep run {name}.yaml` runs it."
    yield f"name: {name}"
    yield ""
    yield "backend:"
    yield "  type: command"
    yield f"  preset: {found.preset}" + " " * max(1, 14 - len(found.preset)) + "# how its logs and checkpoints are read"
    yield f"  run: {json.dumps(found.run)}"
    for note in found.notes:
        yield f"  # {note}"
    if found.own_folder:
        yield "  working_folder: trial       # the script has no option for its output"
    if found.template is not None:
        yield "  config:"
        yield f"    template: {found.template}"
        yield "    set:"
        for ours, key in found.keys.items():
            yield f'      {key}: "{{{ours}}}"'
    yield "  hyperparameters:"
    for ours, key in found.keys.items():
        yield f"    {ours}: {_range(ours, found.values.get(key), _is_lora(found))}"
    yield ""
    yield "search:"
    yield "  trials: 16"
    yield "  scheduler: asha             # stops weak trials early; none lets all of them end"
    yield ""
    yield "objective: {minimize: valid_loss}"


def _is_lora(found: _Found) -> bool:
    texts = (str(found.values.get(key, "")).lower() for key in ("adapter", "finetuning_type", "use_peft"))
    return "lora_rank" in found.keys or any(text in ("lora", "qlora", "true") for text in texts)


def _range(ours: str, value: Any, is_lora: bool) -> str:
    """Return the range of a hyperparameter as YAML, with the value in the file as a comment."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    recommended = Catalogue.load().get(ours, SCOPE)
    if recommended is not None:
        methods = {"method": ["lora" if is_lora else "full"]} if number is not None or is_lora else {}
        recommended = recommended.narrowed(10_000, methods)
    comment = "" if number is None else f"   # {_text(number)} in the file"
    if ours in ("batch_size", "lora_rank", "lora_alpha"):
        return f"{{choices: {_doublings(ours, number, recommended)}}}{comment}"
    low, high, log = _ends(ours, number, recommended)
    kind = "type: int, " if ours == "n_epochs" else ""
    return f"{{{kind}low: {_text(low)}, high: {_text(high)}{', log: true' if log else ''}}}{comment}"


def _ends(ours: str, number: float | None, recommended: Recommendation | None) -> tuple[float, float, bool]:
    is_usable = recommended is not None and recommended.unit != "fraction_of_training_set"
    if recommended is None or not is_usable or recommended.low is None or recommended.high is None:
        centre = number or 1.0
        low, high, log = centre / _KEPT_SHARE, centre * _KEPT_SHARE, True
        if ours in ("dropout", "warmup_ratio"):
            low, high, log = 0.0, max(0.1, number or 0.0), False
    else:
        low, high, log = recommended.low, recommended.high, recommended.scale == "log"
    if number is not None:
        low, high = min(low, number), max(high, number)
    if ours == "n_epochs":
        low, high, log = float(max(1, int(low))), float(max(1, -int(-high // 1))), False
    return low, high, log and low > 0


def _doublings(ours: str, number: float | None, recommended: Recommendation | None) -> list[int]:
    """Return the value in the file with its half and its double; ranks from the recommendation."""
    if ours != "batch_size" and recommended is not None and recommended.low and recommended.high:
        steps = {2**power for power in range(1, 9) if recommended.low <= 2**power <= recommended.high}
        return sorted(steps | ({int(number)} if number else set()))
    centre = max(1, int(number or 8))
    return sorted({max(1, centre // 2), centre, centre * 2})


def _text(number: float) -> str:
    """Return a number as YAML 1.1 and 1.2 read it as a number."""
    text = f"{number:g}"
    return text.replace("e", ".0e") if "e" in text and "." not in text else text
