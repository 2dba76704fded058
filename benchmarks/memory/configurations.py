"""The configurations that are measured, and the models and data that they need."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backends.contract import DataFile, Dataset, EvaluationSettings, Scalar, TrainingRequest

CHARACTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789 "]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LABELS = ("a", "b", "c")
STEPS = 3
EVALUATED = 4


@dataclass(frozen=True)
class Configuration:
    """A run to measure: a model, and what its memory depends on.

    `model` is a name in MODELS, or `given`, the model whose folder the caller names. Every example
    has `tokens` tokens, of which the last `completion` are trained.
    """

    model: str
    tokens: int
    micro_batch: int
    batch: int
    completion: int = 16
    point: dict[str, Scalar] = field(default_factory=dict)
    gradient_checkpointing: bool = False

    @property
    def name(self) -> str:
        words = [self.model, f"{self.tokens} tokens", f"micro-batch {self.micro_batch} of {self.batch}"]
        words += [f"{name}={value}" for name, value in self.point.items()]
        words += ["checkpointing"] if self.gradient_checkpointing else []
        return ", ".join(words)


MODELS: dict[str, dict[str, Any]] = {
    "llama-21M": {
        "kind": "llama", "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
        "num_attention_heads": 6, "num_key_value_heads": 3, "vocab_size": 16384,
    },
    "llama-58M": {
        "kind": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 10,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 32000,
    },
    "gpt2-22M": {"kind": "gpt2", "n_embd": 384, "n_layer": 8, "n_head": 6, "vocab_size": 16384},
    "encoder-22M": {
        "kind": "bert", "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6,
        "num_attention_heads": 12, "vocab_size": 30522,
    },
}  # fmt: skip

LORA: dict[str, Scalar] = {"method": "lora", "lora_rank": 16}
ALL_TOKENS: dict[str, Scalar] = {"prompt_loss_weight": 1.0}

CONFIGURATIONS = (
    Configuration("llama-21M", 128, 4, 4),
    Configuration("llama-21M", 256, 8, 8),
    Configuration("llama-21M", 512, 8, 8, point=ALL_TOKENS),
    Configuration("llama-21M", 512, 2, 8, point=ALL_TOKENS),
    Configuration("llama-21M", 512, 8, 8, gradient_checkpointing=True),
    Configuration("llama-21M", 512, 8, 8, point=LORA),
    Configuration("llama-21M", 512, 8, 8, point={**LORA, "lora_dropout": 0.1}),
    Configuration("llama-21M", 512, 8, 8, point={**LORA, "use_dora": True}),
    Configuration("llama-21M", 512, 8, 8, point={**LORA, "lora_target": "query-value"}),
    Configuration("llama-21M", 512, 8, 8, point=LORA, gradient_checkpointing=True),
    Configuration("llama-58M", 256, 4, 8),
    Configuration("llama-58M", 512, 4, 4, point=ALL_TOKENS),
    Configuration("llama-58M", 512, 4, 4, point=LORA),
    Configuration("gpt2-22M", 256, 8, 8),
    Configuration("gpt2-22M", 512, 4, 4, point=LORA),
    Configuration("encoder-22M", 128, 16, 16),
    Configuration("encoder-22M", 256, 8, 16),
    Configuration("encoder-22M", 256, 16, 16, point=LORA),
    Configuration("encoder-22M", 256, 16, 16, gradient_checkpointing=True),
    Configuration("llama-58M", 256, 4, 8, point=LORA, gradient_checkpointing=True),
    Configuration("gpt2-22M", 512, 4, 4, gradient_checkpointing=True),
    Configuration("given", 128, 4, 4),
    Configuration("given", 256, 4, 4, point=ALL_TOKENS),
    Configuration("given", 256, 4, 4, gradient_checkpointing=True),
    Configuration("given", 512, 2, 4, point=LORA),
    Configuration("given", 512, 2, 4, point=LORA, gradient_checkpointing=True),
)


def write_model(name: str, folder: Path) -> None:
    """Write a model with random weights, and a tokenizer with one token for each character."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    shape = dict(MODELS[name])
    kind = shape.pop("kind")
    if kind == "bert":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[SEP]", cls_token="[CLS]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model: Any
    if kind == "llama":
        llama = transformers.LlamaConfig(**shape, max_position_embeddings=1024, tie_word_embeddings=True)
        model = transformers.LlamaForCausalLM(llama)
    elif kind == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, bos_token_id=3, eos_token_id=3))
    else:
        model = transformers.BertModel(transformers.BertConfig(**shape))
    model.save_pretrained(folder)


def request_for(configuration: Configuration, model: Path, folder: Path) -> TrainingRequest:
    """Write the examples of a configuration and return its request."""
    from transformers import AutoTokenizer

    kind = MODELS.get(configuration.model, {}).get("kind")
    is_encoder = kind == "bert"
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    # a word that the tokenizer keeps as one token, wherever it stands
    word = "a" if configuration.model in MODELS else " the"
    count = len(tokenizer(word, add_special_tokens=False)["input_ids"])
    assert count == 1, f"{word!r} has {count} tokens"
    special = 2 if is_encoder else 1  # the last token of a language model ends the answer
    prompt = configuration.tokens - (0 if is_encoder else configuration.completion) - special
    lines = []
    for number in range(configuration.batch * STEPS):
        completion = LABELS[number % len(LABELS)] if is_encoder else word * configuration.completion
        lines.append({"prompt": word * prompt, "completion": completion, "segments": [word * prompt]})
    files = []
    for part, part_lines in (("train", lines), ("valid", lines[:EVALUATED])):
        path = folder / f"{part}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in part_lines), encoding="utf-8")
        files.append(DataFile(str(path), len(part_lines), hashlib.sha256(path.read_bytes()).hexdigest()))
    dataset = Dataset(files[0], files[1], "completion", LABELS if is_encoder else ())
    point: dict[str, Scalar] = {
        "n_epochs": 1, "batch_size": configuration.batch, "learning_rate": 1e-4, **configuration.point,
    }  # fmt: skip
    return TrainingRequest("measured", "", dataset, point, 7, EvaluationSettings(train_examples=EVALUATED))
