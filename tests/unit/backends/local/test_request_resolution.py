"""Resolving a request: hyperparameters, model sources, learning rates and options.

Nothing here needs torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backends.contract import BackendError, FailureKind
from backends.hyperparameter_checks import check_hyperparameters
from backends.local import hyperparameters, model_source, pretraining_rates
from backends.local.options import LocalOptions

pytestmark = pytest.mark.unit

CAUSAL = hyperparameters.capabilities("causal-lm")
ENCODER = hyperparameters.capabilities("sequence-classification")


def config_directory(path: Path, **config: object) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------- hyperparameters
def test_the_default_multiplier_follows_the_method() -> None:
    assert hyperparameters.settings({}).peak_learning_rate(1e-3) == pytest.approx(
        hyperparameters.FULL_MULTIPLIER * 1e-3
    )
    assert hyperparameters.settings({"method": "lora"}).peak_learning_rate(1e-3) == pytest.approx(1e-3)


def test_an_absolute_rate_needs_no_pretraining_rate() -> None:
    settings = hyperparameters.settings({"learning_rate": 0.02})
    assert settings.peak_learning_rate(None) == 0.02
    assert settings.learning_rate_multiplier is None


def test_alpha_defaults_to_twice_the_rank() -> None:
    assert hyperparameters.settings({"method": "lora", "lora_rank": 4}).lora == hyperparameters.LoraSettings(
        rank=4, alpha=8.0, dropout=0.0, target="all-linear"
    )
    assert hyperparameters.settings({"lora_rank": 4}).lora is None


def test_encoders_have_neither_prompt_loss_weight_nor_token_accuracy() -> None:
    assert CAUSAL.hyperparameter("prompt_loss_weight") is not None
    assert ENCODER.hyperparameter("prompt_loss_weight") is None
    assert not any("token_accuracy" in metric for metric in ENCODER.metrics)


def test_all_wrong_hyperparameters_are_reported_at_once() -> None:
    failures = check_hyperparameters({"n_epochs": 0, "schedule": "zigzag", "batch": 3, "lora_dropout": True}, CAUSAL)
    assert [failure.message.split()[0].rstrip(":") for failure in failures] == [
        "n_epochs",
        "schedule",
        "batch",
        "lora_dropout",
    ]


def test_two_conflicting_rates_are_one_failure() -> None:
    failures = check_hyperparameters({"learning_rate": 0.1, "learning_rate_multiplier": 0.1}, CAUSAL)
    assert len(failures) == 1


# ------------------------------------------------------------------------------------------- source
@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "causal-lm"),
        ({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, "causal-lm"),
        ({"architectures": ["BertModel"], "model_type": "bert"}, "sequence-classification"),
        ({"architectures": ["RobertaForMaskedLM"], "model_type": "roberta"}, "sequence-classification"),
        ({"architectures": ["ModernBertForMaskedLM"], "model_type": "modernbert"}, "sequence-classification"),
        ({"architectures": ["LlamaForSequenceClassification"], "model_type": "llama"}, "sequence-classification"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, None),
        ({"architectures": ["ViTModel"], "model_type": "vit"}, None),
    ],
)
def test_the_task_follows_from_the_config(config: dict[str, object], task: str | None) -> None:
    assert model_source.task_of_config(config) == task


def test_options_override_the_config(tmp_path: Path) -> None:
    model = config_directory(tmp_path / "m", architectures=["BertModel"], model_type="bert")
    assert model_source.task_of(LocalOptions(model=str(model))) == "sequence-classification"
    assert model_source.task_of(LocalOptions(model=str(model), task="causal-lm")) == "causal-lm"


@pytest.mark.parametrize("name", ["builtin:no-such", "./not-there", "/not/there", "~/not-there"])
def test_a_missing_model_is_a_user_error_with_a_remedy(name: str) -> None:
    with pytest.raises(BackendError) as raised:
        model_source.find(name)
    assert raised.value.failure.kind is FailureKind.USER
    assert raised.value.failure.detail


def test_an_adapter_is_not_a_base_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(BackendError, match="adapter"):
        model_source.find(str(tmp_path))


def test_a_damaged_config_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(BackendError, match=r"config\.json"):
        model_source.find(str(tmp_path))


def test_missing_tokenizer_and_weights_are_named(tmp_path: Path) -> None:
    model = config_directory(tmp_path / "m", architectures=["LlamaForCausalLM"])
    messages = " ".join(failure.message for failure in model_source.problems(model_source.find(str(model))))
    assert "tokenizer" in messages
    assert "weights" in messages


def test_damaged_weights_are_reported_without_loading_them(llama: Path, tmp_path: Path) -> None:
    for file in llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert model_source.problems(model_source.find(str(tmp_path))) == []
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    (failure,) = model_source.problems(model_source.find(str(tmp_path)))
    assert "weights" in failure.message


def test_parameters_are_counted_from_the_headers(llama: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama)
    assert model_source.find(str(llama)).parameters() == sum(parameter.numel() for parameter in model.parameters())


def test_the_maximum_length_is_limited_by_the_model(tmp_path: Path) -> None:
    llama = model_source.find(str(config_directory(tmp_path / "a", max_position_embeddings=512)))
    assert (llama.max_length(None), llama.max_length(100), llama.max_length(9999)) == (512, 100, 512)
    roberta = model_source.find(
        str(config_directory(tmp_path / "b", max_position_embeddings=514, model_type="roberta"))
    )
    assert roberta.max_length(None) == 512
    unknown = model_source.find(str(config_directory(tmp_path / "c")))
    assert unknown.max_length(None) == model_source.DEFAULT_MAX_LENGTH


# -------------------------------------------------------------------------------------------- rates
def test_the_configured_rate_precedes_the_models_own_and_that_the_table(tmp_path: Path) -> None:
    source = model_source.find(str(config_directory(tmp_path / "bert-base-uncased")))
    table = pretraining_rates.pretraining_rate(source, None)
    assert table is not None
    assert table.value == 1e-4
    assert "BERT" in table.source
    (source.directory / "training.json").write_text('{"learning_rate": 0.003, "source": "card"}', encoding="utf-8")
    assert pretraining_rates.pretraining_rate(source, None) == pretraining_rates.PretrainingRate(0.003, "card")
    configured = pretraining_rates.pretraining_rate(source, 0.5)
    assert configured is not None
    assert configured.value == 0.5


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("bert-large-cased", 1e-4),
        ("roberta-base", 6e-4),
        ("pythia-70m-deduped", 1e-3),
        ("Llama-2-7b-hf", 3e-4),
        ("Meta-Llama-3-8B", None),
        ("my-bert-base-uncased", None),
        ("distilbert-base-uncased", None),
        ("llama-2-7b-chat-hf", None),
    ],
)
def test_the_table_matches_whole_names(tmp_path: Path, name: str, rate: float | None) -> None:
    matched = pretraining_rates.pretraining_rate(model_source.find(str(config_directory(tmp_path / name))), None)
    assert (matched.value if matched else None) == rate


@pytest.mark.parametrize("content", ["{}", "{", '{"learning_rate": "fast"}', '{"learning_rate": 0}', "[]"])
def test_an_unusable_training_json_is_an_error(tmp_path: Path, content: str) -> None:
    source = model_source.find(str(config_directory(tmp_path / "m")))
    (source.directory / "training.json").write_text(content, encoding="utf-8")
    with pytest.raises(BackendError, match=r"training\.json"):
        pretraining_rates.pretraining_rate(source, None)


# ------------------------------------------------------------------------------------------ imports
def test_opening_loads_no_torch(llama: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from backends.contract import Placement
from backends.local import LocalBackend
backend = LocalBackend.open(LocalBackend.options_model(model={str(llama)!r}), Path({str(tmp_path)!r}), Placement())
assert backend.capabilities.in_process
assert not {{"torch", "transformers", "peft", "huggingface_hub"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_attribute_of_the_package_is_an_error() -> None:
    import backends.local

    with pytest.raises(AttributeError, match="NoSuch"):
        _ = backends.local.NoSuch
