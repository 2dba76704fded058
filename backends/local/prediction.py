"""Answering prompts with a trained model: the most probable label, or text generated greedily."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backends.contract import Dataset, Prediction, PredictOptions
from backends.local import encoding, model_evaluation, model_source
from backends.local.encoding import ExampleTemplate, Ids
from backends.local.failures import room, translated
from backends.local.model import LoadedModel, load_model, load_tokenizer, quiet
from backends.local.model_source import ModelSource, user_error
from backends.local.options import LocalOptions, Task

CARD = "finesweep.json"
"""Beside a kept model: what must be known to use it."""

_GENERATE_TOGETHER = 32


@dataclass(frozen=True)
class Predictor:
    """A model that answers, with the form in which its prompts were written."""

    model: LoadedModel
    layout: str
    labels: tuple[str, ...]
    stop: str
    max_length: int


def write_card(base: ModelSource, task: Task, dataset: Dataset, max_length: int) -> str:
    """Return the text of the card beside a kept model."""
    card = {
        "base_model": str(base.directory.resolve()),
        "task": task,
        "layout": dataset.layout,
        "labels": list(dataset.labels),
        "stop": dataset.stop,
        "max_length": max_length,
    }
    return json.dumps(card, indent=2)


def load(name: str, options: LocalOptions, device: torch.device, dtype: torch.dtype) -> Predictor:
    """Load a kept model or a base model. Raises BackendError where there is none."""
    directory = Path(name)
    if not (directory / CARD).is_file():
        found = model_source.find(name, options.revision)
        task = options.task if options.task != "auto" else model_source.task_of_config(found.config) or "causal-lm"
        if task != "causal-lm":
            raise user_error(f"{name} is an encoder without a trained head", "give a model that a run has kept")
        loaded = load_model(found, task, load_tokenizer(found), device, dtype, dtype, ())
        return Predictor(loaded, "completion", (), "", found.max_length(options.max_length))
    with translated(f"reading {directory / CARD}"):
        card = json.loads((directory / CARD).read_text(encoding="utf-8"))
    adapter = (directory / "adapter_config.json").is_file()
    weights = model_source.find(card["base_model"] if adapter else name)
    labels = tuple(card["labels"])
    loaded = load_model(weights, card["task"], load_tokenizer(weights), device, dtype, dtype, labels, new_head=False)
    if adapter:
        _merge(loaded, directory)
    return Predictor(loaded, card["layout"], labels, card["stop"], card["max_length"])


def _merge(loaded: LoadedModel, directory: Path) -> None:
    from peft import PeftModel

    with quiet(), translated(f"loading the adapter {directory}"):
        loaded.module = PeftModel.from_pretrained(loaded.module, str(directory)).merge_and_unload()


def predict(predictor: Predictor, prompts: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
    """Answer prompts in their order.

    With labels, the log-probability of a label is the sum over its tokens (for a classifier, that of its class), and
    the most probable label is the text, the earlier one on a tie. Without, text is generated greedily and ends before
    the stop sequence, at the end-of-sequence token, or after `max_tokens`. Raises BackendError (user) where a
    classifier is asked for text or for a label that it does not know.
    """
    if not prompts:
        return []
    with room("predicting"):
        if predictor.model.task == "sequence-classification":
            return _classify(predictor, prompts, options)
        if options.labels is not None:
            return _choose(predictor, prompts, options.labels, options.stop)
        return _generate(predictor, prompts, options)


def _classify(predictor: Predictor, prompts: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
    if options.labels is None:
        raise user_error("a classifier generates no text", "give the labels to choose from")
    unknown = [each for each in options.labels if each not in predictor.labels]
    if unknown:
        raise user_error(f"the classifier knows no label {unknown[0]!r}", f"it knows {', '.join(predictor.labels)}")
    model = predictor.model
    typed = model.source.tells_segments_apart
    ids, segments, _ = encoding.encode_segments(model.tokenizer, prompts, predictor.max_length, typed)
    columns = [predictor.labels.index(each) for each in options.labels]
    return _answers(model_evaluation.class_logprobs(model, ids, segments)[:, columns], options.labels)


def _choose(
    predictor: Predictor, prompts: Sequence[Mapping[str, Any]], labels: Sequence[str], stop: str
) -> list[Prediction]:
    template = _template(predictor, prompts, stop)
    label_ids = encoding.label_tokens(template, prompts[0], labels)
    room_for_prompt = predictor.max_length - max(map(len, label_ids))
    encoded, _ = template.prompt_tokens(prompts, room_for_prompt)
    scores = model_evaluation.score(predictor.model, [np.array(each) for each in encoded], [label_ids] * len(prompts))
    return _answers(scores.logprobs, labels)


def _answers(logprobs: model_evaluation.Floats, labels: Sequence[str]) -> list[Prediction]:
    return [Prediction(labels[int(row.argmax())], tuple(float(each) for each in row)) for row in logprobs]


def _template(predictor: Predictor, prompts: Sequence[Mapping[str, Any]], stop: str) -> ExampleTemplate:
    layout = "chat" if "messages" in prompts[0] else "completion"
    return ExampleTemplate(predictor.model.tokenizer, layout, stop or predictor.stop)


def _generate(predictor: Predictor, prompts: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
    template = _template(predictor, prompts, options.stop)
    encoded, _ = template.prompt_tokens(prompts, max(predictor.max_length - options.max_tokens, 1))
    ids = [np.array(each, dtype=np.int64) for each in encoded]
    found: dict[int, Prediction] = {}
    order = np.argsort([len(each) for each in ids], kind="stable")
    for first in range(0, len(order), _GENERATE_TOGETHER):
        batch = order[first : first + _GENERATE_TOGETHER]
        answers = _continue(predictor.model, [ids[i] for i in batch], options, template.stop)
        found.update(zip(map(int, batch), answers, strict=True))
    return [found[n] for n in range(len(ids))]


@torch.inference_mode()
def _continue(model: LoadedModel, prompts: Sequence[Ids], options: PredictOptions, stop: str) -> list[Prediction]:
    """Generate greedily for prompts padded on the left; a row that has stopped goes on unseen until all have."""
    tokenizer, module, device = model.tokenizer, model.module, model.device
    module.eval()
    lengths = np.array([len(each) for each in prompts])
    ids = encoding.pad(prompts, 0, left=True)
    seen = torch.from_numpy((np.arange(ids.shape[1])[None, :] >= ids.shape[1] - lengths[:, None]).astype(np.int64)).to(
        device
    )
    tokens = torch.from_numpy(ids).to(device)
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    cache: Any = None
    answers: list[list[int]] = [[] for _ in prompts]
    done = [options.max_tokens < 1] * len(prompts)
    for _ in range(options.max_tokens):
        with model.arithmetic():
            out = module(
                input_ids=tokens, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True
            )
        cache, best = out.past_key_values, out.logits[:, -1].argmax(dim=-1)
        for n, token in enumerate(best.tolist()):
            if done[n]:
                continue
            if token == tokenizer.eos_token_id:
                done[n] = True
                continue
            answers[n].append(token)
            done[n] = bool(stop) and stop in _text(tokenizer, prompts[n], answers[n])
        if all(done):
            break
        tokens, positions = best[:, None], positions[:, -1:] + 1
        seen = torch.cat([seen, torch.ones_like(tokens)], dim=1)
    texts = [_text(tokenizer, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    return [
        Prediction(text.split(stop)[0] if stop else text, cut=not ended)
        for text, ended in zip(texts, done, strict=True)
    ]


def _text(tokenizer: Any, prompt: Ids, answer: list[int]) -> str:
    """Decode an answer behind its prompt: some tokenizers drop the space before the first token of a text."""
    tail = [int(each) for each in prompt[-8:]]
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before, whole = tokenizer.decode(tail, **options), tokenizer.decode([*tail, *answer], **options)
    return str(whole[len(before) :] if whole.startswith(before) else tokenizer.decode(answer, **options))
