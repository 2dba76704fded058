"""`sweep init --from`: what a script or a configuration reveals, and its sweep file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from backends.command.options import CommandOptions
from backends.command.program import Program
from search_spaces.catalogue import Catalogue
from sweeps.errors import UserInputError
from sweeps.spec.loading import from_document
from sweeps.spec.starter_from_program import starter_from
from sweeps.spec.yaml_source import parse

pytestmark = pytest.mark.unit

SCRIPT = """\
import argparse
import torch

parser = argparse.ArgumentParser()
parser.add_argument("-l", "--lr", type=float, default=3e-4)
parser.add_argument("--epochs", type=int, default=9)
parser.add_argument("--batch-size", type=int, default=16)
parser.add_argument("--output-dir")
parser.add_argument("--seed", type=int)
parser.add_argument("--data", required=True)
"""

CONFIGURATIONS = {
    "llamafactory": "model_name_or_path: m\\nstage: sft\\nfinetuning_type: lora\\nlora_rank: 8\\n"
    "learning_rate: 1.0e-4\\nnum_train_epochs: 3.0\\n",
    "axolotl": "base_model: m\\nadapter: qlora\\nlora_r: 128\\nmicro_batch_size: 2\\nnum_epochs: 4\\n"
    "learning_rate: 0.0002\\ndatasets:\\n  - path: d\\n",
    "trl": "model_name_or_path: m\\nuse_peft: true\\nlora_r: 16\\nlearning_rate: 2.0e-4\\nnum_train_epochs: 1\\n",
}


def written(tmp_path: Path, name: str, text: str) -> dict[str, Any]:
    file = tmp_path / name
    file.write_text(text.replace("\\n", "\n"))
    made = starter_from(file, "made")
    from_document(parse(made, "made.yaml"))  # raises for each mistake
    document: dict[str, Any] = yaml.safe_load(made)
    return document


def test_a_script_becomes_a_command_with_its_own_options(tmp_path: Path) -> None:
    document = written(tmp_path, "train.py", SCRIPT)
    script = tmp_path / "train.py"
    options = "--lr {learning_rate} --epochs {n_epochs} --batch-size {batch_size} --output-dir {output} --seed {seed}"
    assert document["backend"]["run"] == f"python {script} {options}"
    assert document["backend"]["preset"] == "plain"
    declared = document["backend"]["hyperparameters"]
    assert declared["n_epochs"]["low"] <= 2 <= 9 <= declared["n_epochs"]["high"], "the default of the script is inside"
    assert declared["learning_rate"]["low"] <= 3e-4 <= declared["learning_rate"]["high"]
    assert declared["batch_size"]["choices"] == [8, 16, 32]


def test_an_option_that_the_sweep_does_not_know_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.write_text(SCRIPT)
    assert "also needed by the script: --data" in starter_from(file, "made")


def test_a_script_without_an_option_for_its_output_runs_in_the_folder_of_the_trial(tmp_path: Path) -> None:
    document = written(tmp_path, "train.py", SCRIPT.replace('parser.add_argument("--output-dir")\n', ""))
    assert document["backend"]["working_folder"] == "trial"
    assert document["backend"]["run"].startswith(f"python {tmp_path / 'train.py'} ")


@pytest.mark.parametrize(
    ("imported", "preset"),
    [
        ("import lightning as L", "lightning"),
        ("from keras import layers", "keras"),
        ("import transformers", "hf-trainer"),
    ],
)
def test_the_imports_of_a_script_tell_its_trainer(tmp_path: Path, imported: str, preset: str) -> None:
    assert written(tmp_path, "train.py", f"{imported}\n{SCRIPT}")["backend"]["preset"] == preset


@pytest.mark.parametrize("preset", CONFIGURATIONS)
def test_a_configuration_becomes_a_template(tmp_path: Path, preset: str) -> None:
    document = written(tmp_path, "config.yml", CONFIGURATIONS[preset])
    backend = document["backend"]
    assert (backend["preset"], backend["config"]["template"]) == (preset, str(tmp_path / "config.yml"))
    assert set(backend["hyperparameters"]) == {"learning_rate", "n_epochs", "lora_rank"}
    program = Program.of(CommandOptions.model_validate({key: backend[key] for key in backend if key != "type"}))
    faults = [failure.message for failure in program.failures() if "was not found" not in failure.message]
    assert faults == []
    ranks = backend["hyperparameters"]["lora_rank"]["choices"]
    recommended = Catalogue.load().get("lora_rank", "local")
    assert recommended is not None
    assert set(ranks) >= {4, 8, 16, 32, 64}
    assert preset != "axolotl" or 128 in ranks, "the value in the file is one of the choices"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("train.py", "def f(:\n", "not valid Python"),
        ("train.py", "print(1)\n", "no option for a learning rate"),
        ("c.yml", "a: 1\n", "configuration of no known program"),
        ("c.yml", "a: [\n", "not valid YAML"),
        ("c.txt", "a", "neither a script nor a configuration"),
    ],
)
def test_a_file_that_reveals_nothing_is_an_error(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserInputError) as raised:
        starter_from(tmp_path / name, "made")
    assert words in str(raised.value)


@pytest.mark.parametrize("name", ["gone.py", "gone.yml"])
def test_a_file_that_does_not_exist_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserInputError) as raised:
        starter_from(tmp_path / name, "made")
    assert name in str(raised.value)
