"""`sweep init --from`: what a script or a configuration reveals, and its sweep file."""

from __future__ import annotations

import os
import time
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
    "llamafactory": "model_name_or_path: m\nstage: sft\nfinetuning_type: lora\nlora_rank: 8\n"
    "learning_rate: 1.0e-4\nnum_train_epochs: 3.0\n",
    "axolotl": "base_model: m\nadapter: qlora\nlora_r: 128\nmicro_batch_size: 2\nnum_epochs: 4\n"
    "learning_rate: 0.0002\ndatasets:\n  - path: d\n",
    "trl": "model_name_or_path: m\nuse_peft: true\nlora_r: 16\nlearning_rate: 2.0e-4\nnum_train_epochs: 1\n",
}

TORCHTUNE = """\
#   tune run --nproc_per_node 4 full_finetune_distributed --config x/1B_full
tokenizer: {_component_: t}
dataset: {_component_: d, packed: false}
model: {_component_: m}
optimizer: {_component_: o, lr: 2e-5}
epochs: 3
seed: null
"""


def text_of(tmp_path: Path, name: str, text: str) -> str:
    """Return the sweep file for a file of this content; every mistake in it raises."""
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    made = starter_from(file, "made")
    from_document(parse(made, "made.yaml"))
    return made


def written(tmp_path: Path, name: str, text: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(text_of(tmp_path, name, text))
    return document


def settings(tmp_path: Path, text: str, name: str = "config.yml") -> dict[str, Any]:
    """Return the values that the sweep file sets in a configuration of this content."""
    changed: dict[str, Any] = written(tmp_path, name, text)["backend"]["config"]["set"]
    return changed


def backend_of(tmp_path: Path, text: str) -> dict[str, Any]:
    backend: dict[str, Any] = written(tmp_path, "train.py", text)["backend"]
    return backend


# ------------------------------------------------------------------------------------------ scripts
def test_a_script_becomes_a_command_with_its_own_options(tmp_path: Path) -> None:
    document = written(tmp_path, "train.py", SCRIPT)
    script = tmp_path / "train.py"
    options = "--lr {learning_rate} --epochs {n_epochs} --batch-size {batch_size} --output-dir {output} --seed {seed}"
    assert document["backend"]["run"] == f"python {script} {options}"
    assert document["backend"]["preset"] == "plain"
    declared = document["backend"]["hyperparameters"]
    assert declared["n_epochs"]["low"] <= 2 <= 9 <= declared["n_epochs"]["high"], "the default of the script is inside"
    assert declared["learning_rate"]["low"] < 3e-4 < declared["learning_rate"]["high"]
    assert declared["batch_size"]["choices"] == [8, 16, 32]


def test_an_option_that_the_sweep_does_not_know_is_named(tmp_path: Path) -> None:
    assert "also needed by the script: --data" in text_of(tmp_path, "train.py", SCRIPT)


def test_a_script_without_an_option_for_its_output_runs_in_the_folder_of_the_trial(tmp_path: Path) -> None:
    document = written(tmp_path, "train.py", SCRIPT.replace('parser.add_argument("--output-dir")\n', ""))
    assert document["backend"]["working_folder"] == "trial"
    assert document["backend"]["run"].startswith(f"python {tmp_path / 'train.py'} ")


def test_in_the_folder_of_the_trial_a_relative_input_gets_its_absolute_path(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    script = 'parser.add_argument("--lr", default=0.1)\nparser.add_argument("--data", default="./data")\n'
    assert f" --data {tmp_path / 'data'}" in backend_of(tmp_path, script)["run"]
    (tmp_path / "train").mkdir()
    no_path = script + 'parser.add_argument("--split", default="train")\n'
    assert "--split" not in backend_of(tmp_path, no_path)["run"], "a word is no path, even if such a folder exists"
    with_output = script + 'parser.add_argument("--out_dir")\n'
    assert "--data" not in backend_of(tmp_path, with_output)["run"], "the script runs where it always runs"


def test_an_option_for_the_file_of_the_model_gets_a_file_of_the_trial(tmp_path: Path) -> None:
    backend = backend_of(tmp_path, 'p.add_argument("--lr")\np.add_argument("--save", default="models/model.pt")\n')
    assert "--save {output}/model.pt" in backend["run"]
    assert "working_folder" not in backend


def test_a_script_whose_path_has_a_space_stays_one_argument(tmp_path: Path) -> None:
    document = written(tmp_path, "my scripts/train it.py", SCRIPT)
    options = CommandOptions.model_validate({"run": document["backend"]["run"]})
    assert options.arguments[:2] == ("python", str(tmp_path / "my scripts/train it.py"))


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


WAYS = {
    "short option": ('p.add_argument("-lr", type=float)\n', "-lr {learning_rate}"),
    "constant as default": ('LR = 2 ** -3\np.add_argument("--lr", default=LR)\n', "--lr {learning_rate}"),
    "subcommands": (
        'p.add_argument("--seed")\ntrain = sub.add_parser("train")\ntrain.add_argument("--lr")\n'
        'test = sub.add_parser("test")\ntest.add_argument("--beams")\n',
        " train --lr {learning_rate} --seed {seed}",
    ),
    "absl": (
        'flags.DEFINE_float("learning_rate", 0.1, "")\nflags.DEFINE_integer("epochs", 3, "")\n',
        "--learning_rate {learning_rate} --epochs {n_epochs}",
    ),
    "click": (
        '@click.command()\n@click.argument("output-dir")\n@click.option("--lr", "-l", default=1e-5)\n'
        '@click.option("--cuda/--no-cuda", default=True)\ndef main(output_dir, lr, cuda): pass\n',
        " {output} --lr {learning_rate}",
    ),
    "click group": (
        '@click.group()\ndef cli(): pass\n@cli.command()\n@click.argument("train_path")\n'
        '@click.option("--lr", default=1e-5)\ndef train_it(train_path, lr): pass\n',
        " train-it TRAIN_PATH --lr {learning_rate}",
    ),
    "typer": (
        "import typer\napp = typer.Typer()\n@app.command()\n"
        "def main(data: str, num_epochs: int = 3, rate: float = typer.Option(1e-3, '--lr'), fast: bool = 0): pass\n",
        " DATA --lr {learning_rate} --num-epochs {n_epochs}",
    ),
    "typer.run": ("import typer\ndef main(learning_rate: float = 0.1): pass\ntyper.run(main)\n", "--learning-rate {"),
    "Fire": (
        "import fire\ndef train(base_model: str, num_epochs: int = 3, learning_rate: float = 3e-4): pass\n"
        "fire.Fire(train)\n",
        "--learning_rate {learning_rate} --num_epochs {n_epochs}",
    ),
    "tyro": (
        "from dataclasses import dataclass\nimport tyro\n@dataclass\nclass Base:\n    seed: int = 1\n"
        "@dataclass\nclass Args(Base):\n    data: str\n    learning_rate: float = 1e-3\nargs = tyro.cli(Args)\n",
        "--learning-rate {learning_rate} --seed {seed}",
    ),
    "jsonargparse": (
        "from jsonargparse import CLI\ndef main(lr: float = 0.1, out_dir: str = 'x'): pass\nCLI(main)\n",
        "--lr {learning_rate} --out_dir {output}",
    ),
    "old Lightning": ("from lightning import Trainer\np = Trainer.add_argparse_args(p)\n", "--max_epochs {n_epochs}"),
    "LightningCLI": (
        "import lightning.pytorch as pl\nfrom lightning.pytorch.cli import LightningCLI\n"
        "class Model(pl.LightningModule):\n    def __init__(self, lr: float = 1e-3): pass\n"
        "LightningCLI(Model, trainer_defaults={'max_epochs': 10})\n",
        " fit --model.lr {learning_rate} --trainer.max_epochs {n_epochs} --trainer.default_root_dir {output}",
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_declare_options_is_read(tmp_path: Path, way: str) -> None:
    script, words = WAYS[way]
    assert words in backend_of(tmp_path, script)["run"]


def test_a_script_with_the_parser_of_transformers_trains_evaluates_and_saves(tmp_path: Path) -> None:
    script = (
        "from dataclasses import dataclass, field\nfrom transformers import HfArgumentParser, TrainingArguments\n"
        "@dataclass\nclass ModelArguments:\n    model_name_or_path: str = field(metadata={'help': 'x'})\n"
        "    cache_dir: str = field(default=None)\n"
        "parser = HfArgumentParser((ModelArguments, TrainingArguments))\nTrainer(eval_dataset=data)\n"
    )
    text = text_of(tmp_path, "train.py", script)
    run = yaml.safe_load(text)["backend"]["run"]
    assert "--learning_rate {learning_rate} --num_train_epochs {n_epochs} --output_dir {output}" in run
    assert run.endswith("--do_train --do_eval --eval_strategy epoch --save_strategy epoch")
    assert "also needed by the script: --model_name_or_path\n" in text
    own_rate = script.replace(
        "    cache_dir: str", "    learning_rate: float = field(default=1e-3)\n    cache_dir: str"
    )
    assert "0.001 by default" in text_of(tmp_path, "train.py", own_rate)
    without = script.replace("Trainer(eval_dataset=data)", "Trainer(eval_dataset=None)")
    assert "no eval_dataset" not in text
    assert "no eval_dataset" in text_of(tmp_path, "train.py", without)


def test_a_script_of_trl_has_the_range_of_its_method(tmp_path: Path) -> None:
    script = "from trl import DPOConfig, TrlParser\nparser = TrlParser((DPOConfig,))\nTrainer(eval_dataset=d)\n"
    document = written(tmp_path, "train.py", script)
    assert document["backend"]["hyperparameters"]["learning_rate"]["high"] <= 1e-5
    assert document["objective"] == {"maximize": "valid_rewards_accuracies"}


def test_a_script_with_hydra_gets_its_settings_and_those_of_its_groups(tmp_path: Path) -> None:
    (tmp_path / "conf/optimizer").mkdir(parents=True)
    (tmp_path / "conf/config.yaml").write_text("defaults:\n  - optimizer: adam\n  - _self_\nepochs: 5\nseed: 1\n")
    (tmp_path / "conf/optimizer/adam.yaml").write_text("lr: 0.001\n")
    script = (
        'import hydra\n@hydra.main(version_base=None, config_path="conf", config_name="config")\ndef main(cfg): pass\n'
    )
    backend = backend_of(tmp_path, script)
    words = "optimizer.lr={learning_rate} epochs={n_epochs} seed={seed} hydra.run.dir={output}"
    assert backend["run"].endswith(words)
    assert backend["hyperparameters"]["n_epochs"]["high"] >= 5


def test_a_script_of_unsloth_has_its_preset_and_its_rank(tmp_path: Path) -> None:
    script = (
        'from unsloth import FastLanguageModel\np.add_argument("--r", default=16)\np.add_argument("--learning_rate")\n'
    )
    backend = backend_of(tmp_path, script)
    assert backend["preset"] == "unsloth"
    assert "--r {lora_rank}" in backend["run"]
    assert backend["hyperparameters"]["learning_rate"] == {"low": 1e-4, "high": 1e-3, "log": True}, "of LoRA"


def test_a_script_that_joins_a_process_group_is_started_by_torchrun(tmp_path: Path) -> None:
    joins = f"{SCRIPT}torch.distributed.init_process_group('gloo')\n"
    assert backend_of(tmp_path, joins)["run"].startswith("torchrun ")
    spawns = f"{joins}torch.multiprocessing.spawn(main)\n"
    assert backend_of(tmp_path, spawns)["run"].startswith("python "), "it starts its processes itself"


def test_an_option_for_resuming_is_used_where_the_checkpoints_are_known(tmp_path: Path) -> None:
    option = 'parser.add_argument("--ckpt_path")\n'
    assert backend_of(tmp_path, f"import lightning\n{SCRIPT}{option}")["resume"] == "--ckpt_path {checkpoint}"
    assert "resume" not in backend_of(tmp_path, SCRIPT + option), "nobody knows which files are checkpoints"
    switch = 'parser.add_argument("--resume", action="store_true")\n'
    assert "resume" not in backend_of(tmp_path, f"import lightning\n{SCRIPT}{switch}")


def test_a_rate_is_searched_widely_if_nothing_tells_what_is_trained(tmp_path: Path) -> None:
    script = 'p.add_argument("--lr", required=True)\n'
    wide = {"low": 1e-5, "high": 1e-2, "log": True}
    assert backend_of(tmp_path, f"import torch\n{script}")["hyperparameters"]["learning_rate"] == wide
    fine_tuning = backend_of(tmp_path, f"import transformers\n{script}")["hyperparameters"]["learning_rate"]
    assert fine_tuning == {"low": 2e-5, "high": 5e-5, "log": True}


def test_a_script_that_writes_no_log_gets_a_note(tmp_path: Path) -> None:
    assert "no log was found" in text_of(tmp_path, "train.py", SCRIPT)
    assert "no log was found" not in text_of(tmp_path, "train.py", SCRIPT + "print({'valid_loss': loss})\n")
    assert "no log was found" not in text_of(tmp_path, "train.py", f"import json\n{SCRIPT}")


# ----------------------------------------------------------------------------------- configurations
@pytest.mark.parametrize("preset", CONFIGURATIONS)
def test_a_configuration_becomes_a_template(tmp_path: Path, preset: str) -> None:
    document = written(tmp_path, "config.yml", CONFIGURATIONS[preset])
    backend = document["backend"]
    assert (backend["preset"], backend["config"]["template"]) == (preset, str(tmp_path / "config.yml"))
    assert set(backend["hyperparameters"]) == {"learning_rate", "n_epochs", "lora_rank"}
    assert backend["config"]["set"]["seed"] == "{seed}", "the finals repeat the best trials with other seeds"
    program = Program.of(CommandOptions.model_validate({key: backend[key] for key in backend if key != "type"}))
    faults = [failure.message for failure in program.failures() if "was not found" not in failure.message]
    assert faults == []
    ranks = backend["hyperparameters"]["lora_rank"]["choices"]
    recommended = Catalogue.load().get("lora_rank", "local")
    assert recommended is not None
    assert set(ranks) >= {4, 8, 16, 32, 64}
    assert preset != "axolotl" or 128 in ranks, "the value in the file is one of the choices"


EVALUATIONS = [
    ("axolotl", "val_set_size: 0\n", {"val_set_size": 0.05}),
    ("axolotl", "val_set_size: 0.1\nevals_per_epoch: 4\n", {}),
    ("axolotl", "eval_strategy: 'no'\n", {"eval_strategy": "epoch"}),
    ("axolotl", "evals_per_epoch: 0\n", {"evals_per_epoch": 1}),
    ("axolotl", "hub_model_id: me/it\n", {"hub_model_id": None}),
    ("llamafactory", "", {"eval_strategy": "epoch", "save_strategy": "epoch", "val_size": 0.1}),
    ("llamafactory", "eval_dataset: e\neval_strategy: epoch\nsave_strategy: epoch\n", {}),
    ("trl", "eval_strategy: no\nsave_strategy: epoch\n", {"eval_strategy": "epoch"}),
    ("trl", "eval_strategy: epoch\nsave_strategy: no\n", {"save_strategy": "epoch"}),
    ("trl", "eval_steps: 50\nsave_strategy: steps\nsave_steps: 100\n", {"eval_strategy": "steps"}),
    (
        "trl",
        "eval_strategy: steps\neval_steps: 200\nsave_steps: 500\n",
        {"save_strategy": "steps", "save_steps": 200},
    ),
    ("trl", "eval_strategy: epoch\nsave_strategy: epoch\npush_to_hub: true\n", {"push_to_hub": False}),
    ("trl", "eval_strategy: epoch\nsave_strategy: epoch\nsave_total_limit: 1\n", {"save_total_limit": None}),
    ("trl", "eval_strategy: epoch\nsave_strategy: epoch\ndatasets:\n  - path: d\n", {"test_split_size": 0.05}),
    (
        "trl",
        "eval_strategy: epoch\nsave_strategy: epoch\nresume_from_checkpoint: true\n",
        {"resume_from_checkpoint": None},
    ),
]


@pytest.mark.parametrize(("preset", "added", "expected"), EVALUATIONS)
def test_each_trial_evaluates_saves_and_leaves_nothing_outside(
    tmp_path: Path, preset: str, added: str, expected: dict[str, Any]
) -> None:
    changed = settings(tmp_path, CONFIGURATIONS[preset] + added)
    assert {key: value for key, value in changed.items() if not str(value).startswith("{")} == expected


def test_an_objective_that_does_not_depend_on_beta_is_chosen_for_preferences(tmp_path: Path) -> None:
    text = CONFIGURATIONS["llamafactory"].replace("sft", "dpo").replace("1.0e-4", "5.0e-6") + "pref_beta: 0.1\n"
    document = written(tmp_path, "config.yml", text)
    assert document["objective"] == {"maximize": "valid_rewards_accuracies"}
    ranges = document["backend"]["hyperparameters"]
    assert ranges["beta"]["low"] < 0.1 < ranges["beta"]["high"]
    assert ranges["learning_rate"] == {"low": 1.25e-6, "high": 2e-5, "log": True}, "far below the rates of SFT"
    kto = written(tmp_path, "config.yml", text.replace("dpo", "kto"))
    assert kto["objective"] == {"minimize": "valid_loss"}, "KTO reports no accuracy"
    assert "beta" not in kto["backend"]["hyperparameters"], "its loss depends on beta"


@pytest.mark.parametrize(
    ("name", "added", "command"),
    [
        ("sft/config.yaml", "", "trl sft"),
        ("dpo/config.yaml", "", "trl dpo"),
        ("config_dpo.yaml", "", "trl dpo"),
        ("config.yaml", "beta: 0.1\nmax_prompt_length: 5\n", "trl dpo"),
        ("config.yaml", "desirable_weight: 1.0\n", "trl kto"),
        ("config.yaml", "num_generations: 8\n", "trl grpo"),
    ],
)
def test_the_command_of_trl_follows_from_the_keys_or_the_path(
    tmp_path: Path, name: str, added: str, command: str
) -> None:
    assert written(tmp_path, name, CONFIGURATIONS["trl"] + added)["backend"]["run"] == f"{command} --config {{config}}"


def test_a_configuration_that_trl_would_refuse_belongs_to_a_script(tmp_path: Path) -> None:
    text = CONFIGURATIONS["trl"] + "dataset_mixer: {a: 1.0}\n"
    assert "write the call of your own script" in text_of(tmp_path, "recipes/m/dpo/config.yaml", text)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/run_dpo.py").write_text("parser = H4ArgumentParser()\n")
    backend = written(tmp_path, "recipes/m/dpo/config.yaml", text)["backend"]
    assert backend["run"] == f"python {os.path.relpath(tmp_path / 'scripts/run_dpo.py')} {{config}}"
    assert backend["preset"] == "hf-trainer", "an option of TRL for resuming is not known to the script"


def test_keys_that_new_versions_of_trl_refuse_are_named(tmp_path: Path) -> None:
    text = text_of(
        tmp_path, "sft/config.yaml", CONFIGURATIONS["trl"] + "torch_dtype: bfloat16\noverwrite_output_dir: true\n"
    )
    assert "refuse torch_dtype (now dtype), overwrite_output_dir\n" in text
    assert "refuse" not in text_of(tmp_path, "sft/config.yaml", CONFIGURATIONS["trl"])


def test_the_recipe_of_torchtune_is_the_one_in_the_comments(tmp_path: Path) -> None:
    text = text_of(tmp_path, "config.yaml", TORCHTUNE)
    backend = yaml.safe_load(text)["backend"]
    assert backend["run"] == "tune run --nproc_per_node {processes} full_finetune_distributed --config {config}"
    assert "# resources: {gpus_per_trial: 4}" in text
    assert backend["config"]["set"]["dataset.split"] == "train[:95%]"
    assert backend["config"]["set"]["dataset_val.split"] == "train[95%:]"
    assert backend["config"]["set"]["dataset_val._component_"] == "d"
    assert backend["hyperparameters"]["learning_rate"]["low"] < 2e-5
    lora = TORCHTUNE.partition("\n")[2].replace("model: {", "model: {lora_rank: 8, ")
    assert "tune run lora_finetune_single_device " in text_of(tmp_path, "config.yaml", lora)


def test_a_number_of_steps_leaves_no_epochs_to_try(tmp_path: Path) -> None:
    text = CONFIGURATIONS["trl"] + "max_steps: 100\n"
    assert "n_epochs" not in written(tmp_path, "config.yml", text)["backend"]["hyperparameters"]
    unlimited = CONFIGURATIONS["trl"] + "max_steps: -1\n"
    assert "n_epochs" in written(tmp_path, "config.yml", unlimited)["backend"]["hyperparameters"]


def test_deepspeed_of_llama_factory_starts_with_torchrun(tmp_path: Path) -> None:
    document = written(tmp_path, "config.yml", CONFIGURATIONS["llamafactory"] + "deepspeed: ds.json\n")
    assert document["backend"]["environment"] == {"FORCE_TORCHRUN": "1"}


def test_the_configuration_of_lightning_is_known_by_its_trainer(tmp_path: Path) -> None:
    text = "trainer: {max_epochs: 12}\nmodel: {class_path: a.B, init_args: {lr: 0.01}}\nseed_everything: true\n"
    backend = written(tmp_path, "config.yaml", text)["backend"]
    assert backend["preset"] == "lightning"
    changed = backend["config"]["set"]
    assert changed["model.init_args.lr"] == "{learning_rate}"
    assert changed["trainer.max_epochs"] == "{n_epochs}"
    assert changed["seed_everything"] == "{seed}"


def test_a_configuration_of_a_script_of_the_users_own_is_used_as_it_is(tmp_path: Path) -> None:
    text = "model_name: m\nlearning_rate: 1e-6\nnum_train_epochs: 5\noutput_dir: out\nevaluation_strategy: 'no'\n"
    backend = written(tmp_path, "config.yaml", text)["backend"]
    assert backend["run"] == "python train.py --config {config}"
    assert backend["preset"] == "hf-trainer"
    changed = {"learning_rate": "{learning_rate}", "num_train_epochs": "{n_epochs}", "output_dir": "{output}"}
    assert backend["config"]["set"] == changed, "no key is added that the script may not know"
    (tmp_path / "train.py").write_text("")
    without_output = written(tmp_path, "config.yaml", "sft: {learning_rate: 1.0e-5}\n")["backend"]
    assert without_output["working_folder"] == "trial"
    assert without_output["run"] == f"python {tmp_path / 'train.py'} --config {{config}}"


@pytest.mark.parametrize(
    ("rate", "low", "high"),
    [("2e-5", 1e-5, 5e-5), ("1.0e-5", 5e-6, 5e-5), ("20.0", 5.0, 80.0), ("1.0e-7", 2.5e-8, 4e-7)],
)
def test_the_value_in_the_file_lies_inside_the_range_and_never_at_its_end(
    tmp_path: Path, rate: str, low: float, high: float
) -> None:
    text = f"base_model: m\nmicro_batch_size: 1\nlearning_rate: {rate}\n"
    found = written(tmp_path, "config.yml", text)["backend"]["hyperparameters"]["learning_rate"]
    assert (found["low"], found["high"]) == pytest.approx((low, high))


# ---------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("train.py", "def f(:\n", "not valid Python"),
        ("train.py", "print 'python 2'\n", "not valid Python"),
        ("train.py", "a = '\0'\n", "not valid Python"),
        ("train.py", "(" * 100_000, "not valid Python"),
        ("train.py", "", "no option for a learning rate"),
        ("train.py", "print(1)\n", "no option for a learning rate"),
        ("c.yml", "a: 1\n", "configuration of no known program"),
        ("c.yml", "", "configuration of no known program"),
        ("c.yml", "- a\n", "is not a mapping"),
        ("c.yml", "a: [\n", "not valid YAML"),
        ("zero3.json", '{"optimizer": {"params": {"lr": "auto"}}}', "configuration of no known program"),
        ("c.yml", "a: " + "[" * 1_000, "nested too deeply"),
        ("c.yml", "model_name_or_path: m\ntemplate: llama3\ninfer_backend: vllm\n", "does not train"),
        ("c.yml", CONFIGURATIONS["llamafactory"] + "do_predict: true\n", "does not train"),
        ("c.yml", CONFIGURATIONS["llamafactory"].replace("sft", "ppo"), "PPO of LLaMA-Factory does not evaluate"),
        ("c.json", "{", "not valid JSON"),
        ("c.toml", "= 1", "not valid TOML"),
        ("c.txt", "a", "neither a script nor a configuration"),
        ("c.sh", "python train.py", "neither a script nor a configuration"),
    ],
)
def test_a_file_that_reveals_nothing_is_one_error(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    assert words in problem_of(tmp_path / name)


@pytest.mark.parametrize("name", ["gone.py", "gone.yml"])
def test_a_file_that_does_not_exist_is_an_error(tmp_path: Path, name: str) -> None:
    assert name in problem_of(tmp_path / name)


@pytest.mark.parametrize("name", ["f.py", "f.yml", "f.json"])
def test_what_is_no_readable_text_is_one_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    assert "is a directory" in problem_of(path)
    path.rmdir()
    os.mkfifo(path)
    assert "is a pipe" in problem_of(path)
    path.unlink()
    path.write_bytes(bytes(range(256)) * 40)
    assert name in problem_of(path)
    with path.open("wb") as stream:
        stream.truncate(10_000_000)
    assert "too large" in problem_of(path)


@pytest.mark.parametrize("name", ["f.py", "f.yml"])
def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/proc/self/mem")  # a regular file whose first page nobody can read
    assert f"{name}: cannot be read: Input/output error" in problem_of(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("name", ["f.py", "f.yml"])
def test_a_file_without_permission_is_one_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(SCRIPT)
    (tmp_path / name).chmod(0)
    assert "cannot be read: Permission denied" in problem_of(tmp_path / name)


def test_a_fixed_value_of_a_script_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("class Config:\n    lr = 1e-3\n    epochs: int = 5\nrun(Config())\n")
    with pytest.raises(UserInputError) as raised:
        starter_from(tmp_path / "train.py", "made")
    assert "`lr` is a fixed number in line 2" in raised.value.problems[0].hint


def test_a_byte_order_mark_and_other_encodings_are_read(tmp_path: Path) -> None:
    for name, content in (("train.py", SCRIPT), ("config.yml", CONFIGURATIONS["trl"])):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert "learning_rate" in starter_from(tmp_path / name, "made")
    (tmp_path / "train.py").write_bytes(b"# -*- coding: latin-1 -*-\n# caf\xe9\n" + SCRIPT.encode())
    assert "learning_rate" in starter_from(tmp_path / "train.py", "made")
    (tmp_path / "config.yml").write_bytes(b"# caf\xe9\n" + CONFIGURATIONS["trl"].encode())
    assert "it is not UTF-8" in problem_of(tmp_path / "config.yml")


def test_a_long_script_takes_a_moment(tmp_path: Path) -> None:
    lines = [f"value_{number} = compute(value_{number - 1}, option={number}) ** 2" for number in range(5_000)]
    (tmp_path / "train.py").write_text(SCRIPT + "\n".join(lines) + "\n")
    start = time.process_time()
    assert "--lr {learning_rate}" in starter_from(tmp_path / "train.py", "made")
    assert time.process_time() - start < 10, "it takes about half a second"


def problem_of(path: Path) -> str:
    with pytest.raises(UserInputError) as raised:
        starter_from(path, "made")
    assert len(raised.value.problems) == 1
    return str(raised.value)
