"""What a training script reveals: its options, its libraries, and how it is called."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from backends.command import presets
from search_spaces.usual_names import USUAL_NAMES
from sweeps.errors import Problem, UserInputError
from sweeps.spec.from_program.found_program import (
    OUTPUT_FILE_NAMES,
    OUTPUT_NAMES,
    RESUME_NAMES,
    SEED_NAMES,
    FoundProgram,
    first_named,
)
from sweeps.spec.from_program.own_scripts import hydra_settings
from sweeps.spec.from_program.python_source import PythonSource
from sweeps.spec.from_program.script_options import HUGGING_FACE_PARSERS, Command, ScriptOption, commands_of

_TRAINERS: Mapping[str, tuple[str, ...]] = {
    "unsloth": ("unsloth",),
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

_MODEL_LIBRARIES = frozenset({"transformers", "trl", "peft", "unsloth", "sentence_transformers", "timm"})
"""What a script imports that fine-tunes a pre-trained model."""

_PATH_WORDS = ("data", "file", "path", "dir", "folder", "root", "config")
"""What options for paths are called."""

_LOGS = frozenset({"json", "csv", "SummaryWriter", "tensorboard", "mlflow", "CSVLogger", "jsonlines", "DictWriter"})
"""What a script mentions if it writes numbers that can be read."""


def found_in_script(path: Path) -> FoundProgram:
    """Return what a script reveals.

    Raises UserInputError if it is not Python, or has no option that can be tried.
    """
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
        inherited = (ScriptOption("--learning_rate", rate), ScriptOption("--num_train_epochs", 3))
        options = (*inherited, ScriptOption("--output_dir"), ScriptOption("--seed"), *options)
    flags = {option.name: option.flag for option in options if not option.is_switch}
    values = {option.flag: option.default for option in options}
    preset = _preset_of_script(source)
    keys = {ours: flags[name] for ours, names in USUAL_NAMES.items() if (name := first_named(names, flags)) is not None}
    if preset == "unsloth" and "r" in flags:
        keys["lora_rank"] = flags["r"]
    if not {"learning_rate", "n_epochs"} & set(keys):
        raise UserInputError([_nothing_to_try(path, source, options)])
    output, seed = _output(options), first_named(SEED_NAMES, flags)
    argument = next((name for name in command.arguments if name.lower().replace("-", "_") in OUTPUT_NAMES), None)
    own_folder = output is None and argument is None
    words = [_launcher(source), shlex.quote(str(path.absolute() if own_folder else path)), *command.words]
    words += ["{output}" if name == argument else name for name in command.arguments]
    words += [f"{flag} {{{ours}}}" for ours, flag in keys.items()]
    words += [output] if output is not None else []
    words += [f"{flags[seed]} {{seed}}"] if seed is not None else []
    words += _EVALUATION if is_hugging_face else ()
    given = {*keys.values(), *(word.partition(" ")[0] for word in words)}
    if own_folder:
        words += [f"{option.flag} {shlex.quote(found)}" for option in options if (found := _input_of(option, path))]
    notes = _script_notes(source, command, options, given, argument, preset)
    return FoundProgram(
        preset,
        " ".join(words),
        keys,
        values,
        own_folder=own_folder,
        notes=tuple(notes),
        method=method,
        origin="by default",
        resume=_resume(source, flags, preset),
        is_fine_tuning=bool(_MODEL_LIBRARIES & source.imported),
    )


def _preset_of_script(source: PythonSource) -> str:
    found = next((name for name, modules in _TRAINERS.items() if source.imported & set(modules)), "plain")
    return "hf-trainer" if found == "plain" and {"transformers", "trl"} & source.imported else found


def _launcher(source: PythonSource) -> str:
    """Return the program that starts the script: torchrun if it expects the variables of it."""
    is_distributed = source.calls_of("init_process_group") and "spawn" not in source.mentioned
    return "torchrun" if is_distributed else "python"


def _hydra(path: Path, source: PythonSource, settings: Mapping[str, Any]) -> FoundProgram:
    """Return what a script with Hydra reveals: its settings are given as `key=value`."""
    keys = {ours: key for ours, names in USUAL_NAMES.items() if (key := first_named(names, settings)) is not None}
    if not {"learning_rate", "n_epochs"} & set(keys):
        hint = f"the settings of Hydra are {', '.join(settings) or 'unknown'}; write the sweep file by hand"
        raise UserInputError([Problem(str(path), "no setting for a learning rate or for epochs was found", hint)])
    output, seed = first_named(OUTPUT_NAMES, settings), first_named(SEED_NAMES, settings)
    words = [_launcher(source), shlex.quote(str(path)), *(f"{key}={{{ours}}}" for ours, key in keys.items())]
    words += [f"{output}={{output}}"] if output is not None else []
    words += [f"{seed}={{seed}}"] if seed is not None else []
    words.append("hydra.run.dir={output}")
    return FoundProgram(_preset_of_script(source), " ".join(words), keys, settings)


def _resume(source: PythonSource, flags: Mapping[str, str], preset: str) -> str:
    """Return what continues the script from a checkpoint, if the preset knows its checkpoints."""
    if presets.load(preset).checkpoints is None:
        return ""
    if source.calls_of("LightningCLI"):
        return "--ckpt_path {checkpoint}"
    if source.calls_of(*HUGGING_FACE_PARSERS) and "resume_from_checkpoint" in source.mentioned:
        return "--resume_from_checkpoint {checkpoint}"
    name = first_named(RESUME_NAMES, flags)
    return "" if name is None else f"{flags[name]} {{checkpoint}}"


def _usual_options(command: Command) -> tuple[bool, int, int]:
    """Return how much of a command can be tried: first the learning rate or the epochs."""
    flags = {option.name: option for option in command.options if not option.is_switch}
    found = {ours for ours, names in USUAL_NAMES.items() if first_named(names, flags) is not None}
    return bool({"learning_rate", "n_epochs"} & found), len(found), len(command.options)


def _output(options: Sequence[ScriptOption]) -> str | None:
    """Return the option for the place where the script writes, with its value."""
    by_name = {option.name: option for option in options if not option.is_switch}
    if (name := first_named(OUTPUT_NAMES, by_name)) is not None:
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
    if "/" not in option.default and not any(word in option.name for word in _PATH_WORDS):
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
    if preset in ("hf-trainer", "unsloth") and "eval_dataset" not in source.mentioned:
        yield "the script gives its Trainer no eval_dataset: add one, because trials are compared by its loss"
    if preset == "lightning" and source.calls_of("LightningCLI"):
        yield "also give what LightningCLI needs, such as --config config.yaml"
    if preset == "plain" and not source.has_score_dict and not _LOGS & (source.imported | source.mentioned):
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
