"""What a configuration reveals: of a known program, or of a script of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.command import config_file, presets
from backends.contract import BackendError
from backends.file_kind import kind_of
from search_spaces.usual_names import USUAL_NAMES
from sweeps.errors import Problem, UserInputError
from sweeps.spec.from_program.found_program import OUTPUT_NAMES, SEED_NAMES, FoundProgram, first_named
from sweeps.spec.from_program.known_configurations import evaluation_settings, known_configuration, preset_of
from sweeps.spec.from_program.own_scripts import call_of_own_script
from sweeps.spec.from_program.python_source import MAX_BYTES
from sweeps.spec.from_program.ranges import number_of


def found_in_configuration(path: Path) -> FoundProgram:
    """Return what a configuration reveals.

    Raises UserInputError if it cannot be read, or has nothing that can be tried.
    """
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
        message = error.failure.message.removeprefix("config: ")  # it names the file and the line
        raise UserInputError([Problem("", message, error.failure.detail)]) from None
    preset = preset_of(flat)
    if preset is None:
        return _own_configuration(path, flat)
    known = known_configuration(preset, flat, path, text)
    return FoundProgram(
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
        resume=known.resume,
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


def _own_configuration(path: Path, flat: Mapping[str, Any]) -> FoundProgram:
    """Return what the configuration of a script of the user's own reveals."""
    numbers = {key: value for key, value in flat.items() if number_of(value) is not None}
    tried = [ours for ours in USUAL_NAMES if ours != "batch_size"]  # the memory depends on it
    keys = {ours: key for ours in tried if (key := first_named(USUAL_NAMES[ours], numbers)) is not None}
    if not {"learning_rate", "n_epochs"} & set(keys):
        hint = (
            "it has no learning rate and no number of epochs; the known programs are "
            f"{', '.join(name for name in presets.names() if presets.load(name).run)}"
        )
        raise UserInputError([Problem(str(path), "this is the configuration of no known program", hint)])
    preset = "hf-trainer" if {"num_train_epochs", "per_device_train_batch_size"} & set(flat) else "plain"
    output, seed = first_named(OUTPUT_NAMES, flat), first_named(SEED_NAMES, flat)
    settings = {key: found for key, found in evaluation_settings(flat) if key in flat}
    if flat.get("resume_from_checkpoint"):
        settings["resume_from_checkpoint"] = (None, "each trial begins with the base model")
    settings |= {key: (value, "") for key, value in ((output, "{output}"), (seed, "{seed}")) if key is not None}
    run, is_found = call_of_own_script(path, "train", elsewhere=output is None)
    notes = () if is_found else ("write the call of your own script in `run`",)
    return FoundProgram(preset, run, keys, flat, path, settings, own_folder=output is None, notes=notes)
