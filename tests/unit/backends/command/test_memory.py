"""The forecast of a program's memory: its settings in configuration files and command lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.command import CommandBackend
from backends.command.memory import forecast
from backends.command.options import CommandOptions
from backends.command.program import Program
from backends.contract import DataFile, Dataset, Scalar, TrainingRequest
from backends.memory_forecast.forecast import MemoryForecast

pytestmark = pytest.mark.unit

CONFIG = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}  # fmt: skip
WEIGHTS = 1_235_814_400
"""The published number of weights of Llama 3.2 1B, whose shape CONFIG is."""

NOTHING = DataFile("", 0, "")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


def forecast_of(options: dict[str, Any], model: Path | str = "", **point: Scalar) -> MemoryForecast | None:
    parsed = CommandOptions.model_validate({"hyperparameters": {name: {} for name in point}, **options})
    request = TrainingRequest("run", str(model), Dataset(NOTHING, NOTHING, "completion"), point, 7)
    return forecast(Program.of(parsed), request)


def known(options: dict[str, Any], model: Path | str = "", **point: Scalar) -> MemoryForecast:
    found = forecast_of(options, model, **point)
    assert found is not None
    return found


def trl(model: Path, *options: str) -> dict[str, Any]:
    basic = [f"--model_name_or_path={model}", "--per_device_train_batch_size", "4", "--max_length=512"]
    return {"run": ["trl", "sft", *basic, *options, "--output_dir", "{output}"]}


def test_full_training_of_a_command_line(model: Path) -> None:
    found = known(trl(model))
    assert found.parts["weights"] == 4 * WEIGHTS
    assert found.parts["optimizer"] == 8 * WEIGHTS
    assert (found.micro_batch_size, found.sequence_length) == (4, 512)
    # Three tensors in float32 with a number for each token and entry of the vocabulary, at least.
    assert found.parts["loss"] >= 3 * 4 * (4 * 512) * 128256


def test_nobody_is_refused_because_of_a_forecast_that_was_never_measured(model: Path) -> None:
    found = known(trl(model, "--per-device-train-batch-size", "100000"))
    assert found.micro_batch_size == 100_000
    assert found.problem is not None
    assert found.failure is None


@pytest.mark.parametrize(
    ("options", "trained"),
    [
        (["--use_peft", "--lora_r", "16"], True),
        (["--use_peft", "true", "--lora_r", "16", "--lora_target_modules", "q_proj,v_proj"], True),
        (["--lora_r", "16"], True),
        (["--use_peft", "false"], False),
        ([], False),
    ],
)
def test_lora_is_recognized(options: list[str], trained: bool, model: Path) -> None:
    gradients = known(trl(model, *options)).parts["gradients"]
    assert (gradients < 0.05 * 4 * WEIGHTS) == trained


def test_the_layers_of_a_command_line_may_be_several_words(model: Path) -> None:
    lora = ["--use_peft", "--lora_r", "16", "--lora_target_modules"]
    words, text = known(trl(model, *lora, "q_proj", "v_proj")), known(trl(model, *lora, "q_proj,v_proj"))
    assert words.parts == text.parts
    assert words.parts["gradients"] == 4 * 16 * 16 * (2048 + 2048 + 2048 + 512)


@pytest.mark.parametrize(
    "options", [["--bf16"], ["--gradient_checkpointing", "True"], ["--optim", "adamw_8bit"], ["--max_length", "128"]]
)
def test_settings_that_save_memory(options: list[str], model: Path) -> None:
    assert known(trl(model, *options)).peak_bytes < 0.95 * known(trl(model)).peak_bytes


def axolotl(folder: Path, model: Path, **changes: Any) -> dict[str, Any]:
    content = {
        "base_model": str(model), "micro_batch_size": 2, "sequence_len": 1024, "adapter": "qlora", "load_in_4bit": True,
        "lora_r": 8, "lora_target_modules": ["q_proj", "v_proj"], "bf16": "auto", **changes,
    }  # fmt: skip
    template = folder / "qlora.json"
    template.write_text(json.dumps(content), encoding="utf-8")
    return {"run": "axolotl train {config}", "preset": "axolotl", "config": {"template": str(template)}}


def test_a_configuration_file_with_4_bit_weights(model: Path, tmp_path: Path) -> None:
    found = known(axolotl(tmp_path, model))
    # 263 million weights are embeddings in 16 bits, the others take about half a byte.
    assert found.parts["weights"] == pytest.approx(2 * 128256 * 2048 + 0.5625 * (WEIGHTS - 128256 * 2048), rel=0.01)
    assert found.parts["gradients"] == 4 * 16 * 8 * (2048 + 2048 + 2048 + 512)


def test_hyperparameters_of_the_trial_count(model: Path, tmp_path: Path) -> None:
    options = axolotl(tmp_path, model)
    options["config"]["set"] = {"lora_r": "{rank}", "sequence_len": "{length}"}
    small, large = known(options, rank=8, length=256), known(options, rank=64, length=2048)
    assert large.parts["gradients"] == 8 * small.parts["gradients"]
    assert (small.sequence_length, large.sequence_length) == (256, 2048)


def test_the_model_may_be_that_of_the_sweep(model: Path) -> None:
    options = {"run": ["train", "--batch", "{b}", "--max_length", "64", "--per_device_train_batch_size", "{b}"]}
    assert known(options, model, b=2).micro_batch_size == 2


@pytest.mark.parametrize(
    "options",
    [
        {"run": "python train.py"},
        {"run": "trl sft --max_length 512 --per_device_train_batch_size 4 --model_name_or_path no/such/folder"},
        {"run": "trl sft --max_length many --per_device_train_batch_size 4 --model_name_or_path {model}"},
        {"run": "trl sft --max_length 512 --model_name_or_path {model}"},
        {"run": "trl sft --max_length 512 --per_device_train_batch_size"},
    ],
)
def test_what_a_program_does_not_say_is_unknown(options: dict[str, Any], model: Path) -> None:
    assert forecast_of(options, model) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_type": "mamba", "state_size": 16}'])
def test_an_unreadable_or_unknown_model_is_unknown(content: str, model: Path) -> None:
    (model / "config.json").write_text(content, encoding="utf-8")
    assert forecast_of(trl(model)) is None


def test_the_hyperparameters_that_drive_memory_are_declared() -> None:
    names = {"learning_rate": {}, "lora_r": {}, "per_device_train_batch_size": {}, "max_length": {}, "warmup": {}}
    declared = CommandBackend.describe(CommandOptions.model_validate({"run": "x", "hyperparameters": names}))
    assert set(declared.memory_drivers) == {"lora_r", "per_device_train_batch_size", "max_length"}
