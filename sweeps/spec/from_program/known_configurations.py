"""The configuration files of known training programs, and what each needs to become a trial.

A trial must evaluate, save a checkpoint for its best evaluation, and leave nothing outside its
folder. Sources: the documentation and the published examples of each program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from backends.command import presets
from sweeps.errors import Problem, UserInputError
from sweeps.spec.from_program.own_scripts import call_of_own_script
from sweeps.spec.from_program.ranges import number_of

TRIED = ("learning_rate", "n_epochs", "lora_rank", "lora_dropout", "weight_decay", "warmup_ratio", "beta")
"""What is tried if a configuration has it. A batch size is not: the memory depends on it."""

ALWAYS = ("learning_rate", "n_epochs")
"""What every configuration has, if only by default."""

PREFERENCES = ("dpo", "ipo", "orpo", "simpo", "cpo", "hinge")
"""Methods that learn which of two answers is preferred, and report how often the model agrees."""

REWARDS = ("grpo", "rloo", "online_dpo")
"""Methods that learn from a reward."""

_OWN_KEYS: Mapping[str, tuple[frozenset[str], ...]] = {
    "llamafactory": (frozenset({"stage", "finetuning_type"}), frozenset({"template", "cutoff_len"})),
    "axolotl": (frozenset({"base_model", "micro_batch_size"}), frozenset({"base_model", "datasets"})),
    "torchtune": (frozenset({"tokenizer", "optimizer", "model"}),),
    "lightning": (frozenset({"trainer", "model"}),),
    "trl": (frozenset({"model_name_or_path"}),),
}
"""Keys that only the configuration of this program has together; the first match counts."""

_TRL_DATA = frozenset(
    {"dataset_name", "datasets", "dataset_config", "dataset_train_split", "dataset_test_split", "dataset_streaming"}
    | {"dataset_num_proc", "dataset_text_field", "dataset_kwargs", "dataset_batch_size", "test_split_size"}
)
_NOT_OF_TRL = frozenset({"chat_template"})
"""Keys of scripts that are built on TRL, such as those of the alignment handbook."""

_OLD_NAMES: Mapping[str, str] = {
    "evaluation_strategy": "eval_strategy",
    "torch_dtype": "dtype",
    "warmup_ratio": "warmup_steps",
    "max_seq_length": "max_length",
    "overwrite_output_dir": "",
}
"""Keys that TRL 1.16 with transformers 5.23 refuses, with their new names."""

_TRL_COMMANDS = ("sft", "dpo", "kto", "grpo", "rloo", "reward")

_RECIPE = re.compile(r"tune run (?:--nproc_per_node (?P<processes>\d+) )?(?P<recipe>\w+) ")


@dataclass(frozen=True)
class KnownConfiguration:
    """How a configuration becomes a trial.

    `keys` are the keys of the hyperparameters by our names. `settings` are values to change, each
    with the reason. `method` is `sft`, `dpo` and the like. `gpus` is the number that the file is
    meant for.
    """

    preset: str
    run: str
    keys: Mapping[str, str]
    settings: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    method: str = "sft"
    notes: tuple[str, ...] = ()
    gpus: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    resume: str = ""


def preset_of(flat: Mapping[str, Any]) -> str | None:
    """Return the preset of the program that a configuration belongs to, by its keys."""
    names = frozenset(flat) | {key.partition(".")[0] for key in flat}
    return next((name for name, sets in _OWN_KEYS.items() if any(keys <= names for keys in sets)), None)


def known_configuration(preset: str, flat: Mapping[str, Any], path: Path, text: str) -> KnownConfiguration:
    """Return how the configuration of this program becomes a trial.

    `flat` are its values by keys with dots, and `text` is the file. Raises UserInputError if it
    does not train, or can never be evaluated.
    """
    known = presets.load(preset)
    trained = [known.keys.get(ours) for ours in (*ALWAYS, "batch_size")]
    if not any(key in flat for key in [*trained, "max_steps", *_named(flat, "lr")]) or _only_predicts(flat):
        hint = "name a configuration for training, with a learning rate or a number of epochs"
        raise UserInputError([Problem(str(path), "is a configuration that does not train", hint)])
    adapt = {"axolotl": _axolotl, "llamafactory": _llamafactory, "torchtune": _torchtune, "trl": _trl}
    keys = {ours: known.keys[ours] for ours in TRIED if known.keys.get(ours) in flat or ours in ALWAYS}
    plain = KnownConfiguration(preset, known.run, keys)
    found = adapt[preset](plain, flat, path, text) if preset in adapt else _lightning(plain, flat)
    return _with_common_settings(found, flat, known)


def _only_predicts(flat: Mapping[str, Any]) -> bool:
    return bool(flat.get("do_predict")) and not flat.get("do_train")


def _with_common_settings(
    found: KnownConfiguration, flat: Mapping[str, Any], known: presets.Preset
) -> KnownConfiguration:
    keys, notes = dict(found.keys), found.notes
    settings = dict(found.settings)
    if found.method not in PREFERENCES or "beta" not in known.keys:
        keys.pop("beta", None)
    if (number_of(flat.get("max_steps")) or 0) > 0:
        keys.pop("n_epochs", None)
        notes += ("max_steps ends the training, so that the number of epochs is not tried",)
    for key in ("resume_from_checkpoint", "auto_resume_from_checkpoints"):
        if flat.get(key):
            is_switch = key.startswith("auto") or found.preset == "torchtune"
            settings[key] = (False if is_switch else None, "each trial begins with the base model")
    if (seed := known.keys.get("seed")) is not None:
        settings[seed] = ("{seed}", "")
    return replace(found, keys=keys, settings=settings, notes=notes)


# ------------------------------------------------------------------------------------------ axolotl
def _axolotl(found: KnownConfiguration, flat: Mapping[str, Any], path: Path, text: str) -> KnownConfiguration:
    settings: dict[str, tuple[Any, str]] = {}
    if number_of(flat.get("val_set_size")) == 0 and "test_datasets" not in flat:
        settings["val_set_size"] = (0.05, "0 in the file, but trials are compared by validation data")
    if _is_no(flat.get("eval_strategy")):
        settings["eval_strategy"] = ("epoch", "the file does not evaluate")
    elif number_of(flat.get("evals_per_epoch")) == 0:
        settings["evals_per_epoch"] = (1, "the file does not evaluate")
    if _is_no(flat.get("save_strategy")):
        settings["save_strategy"] = ("epoch", "a checkpoint for each evaluation")
    if flat.get("hub_model_id"):
        settings["hub_model_id"] = (None, "trials are not uploaded")
    method = str(flat.get("rl") or "sft").lower()
    gpus = 1 if any(key.partition(".")[0] in ("fsdp", "fsdp_config", "deepspeed") and flat[key] for key in flat) else 0
    return replace(found, settings=settings, method=method, gpus=gpus)


# ------------------------------------------------------------ LLaMA-Factory, TRL: TrainingArguments
def _llamafactory(found: KnownConfiguration, flat: Mapping[str, Any], path: Path, text: str) -> KnownConfiguration:
    method = {"rm": "reward", "pt": "sft"}.get(str(flat.get("stage", "sft")), str(flat.get("stage", "sft")))
    if method == "ppo":
        hint = "a sweep compares trials by a validation metric; sweep the stages sft, rm, dpo or kto"
        raise UserInputError([Problem(str(path), "PPO of LLaMA-Factory does not evaluate", hint)])
    settings = dict(evaluation_settings(flat))
    if number_of(flat.get("val_size") or 0) == 0 and not flat.get("eval_dataset"):
        # A stream has no known size, so that the validation part is a number of examples.
        settings["val_size"] = (100 if flat.get("streaming") else 0.1, "the file has no validation data")
    environment = {"FORCE_TORCHRUN": "1"} if flat.get("deepspeed") else {}
    gpus = 1 if flat.get("deepspeed") or flat.get("fsdp") else 0
    return replace(found, settings=settings, method=method, gpus=gpus, environment=environment)


def _trl(found: KnownConfiguration, flat: Mapping[str, Any], path: Path, text: str) -> KnownConfiguration:
    method = _trl_method(flat, path)
    settings, notes = dict(evaluation_settings(flat)), list[str]()
    foreign = sorted(
        {name for key in flat if "data" in (name := key.partition(".")[0]) and not name.startswith("dataloader")}
        - _TRL_DATA
        | (_NOT_OF_TRL & set(flat))
    )
    run = f"trl {method} --config {{config}}"
    if foreign or method not in _TRL_COMMANDS:
        run, is_found = call_of_own_script(path, method)
        reason = f"no command of TRL takes {foreign[0]}" if foreign else f"TRL has no command {method}"
        notes.append(reason if is_found else f"{reason}: write the call of your own script in `run`")
        found = replace(found, preset="hf-trainer")
    elif isinstance(flat.get("datasets"), list) and not flat.get("test_split_size"):
        settings["test_split_size"] = (0.05, "the file has no validation data")
    elif not flat.get("dataset_test_split"):
        notes.append("trials are evaluated with the split `test` of the data set")
    if old := [f"{key} (now {new})" if new else key for key, new in _OLD_NAMES.items() if key in flat]:
        notes.append(f"new versions of TRL and transformers refuse {', '.join(old)}")
    return replace(found, run=run, settings=settings, method=method, notes=tuple(notes))


def _trl_method(flat: Mapping[str, Any], path: Path) -> str:
    """Return the command of TRL that a configuration is for: by its keys, or by its path."""
    if {"num_generations", "reward_funcs"} & set(flat):
        return "grpo"
    if {"desirable_weight", "undesirable_weight"} & set(flat):
        return "kto"
    words = re.split(r"[^a-z]+", "/".join(path.absolute().parts[-3:]).lower())
    named = next((word for word in reversed(words) if word in (*_TRL_COMMANDS, *PREFERENCES)), None)
    if named is not None:
        return named
    return "dpo" if {"beta", "max_prompt_length"} & set(flat) else "sft"


def evaluation_settings(flat: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, str]]]:
    """Yield the TrainingArguments to change: evaluate, and save a checkpoint whenever it does."""
    strategy = flat.get("eval_strategy", flat.get("evaluation_strategy"))
    steps, saved_steps = number_of(flat.get("eval_steps")), number_of(flat.get("save_steps"))
    saves = flat.get("save_strategy")
    if _is_no(strategy) or (strategy is None and not steps):
        strategy = "epoch"
        yield "eval_strategy", (strategy, "the file does not evaluate")
    elif strategy is None:
        strategy = "steps"
        yield "eval_strategy", (strategy, "eval_steps alone evaluates nothing")
    if strategy == "epoch" and saves != "epoch":
        yield "save_strategy", ("epoch", "a checkpoint for each evaluation")
    elif strategy == "steps" and (saves not in (None, "steps") or not steps or (saved_steps or 1) % steps):
        yield "save_strategy", ("steps", "a checkpoint for each evaluation")
        if steps:
            yield "save_steps", (flat["eval_steps"], "")
    if flat.get("save_total_limit"):
        yield "save_total_limit", (None, "the best checkpoint stays, and the sweep deletes the others")
    if flat.get("push_to_hub"):
        yield "push_to_hub", (False, "trials are not uploaded")


def _is_no(value: Any) -> bool:
    """Return whether a strategy is `no`, which YAML 1.1 reads as false."""
    return value is False or str(value).lower() == "no"


# ---------------------------------------------------------------------------------------- torchtune
def _torchtune(found: KnownConfiguration, flat: Mapping[str, Any], path: Path, text: str) -> KnownConfiguration:
    in_text = _RECIPE.search(text)
    is_lora = any(key.startswith("model.lora_") for key in flat)
    recipe = (
        in_text["recipe"] if in_text else "lora_finetune_single_device" if is_lora else "full_finetune_single_device"
    )
    gpus = int(in_text["processes"]) if in_text and in_text["processes"] else 0
    launch = "--nproc_per_node {processes} " if gpus else ""
    notes = [] if in_text else ["correct the recipe in `run`, if it is another one"]
    settings: dict[str, tuple[Any, str]] = {}
    data = {key.partition(".")[2]: value for key, value in flat.items() if key.startswith("dataset.")}
    if "dataset_val._component_" in flat:
        if not flat.get("run_val_every_n_steps"):
            settings["run_val_every_n_steps"] = (50, "the file does not evaluate")
    elif "_component_" in data and data.get("split") in (None, "train"):
        for key, value in data.items():
            settings[f"dataset_val.{key}"] = (value, "")
        settings["dataset.split"] = ("train[:95%]", "the rest is validation data")
        settings["dataset_val.split"] = ("train[95%:]", "")
        settings["run_val_every_n_steps"] = (50, "the file does not evaluate")
    else:
        notes.append("the file has no dataset_val: add it, and run_val_every_n_steps, or nothing is evaluated")
    if re.search("dpo|ppo|grpo|distillation", recipe):
        notes.append(f"the recipe {recipe} does not evaluate: use one of your own that logs a validation metric")
    run = f"tune run {launch}{recipe} --config {{config}}"
    return replace(found, run=run, settings=settings, gpus=gpus, notes=tuple(notes))


# ------------------------------------------------------------------------------------- LightningCLI
def _lightning(found: KnownConfiguration, flat: Mapping[str, Any]) -> KnownConfiguration:
    """LightningCLI: the learning rate is where the optimizer or the model has it."""
    keys = {"n_epochs": "trainer.max_epochs"}
    for ours, name in (("learning_rate", "lr"), ("learning_rate", "learning_rate"), ("weight_decay", "weight_decay")):
        if found_keys := _named(flat, name):
            keys[ours] = found_keys[0]
    note = "write the name of your script in `run`"
    run, resume = "python main.py fit --config {config}", "--ckpt_path {checkpoint}"
    return replace(found, run=run, resume=resume, keys=keys, notes=(note,))


def _named(flat: Mapping[str, Any], name: str) -> list[str]:
    """Return the keys whose last part has this name."""
    return [key for key in flat if key.rpartition(".")[2] == name]
