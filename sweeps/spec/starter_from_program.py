"""`sweep init --from`: a first sweep file for a training script, or for the configuration of one.

The file says which program it belongs to: a configuration by its keys, a script by its imports and
by the options that it declares. Ranges come from the recommendation catalogue, and always contain
the value in the file.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.command import config_file, presets
from backends.contract import BackendError
from backends.file_kind import kind_of
from sweeps.errors import Problem, UserInputError
from sweeps.spec.json_schema import FILE_NAME
from sweeps.spec.known_configurations import (
    PREFERENCES,
    REWARDS,
    evaluation_settings,
    known_configuration,
    preset_of,
)
from sweeps.spec.own_scripts import call_of_own_script, hydra_settings
from sweeps.spec.python_source import MAX_BYTES, PythonSource
from sweeps.spec.script_options import HUGGING_FACE_PARSERS, Command, ScriptOption, commands_of
from sweeps.spec.starter_ranges import range_text

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("learning_rate", "lr", "base_lr", "init_lr", "initial_lr", "max_lr"),
    "n_epochs": ("num_train_epochs", "n_epochs", "num_epochs", "max_epochs", "epochs", "n_epoch", "num_epoch", "epoch"),
    "batch_size": ("per_device_train_batch_size", "train_batch_size", "batch_size", "micro_batch_size", "bs"),
    "lora_rank": ("lora_rank", "lora_r"),
    "lora_alpha": ("lora_alpha",),
    "lora_dropout": ("lora_dropout",),
    "weight_decay": ("weight_decay", "wd"),
    "warmup_ratio": ("warmup_ratio",),
    "dropout": ("dropout", "dropout_rate"),
    "label_smoothing": ("label_smoothing", "label_smoothing_factor"),
}
"""What scripts call the hyperparameters, by our name."""

OUTPUT_NAMES = (
    *("output_dir", "out_dir", "output_folder", "output_path", "trainer_output_dir", "local_output_dir", "save_dir"),
    *("model_dir", "default_root_dir", "log_dir", "logdir", "run_dir", "work_dir", "exp_dir", "output", "out"),
)
OUTPUT_FILE_NAMES = ("output_file", "save_path", "save_file", "save", "model_path")
"""Options that may name a file to write: those whose default is a file."""
SEED_NAMES = ("seed", "random_seed", "seed_everything")

_TRAINERS: Mapping[str, tuple[str, ...]] = {
    "lightning": ("lightning", "pytorch_lightning"),
    "keras": ("keras", "tensorflow"),
}
"""What a script imports, by preset."""

_ARGUMENTS: Mapping[str, tuple[float, str]] = {
    "SFTConfig": (2e-5, "sft"),
    "DPOConfig": (1e-6, "dpo"),
    "KTOConfig": (1e-6, "kto"),
    "RewardConfig": (1e-4, "reward"),
    "GRPOConfig": (1e-6, "grpo"),
    "RLOOConfig": (1e-6, "rloo"),
}
"""The default learning rate and the method of the subclasses of TrainingArguments in TRL 1.16."""

_DEFAULT_LEARNING_RATE = 5e-5
"""Of transformers.TrainingArguments."""

_EVALUATION = ("--do_train", "--do_eval", "--eval_strategy epoch", "--save_strategy epoch")
"""What such a script needs so that it trains, evaluates, and saves what it has evaluated."""

_LOGS = frozenset({"json", "csv", "SummaryWriter", "tensorboard", "mlflow", "CSVLogger", "jsonlines", "DictWriter"})
"""What a script mentions if it writes numbers that can be read."""


@dataclass(frozen=True)
class _Found:
    """What a file reveals: its preset, and the program's key and value of each hyperparameter."""

    preset: str
    run: str
    keys: Mapping[str, str]
    values: Mapping[str, Any]
    template: Path | None = None
    settings: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    own_folder: bool = False
    notes: tuple[str, ...] = ()
    method: str = "sft"
    gpus: int = 0
    origin: str = "in the file"

    @property
    def is_lora(self) -> bool:
        """Whether only adapters are trained, which bear a larger learning rate."""
        texts = (str(self.values.get(key, "")).lower() for key in ("adapter", "finetuning_type", "use_peft"))
        return "lora_rank" in self.keys or any(text in ("lora", "qlora", "true") for text in texts)


