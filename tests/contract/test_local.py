"""The local backend keeps the contract: with a tiny language model, and with a tiny encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from huggingface_hub import constants
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from backends.local import LocalBackend
from backends.testing import BackendContract

pytestmark = [pytest.mark.contract, pytest.mark.trains]

LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789# \n"]


def save_tokenizer(directory: Path, special: bool) -> int:
    vocabulary = {token: n for n, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    return len(vocabulary)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("language-model")
    size = save_tokenizer(directory, special=False)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=size, **shape)).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("encoder")
    size = save_tokenizer(directory, special=True)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=size, **shape)).save_pretrained(directory)
    return directory


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


class LocalContract(BackendContract):
    backend_type = LocalBackend
    long_epochs = 100

    def options(self) -> Mapping[str, Any]:
        return {"model": self.base_model, "pretraining_learning_rate": 0.01, "device": "cpu"}


class TestLanguageModel(LocalContract):
    hyperparameters: ClassVar = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5}

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def model(cls, language_model: Path) -> None:
        cls.base_model = str(language_model)


class TestEncoder(LocalContract):
    hyperparameters: ClassVar = {"n_epochs": 2, "batch_size": 4, "learning_rate": 0.01, "method": "lora"}

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def model(cls, encoder: Path) -> None:
        cls.base_model = str(encoder)
