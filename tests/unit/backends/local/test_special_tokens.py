"""Models whose files disagree about tokens: found at `check`, or made right.

Each model is a small directory with a real configuration and tokenizer.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from backends.contract import BackendError, Dataset, Failure, Placement, PredictOptions, TrainingRequest
from backends.local import LocalBackend, encoding, model_evaluation, model_source, prediction
from backends.local.example_template import ExampleTemplate
from backends.local.model import LoadedModel, ModelSpec, load_model, load_tokenizer
from backends.local.options import LocalOptions, Task
from backends.local.special_tokens import end_ids, stop_text
from backends.local.truncation import LengthRule
from backends.model_packages import chat_text, local_predictor
from backends.model_packages.chat_text import turn_end
from backends.testing import write_jsonl

pytestmark = [pytest.mark.unit, pytest.mark.trains]

WORDS = [*"abcdefgh", *" \n:", "[PAD]", "[UNK]", "[EOS]", "[TURN]", "assistant", "user"]
ID = {word: number for number, word in enumerate(WORDS)}
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
TURNS = (
    "{% for message in messages %}{{ message.role }}:{{ message.content }}"
    "{% if message.role == 'assistant' %}[END]{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def save_tokenizer(directory: Path, template: str = "", **names: str) -> None:
    tokenizer = Tokenizer(models.WordLevel(ID, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **names)
    fast.add_special_tokens({"additional_special_tokens": ["[TURN]"]})
    if template:
        fast.chat_template = template
    fast.save_pretrained(directory)


def language_model(directory: Path, vocabulary: int = len(WORDS), template: str = "", **config: Any) -> str:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **SHAPE, **config)).save_pretrained(directory)
    save_tokenizer(directory, template, pad_token="[PAD]", eos_token="[EOS]")
    return str(directory)


def loaded(directory: str, task: Task, labels: Sequence[str] = ()) -> LoadedModel:
    source = model_source.find(directory)
    spec = ModelSpec(source, task, torch.device("cpu"), torch.float32, torch.float32, tuple(labels))
    return load_model(spec, load_tokenizer(source))


def always_answering(model: LoadedModel, token: str) -> LoadedModel:
    """Make a language model predict one token whatever it reads."""
    head = torch.nn.Linear(SHAPE["hidden_size"], len(WORDS))
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.bias.data[ID[token]] = 1.0
    model.module.lm_head = head
    return model


def answer(model: LoadedModel, layout: str = "completion") -> Any:
    predictor = prediction.Predictor(model, layout, (), "", 64)
    line = {"prompt": "abc"} if layout == "completion" else {"messages": [{"role": "user", "content": "abc"}]}
    (only,) = prediction.predict(predictor, [line], PredictOptions(max_tokens=5))
    return only


def failures(
    folder: Path, model: str, lines: list[dict[str, Any]], labels: tuple[str, ...] = (), **options: Any
) -> list[Failure]:
    layout = "chat" if "messages" in lines[0] else "completion"
    file = write_jsonl(folder / "lines.jsonl", lines)
    request = TrainingRequest(
        "key", model, Dataset(file, file, layout, labels), {"n_epochs": 1, "learning_rate": 1e-3}, 7
    )
    backend = LocalBackend.open(LocalOptions(model=model, device="cpu"), folder / "w", Placement(1.0, 0.0))
    try:
        return list(backend.check(request))
    finally:
        backend.close()


# ----------------------------------------------------------------------------- beyond the embedding
def test_a_token_beyond_the_embedding_is_found_at_check(tmp_path: Path) -> None:
    lines = [{"prompt": "abc", "completion": " d"}, {"prompt": "abd", "completion": " h"}]
    assert failures(tmp_path, language_model(tmp_path / "fits"), lines) == []
    (failure,) = failures(tmp_path, language_model(tmp_path / "small", ID["h"]), lines)
    assert "writes token" in failure.message
    assert f"knows only {ID['h']} tokens" in failure.message
    assert "belong together" in failure.detail


def test_so_it_is_for_labels_and_encoders(tmp_path: Path) -> None:
    lines = [{"prompt": "abc", "completion": " a"}, {"prompt": "bcd", "completion": " h"}]
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=3, **SHAPE)).save_pretrained(tmp_path / "encoder")
    save_tokenizer(tmp_path / "encoder", pad_token="[PAD]")
    for model in (language_model(tmp_path / "small", ID["h"]), str(tmp_path / "encoder")):
        (failure,) = failures(tmp_path, model, lines, (" a", " h"))
        assert "but the model knows only" in failure.message


def test_a_prompt_beyond_the_embedding_is_an_error_of_the_user(tmp_path: Path) -> None:
    model = loaded(language_model(tmp_path, ID["c"]), "causal-lm")
    with pytest.raises(BackendError, match="knows only 2 tokens"):
        answer(model)


# ------------------------------------------------------------------------------------------ padding
@pytest.mark.parametrize("config_pad", [None, ID["a"], ID["[PAD]"], -1])
@pytest.mark.parametrize("names", [{"pad_token": "[PAD]", "eos_token": "[EOS]"}, {"eos_token": "[EOS]"}])
def test_a_decoder_classifier_scores_a_padded_text_as_it_scores_it_alone(
    tmp_path: Path, config_pad: int | None, names: dict[str, str]
) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(WORDS), num_labels=2, **SHAPE)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    config.pad_token_id = config_pad
    config.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, **names)
    model = loaded(str(tmp_path), "sequence-classification", ("x", "y"))
    texts = ["a", "bca", "caba", "defgha", "b", "ghgh"]
    rows = [np.array([ID[letter] for letter in text]) for text in texts]
    together = model_evaluation.class_logprobs(model, rows, None)
    alone = np.concatenate([model_evaluation.class_logprobs(model, [row], None) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len({tuple(row) for row in alone.round(6)}) == len(texts), "each text has its own score"
    # So does the predictor that travels with a model, in batches and alone.
    model.module.save_pretrained(tmp_path / "package" / "model")
    config.save_pretrained(tmp_path / "package" / "model")
    save_tokenizer(tmp_path / "package" / "model", **names)
    settings = {"task": "sequence-classification", "layout": "completion", "labels": ["x", "y"], "stop": ""}
    settings |= {"max_length": 64, "adapter": False, "device": "cpu", "dtype": "float32"}
    packaged = local_predictor.load(str(tmp_path / "package"), settings)
    scores = np.array([logprobs for _, logprobs in packaged.predict([{"prompt": text} for text in texts])])
    np.testing.assert_allclose(scores, alone, atol=1e-4)


# --------------------------------------------------------------------------------- end of an answer
def test_generation_stops_at_the_end_of_a_turn_that_the_template_names(tmp_path: Path) -> None:
    template = TURNS.replace("[END]", "[TURN]\n")
    model = always_answering(loaded(language_model(tmp_path, template=template), "causal-lm"), "[TURN]")
    assert turn_end(model.tokenizer) == "[TURN]\n"
    only = answer(model, "chat")
    assert (only.text, only.truncated) == ("", False)
    assert set(model.module.generation_config.eos_token_id) >= {ID["[TURN]"], ID["[EOS]"]}


def test_generation_stops_at_what_the_models_own_configuration_names(tmp_path: Path) -> None:
    directory = language_model(tmp_path, eos_token_id=ID["[UNK]"])
    GenerationConfig(eos_token_id=[ID["[TURN]"], ID["[UNK]"]]).save_pretrained(directory)
    for token in ("[TURN]", "[UNK]", "[EOS]"):
        assert not answer(always_answering(loaded(directory, "causal-lm"), token)).truncated, token


def test_the_number_of_an_ordinary_word_ends_nothing(tmp_path: Path) -> None:
    """LlamaConfig's default for the end of sequence is 2, whatever the tokenizer has there."""
    model = always_answering(loaded(language_model(tmp_path), "causal-lm"), "c")
    assert ID["c"] == 2
    assert model.module.config.eos_token_id == 2
    assert end_ids(model.tokenizer, model.module) == {ID["[EOS]"]}
    only = answer(model)
    assert (only.text.replace(" ", ""), only.truncated) == ("ccccc", True)


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_template_that_ends_no_turn_gets_the_end_of_sequence(tmp_path: Path, end: str) -> None:
    tokenizer = load_tokenizer(model_source.find(language_model(tmp_path, template=TURNS.replace("[END]", end))))
    messages = [{"role": "user", "content": "abc"}, {"role": "assistant", "content": "d"}]
    dataset = Dataset(write_jsonl(tmp_path / "x.jsonl", []), write_jsonl(tmp_path / "x.jsonl", []), "chat", ())
    data = encoding.encode_causal(tokenizer, [{"messages": messages}], dataset, LengthRule(64))
    assert data.ids[0][-1] == ID["[EOS]"]
    # A label ends in the same way, here and in the predictor that travels with a model.
    template = ExampleTemplate(tokenizer, "chat", "")
    (label,) = encoding.label_tokens(template, {"messages": messages}, ["d"])
    assert label[-1] == ID["[EOS]"]
    settings = {"task": "causal-lm", "layout": "chat", "labels": ["d"], "stop": "", "max_length": 64}
    language_model(tmp_path / "package" / "model", template=TURNS.replace("[END]", end))
    shutil.copy(chat_text.__file__, tmp_path / "package" / local_predictor.CHAT_CODE)
    packaged = local_predictor.load(
        str(tmp_path / "package"), {**settings, "adapter": False, "device": "cpu", "dtype": "float32"}
    )
    assert packaged._encoded_labels([packaged._completion({"messages": messages}, "d")]) == [label.tolist()]