def starter_from(program: Path, name: str) -> str:
    """Return the text of a first sweep file for a script or a configuration.

    Raises UserInputError if the file is neither, or reveals nothing that can be tried.
    """
    found = _script(program) if program.suffix == ".py" else _configuration(program)
    return "\n".join(_lines(found, program, name)) + "\n"


# ------------------------------------------------------------------------------------ configuration
def _configuration(path: Path) -> _Found:
    if config_file.format_of(path.name) is None:
        hint = (
            "give the Python script that trains, or its configuration in .yml, .yaml, .json or .toml; "
            "of a shell script, give the Python script that it starts"
        )
        raise UserInputError([Problem(str(path), "is neither a script nor a configuration", hint)])
    text = _text_of(path)
    try:
        flat = dict(config_file.flattened(config_file.read_template(path, path.name)))
    except BackendError as error:
        raise UserInputError([Problem(str(path), error.failure.message, error.failure.detail)]) from None
    preset = preset_of(flat)
    if preset is None:
        return _own_configuration(path, flat)
    known = known_configuration(preset, flat, path, text)
    return _Found(
        known.preset,
        known.run,
        known.keys,
        flat,
        path,
        settings=known.settings,
        environment=known.environment,
        notes=known.notes,
        method=known.method,
        gpus=known.gpus,
    )


def _text_of(path: Path) -> str:
    """Return the text of a configuration, for the commands in its comments."""
    try:
        if (kind := kind_of(path)) != "a file":
            raise UserInputError([Problem(str(path), f"is {kind}, not a configuration", "name a configuration file")])
        if path.stat().st_size > MAX_BYTES:
            raise UserInputError([Problem(str(path), "is too large for a configuration", "name the one of a training")])
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserInputError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None


def _own_configuration(path: Path, flat: Mapping[str, Any]) -> _Found:
    """Return what the configuration of a script of the user's own reveals."""
    keys = {ours: key for ours, names in USUAL_NAMES.items() if (key := _first(names, flat)) and ours != "batch_size"}
    if not {"learning_rate", "n_epochs"} & set(keys):
        hint = (
            "it has no learning rate and no number of epochs; the known programs are "
            f"{', '.join(name for name in presets.names() if presets.load(name).run)}"
        )
        raise UserInputError([Problem(str(path), "this is the configuration of no known program", hint)])
    preset = "hf-trainer" if {"num_train_epochs", "per_device_train_batch_size"} & set(flat) else "plain"
    output, seed = _first(OUTPUT_NAMES, flat), _first(SEED_NAMES, flat)
    settings = {key: found for key, found in evaluation_settings(flat) if key in flat}
    if flat.get("resume_from_checkpoint"):
        settings["resume_from_checkpoint"] = (False, "each trial begins with the base model")
    settings |= {key: (value, "") for key, value in ((output, "{output}"), (seed, "{seed}")) if key is not None}
    run, is_found = call_of_own_script(path, "train")
    notes = () if is_found else ("write the call of your own script in `run`",)
    return _Found(preset, run, keys, flat, path, settings, own_folder=output is None, notes=notes)


# ------------------------------------------------------------------------------------------- script
def _script(path: Path) -> _Found:
    source = PythonSource.read(path)
    if (settings := hydra_settings(source, path)) is not None:
        return _hydra(path, source, settings)
    is_hugging_face = bool(source.calls_of(*HUGGING_FACE_PARSERS))
    command = max(commands_of(source), key=_usual_options, default=Command())
    rate, method = next(
        (found for name, found in _ARGUMENTS.items() if name in source.mentioned), (_DEFAULT_LEARNING_RATE, "sft")
    )
    options = command.options
    if is_hugging_face:
        options += (ScriptOption("--learning_rate", rate), ScriptOption("--num_train_epochs", 3))
        options += (ScriptOption("--output_dir"), ScriptOption("--seed"))
    flags = {option.name: option.flag for option in options if not option.is_switch}
    values = {option.flag: option.default for option in options}
    keys = {ours: flags[name] for ours, names in USUAL_NAMES.items() if (name := _first(names, flags)) is not None}
    if not {"learning_rate", "n_epochs"} & set(keys):
        raise UserInputError([_nothing_to_try(path, source, options)])
    preset = _preset_of_script(source)
    output, seed = _output(options), _first(SEED_NAMES, flags)
    argument = next((name for name in command.arguments if name.lower().replace("-", "_") in OUTPUT_NAMES), None)
    own_folder = output is None and argument is None
    words = ["python", shlex.quote(str(path.absolute() if own_folder else path)), *command.words]
    words += ["{output}" if name == argument else name for name in command.arguments]
    words += [f"{flag} {{{ours}}}" for ours, flag in keys.items()]
    words += [output] if output is not None else []
    words += [f"{flags[seed]} {{seed}}"] if seed is not None else []
    words += _EVALUATION if is_hugging_face else ()
    given = {*keys.values(), *(word.partition(" ")[0] for word in words)}
    if own_folder:
        words += [f"{option.flag} {shlex.quote(found)}" for option in options if (found := _input_of(option, path))]
    notes = _script_notes(source, command, options, given, argument, preset)
    return _Found(
        preset,
        " ".join(words),
        keys,
        values,
        own_folder=own_folder,
        notes=tuple(notes),
        method=method,
        origin="by default",
    )


