"""`sweep init --from`: a first sweep file for a training script, or for the configuration of one.

The file says which program it belongs to: a configuration by its keys, a script by its imports and
by the options that it declares. Ranges come from the recommendation catalogue, and always contain
the value in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from backends.command import presets
from sweeps.spec.from_program.found_in_configuration import found_in_configuration
from sweeps.spec.from_program.found_in_script import found_in_script
from sweeps.spec.from_program.found_program import FoundProgram
from sweeps.spec.from_program.known_configurations import PREFERENCES, REWARDS
from sweeps.spec.from_program.ranges import range_text
from sweeps.spec.json_schema import FILE_NAME


def starter_from(program: Path, name: str) -> str:
    """Return the text of a first sweep file for a script or a configuration.

    Raises UserInputError if the file is neither, or reveals nothing that can be tried.
    """
    found = found_in_script(program) if program.suffix == ".py" else found_in_configuration(program)
    return "\n".join(_lines(found, program, name)) + "\n"


def _lines(found: FoundProgram, program: Path, name: str) -> Iterator[str]:
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
    if presets.load(found.preset).checkpoints is None:
        yield _commented(
            '  # checkpoints: "{output}/*.pt"', "if the script saves any: the best one stays, the others go"
        )
    if found.resume:
        yield _commented(f"  resume: {json.dumps(found.resume)}", "appended to `run` to go on from a checkpoint")
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
            ours,
            found.values.get(key),
            found.origin,
            is_lora=found.is_lora,
            is_preference=is_preference,
            is_fine_tuning=found.is_fine_tuning,
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
