"""Tiny random models and labelled data for the local backend, once per session; runs in parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from backends.contract import DataFile, Dataset, Event, Finished, Placement, TrainingRequest
from backends.local import LocalBackend
from backends.local.options import LocalOptions

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
CHARACTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.:#| \n"]
LABELS = (" yes|", " no|", " perhaps|")


def save_tokenizer(directory: Path, special: bool = False) -> int:
    vocabulary = {token: n for n, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]", cls_token="[CLS]"
    )
    fast.save_pretrained(directory)
    return len(vocabulary)


LLAMA_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
"""The configuration of a tiny model, without its vocabulary."""


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama")
    size = save_tokenizer(directory)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=size, **LLAMA_SHAPE)
    LlamaForCausalLM(config).save_pretrained(directory)
    (directory / "training.json").write_text('{"learning_rate": 0.01, "source": "made for a test"}', encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gpt2")
    size = save_tokenizer(directory)
    torch.manual_seed(0)
    # GPT-2 has dropout and absolute positions; the tiny Llama has neither.
    config = GPT2Config(
        vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=96, bos_token_id=3, eos_token_id=3, resid_pdrop=0.1
    )
    GPT2LMHeadModel(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert")
    size = save_tokenizer(directory, special=True)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(directory)
    return directory


def labelled(count: int, offset: int = 0) -> list[dict[str, Any]]:
    lines = []
    for n in range(offset, offset + count):
        label = LABELS[n % 3]
        first, second = "word " * (1 + n % 4) + str(n), f"is it{label[:-1]}"
        lines.append({"prompt": f"{first}. {second}##", "completion": label, "segments": [first, second]})
    return lines


@pytest.fixture(scope="session")
def write() -> Callable[[Path, Sequence[Mapping[str, Any]]], DataFile]:
    def write_file(path: Path, lines: Sequence[Mapping[str, Any]]) -> DataFile:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return DataFile(str(path), len(lines), hashlib.sha256(path.read_bytes()).hexdigest())

    return write_file


@pytest.fixture(scope="session")
def dataset(
    tmp_path_factory: pytest.TempPathFactory, write: Callable[[Path, Sequence[Mapping[str, Any]]], DataFile]
) -> Dataset:
    directory = tmp_path_factory.mktemp("labelled")
    train, valid = write(directory / "train.jsonl", labelled(26)), write(directory / "valid.jsonl", labelled(12, 100))
    return Dataset(train, valid, "completion", LABELS, "|")


def open_backend(workspace: Path, model: Path, **options: Any) -> LocalBackend:
    return LocalBackend.open(LocalOptions(model=str(model), device="cpu", **options), workspace, Placement())


def run_in_parts(workspace: Path, model: Path, request: TrainingRequest, most_events: int) -> list[Event]:
    """Return the events of a run as if each call were made by a new process; it must finish."""
    events: list[Event] = []
    while not events or not isinstance(events[-1], Finished):
        backend = open_backend(workspace, model)
        events += backend.events(backend.submit(request), len(events))
        backend.close()
        assert len(events) <= most_events
    return events