def _preset_of_script(source: PythonSource) -> str:
    found = next((name for name, modules in _TRAINERS.items() if source.imported & set(modules)), "plain")
    return "hf-trainer" if found == "plain" and {"transformers", "trl"} & source.imported else found


def _hydra(path: Path, source: PythonSource, settings: Mapping[str, Any]) -> _Found:
    """Return what a script with Hydra reveals: its settings are given as `key=value`."""
    keys = {ours: key for ours, names in USUAL_NAMES.items() if (key := _first(names, settings)) is not None}
    if not {"learning_rate", "n_epochs"} & set(keys):
        hint = f"the settings of Hydra are {', '.join(settings) or 'unknown'}; write the sweep file by hand"
        raise UserInputError([Problem(str(path), "no setting for a learning rate or for epochs was found", hint)])
    output, seed = _first(OUTPUT_NAMES, settings), _first(SEED_NAMES, settings)
    words = ["python", shlex.quote(str(path)), *(f"{key}={{{ours}}}" for ours, key in keys.items())]
    words += [f"{output}={{output}}"] if output is not None else []
    words += [f"{seed}={{seed}}"] if seed is not None else []
    words.append("hydra.run.dir={output}")
    return _Found(_preset_of_script(source), " ".join(words), keys, settings)


def _usual_options(command: Command) -> tuple[bool, int, int]:
    """Return how much of a command can be tried: first the learning rate or the epochs."""
    flags = {option.name: option for option in command.options if not option.is_switch}
    found = {ours for ours, names in USUAL_NAMES.items() if _first(names, flags) is not None}
    return bool({"learning_rate", "n_epochs"} & found), len(found), len(command.options)


def _output(options: Sequence[ScriptOption]) -> str | None:
    """Return the option for the place where the script writes, with its value."""
    by_name = {option.name: option for option in options if not option.is_switch}
    if (name := _first(OUTPUT_NAMES, by_name)) is not None:
        return f"{by_name[name].flag} {{output}}"
    for name in OUTPUT_FILE_NAMES:
        default = by_name[name].default if name in by_name else None
        if isinstance(default, str) and Path(default).suffix:
            return f"{by_name[name].flag} {{output}}/{shlex.quote(Path(default).name)}"
    return None


def _input_of(option: ScriptOption, script: Path) -> str | None:
    """Return the absolute path of what an option names by a relative path, if that exists.

    The script runs in the folder of the trial, from where a relative path leads nowhere.
    """
    if not isinstance(option.default, str) or not option.default or os.path.isabs(option.default):
        return None
    for folder in (Path.cwd(), script.absolute().parent):
        if option.default not in (".", "..") and os.path.lexists(folder / option.default):
            return os.path.abspath(folder / option.default)
    return None