def test_an_end_of_turn_in_plain_text_stops_generation(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_source.find(language_model(tmp_path, template=TURNS.replace("[END]", " gh\n"))))
    assert stop_text(tokenizer) == "gh"
    assert ExampleTemplate(tokenizer, "chat", "").stop_text == "gh"
    assert ExampleTemplate(tokenizer, "chat", "").eos == ()
    assert ExampleTemplate(tokenizer, "completion", "").stop_text == ""


def test_text_that_nothing_ends_is_found_at_check(tmp_path: Path) -> None:
    directory = language_model(tmp_path / "model")
    save_tokenizer(tmp_path / "model", pad_token="[PAD]")
    lines = [{"prompt": "abc", "completion": " d"}, {"prompt": "abd", "completion": " e"}]
    (failure,) = failures(tmp_path, directory, lines)
    assert "would never end" in failure.message
    assert "eos_token" in failure.detail
    assert failures(tmp_path, directory, lines, (" d", " e")) == []


def test_a_template_that_rejects_the_conversations_is_found_at_check(tmp_path: Path) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    model = language_model(tmp_path / "model", template=template)
    (failure,) = failures(tmp_path, model, [{"messages": messages}] * 2)
    assert "(user, user, assistant): roles must alternate" in failure.message


def test_a_padding_token_beyond_the_embedding_is_found_at_check(tmp_path: Path) -> None:
    directory = language_model(tmp_path / "model")
    file = Path(directory) / "config.json"
    file.write_text(file.read_text().replace('"pad_token_id": null', '"pad_token_id": 10000'))
    lines = [{"prompt": "abc", "completion": " d"}, {"prompt": "abd", "completion": " e"}]
    (failure,) = failures(tmp_path, directory, lines)
    assert "names token 10000 as padding, but the model knows only" in failure.message
    assert "config.json" in failure.detail