def _script_notes(
    source: PythonSource,
    command: Command,
    options: Sequence[ScriptOption],
    given: set[str],
    argument: str | None,
    preset: str,
) -> Iterator[str]:
    """Yield what the user has to know or to complete."""
    is_hugging_face = bool(source.calls_of(*HUGGING_FACE_PARSERS))
    missing = [option.flag for option in options if option.is_required and option.flag not in given]
    if missing:
        yield f"also needed by the script: {', '.join(missing)}"
    if others := [name for name in command.arguments if name != argument]:
        yield f"replace {', '.join(others)} by your values"
    if is_hugging_face and not missing:
        yield "also give the model and the data, such as --model_name_or_path and --dataset_name"
    if preset == "hf-trainer" and "eval_dataset" not in source.mentioned:
        yield "the script gives its Trainer no eval_dataset: add one, because trials are compared by its loss"
    if preset == "lightning" and source.calls_of("LightningCLI"):
        yield "also give what LightningCLI needs, such as --config config.yaml, and the option of the learning rate"
    if preset == "plain" and not _LOGS & (source.imported | source.mentioned):
        line = "{'epoch': 1, 'valid_loss': 0.71}"
        yield f"no log was found in the script: print a line such as {line} at each evaluation"


def _nothing_to_try(path: Path, source: PythonSource, options: Sequence[ScriptOption]) -> Problem:
    fixed = [name for ours in ("learning_rate", "n_epochs") for name in USUAL_NAMES[ours]]
    lines = {name: line for name, line in source.assigned_numbers.items() if name in fixed}
    if lines:
        name, line = next(iter(lines.items()))
        hint = f"`{name}` is a fixed number in line {line}: let the script read it from its command line"
    else:
        known = ", ".join(option.flag for option in options) or "none"
        hint = f"its options are {known}; docs/guide/command.md shows a sweep file written by hand"
    return Problem(str(path), "no option for a learning rate or for epochs was found", hint)


def _first(names: Sequence[str], keys: Mapping[str, Any]) -> str | None:
    """Return the key with the first of these names; the last part of `model.lr` counts too."""
    outer_last = sorted(keys, key=lambda key: key.count("."), reverse=True)
    by_name = {key.rpartition(".")[2].replace("-", "_").lower(): key for key in outer_last}
    return next((by_name[name] for name in names if name in by_name), None)


# ------------------------------------------------------------------------------------------- output
def _lines(found: _Found, program: Path, name: str) -> Iterator[str]:
    yield f"# yaml-language-server: $schema=./{FILE_NAME}"
    yield f"# Sweeps {program.name}. `sweep check {name}.yaml` finds mistakes, `sweep run {name}.yaml` runs it."
    yield f"name: {name}"
    yield ""
    yield "backend:"
    yield "  type: command"
    yield _commented(f"  preset: {found.preset}", "how its logs and checkpoints are read")
    for note in found.notes:
        yield f"  # {note}"
    yield f"  run: {json.dumps(found.run, ensure_ascii=False)}"
    if found.own_folder:
        yield _commented("  working_folder: trial", "the script has no option for its output")
    if found.environment:
        yield f"  environment: {json.dumps(dict(found.environment))}"
    if found.template is not None:
        yield "  config:"
        yield f"    template: {json.dumps(str(found.template), ensure_ascii=False)}"
        yield "    set:"
        for ours, key in found.keys.items():
            yield f'      {key}: "{{{ours}}}"'
        for key, (value, reason) in found.settings.items():
            yield _commented(f"      {key}: {json.dumps(value, ensure_ascii=False)}", reason)
    yield "  hyperparameters:"
    for ours, key in found.keys.items():
        is_preference = found.method in (*PREFERENCES, *REWARDS, "kto")
        domain = range_text(
            ours, found.values.get(key), found.origin, is_lora=found.is_lora, is_preference=is_preference
        )
        yield f"    {ours}: {domain}"
    yield ""
    yield "search:"
    yield "  trials: 16"
    yield _commented("  scheduler: asha", "stops weak trials early; none lets all of them end")
    yield ""
    yield _objective(found.method)
    if found.gpus:
        count = found.gpus if found.gpus > 1 else 4
        yield ""
        yield _commented(f"# resources: {{gpus_per_trial: {count}}}", "the file is meant for several GPUs")


def _objective(method: str) -> str:
    if method in REWARDS:
        return _commented("objective: {maximize: valid_reward}", "the mean reward of the validation prompts")
    if method in PREFERENCES:
        return _commented("objective: {maximize: valid_rewards_accuracies}", "the loss depends on beta, this does not")
    if method == "reward":
        return _commented("objective: {minimize: valid_loss}", "or {maximize: valid_accuracy}")
    return "objective: {minimize: valid_loss}"


def _commented(text: str, comment: str) -> str:
    return f"{text:<30}# {comment}" if comment and len(text) < 30 else f"{text}   # {comment}" if comment else text
