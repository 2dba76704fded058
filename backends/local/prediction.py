"""Prediction with a trained model: the most probable label, or generated text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backends.contract import Dataset, Decoding, Prediction, PredictOptions
from backends.local import encoding, generation, model_evaluation, model_source
from backends.local.encoded_data import Ids
from backends.local.example_template import ExampleTemplate
from backends.local.failures import library_errors_translated, resource_errors_translated
from backends.local.model import LoadedModel, ModelSpec, load_model, load_tokenizer, quiet
from backends.local.model_source import ModelSource, user_error
from backends.local.options import LocalOptions, Task
from backends.local.special_tokens import check_token_ids
from backends.model_packages.text_generation import GenerationSettings

CARD_FILE = "finesweep.json"
"""The file beside a kept model with the facts that prediction needs."""


@dataclass(frozen=True)
class Predictor:
    """A model that answers prompts, and the format of the prompts that it was trained on."""

    model: LoadedModel
    layout: str
    labels: tuple[str, ...]
    stop: str
    max_length: int


def card_text(
    base: ModelSource,
    revision: str | None,
    task: Task,
    dataset: Dataset,
    max_length: int,
    settings: GenerationSettings | None,
) -> str:
    """Return the content of a kept model's `CARD_FILE`.

    With `settings` its package generates; None for a classifier.
    """
    card = {
        "base_model": str(base.directory.resolve()),
        "base_name": base.name,
        "base_revision": revision,
        "task": task,
        "layout": dataset.layout,
        "labels": list(dataset.labels),
        "stop": dataset.stop,
        "max_length": max_length,
        "generation": settings and {**asdict(settings), "end_tokens": sorted(settings.end_tokens)},
    }
    return json.dumps(card, indent=2)


def base_of(card: Mapping[str, Any]) -> ModelSource:
    """Return the base model of a kept adapter.

    The adapter may come from another machine, where the base model is in another directory. It is
    then found by its name. Raises BackendError (user) if it is not here either.
    """
    if "base_name" not in card or Path(card["base_model"]).is_dir():
        return model_source.find(card["base_model"])
    return model_source.find(card["base_name"], card["base_revision"])


def load(name: str, options: LocalOptions, device: torch.device, dtype: torch.dtype) -> Predictor:
    """Load a kept model or a base model. Raises BackendError if there is no such model."""
    directory = Path(name)
    if not (directory / CARD_FILE).is_file():
        base = model_source.find(name, options.revision)
        task = options.task if options.task != "auto" else model_source.task_of_config(base.config) or "causal-lm"
        if task != "causal-lm":
            raise user_error(f"{name} is an encoder without a trained head", "give a model that a run has kept")
        loaded = load_model(ModelSpec(base, task, device, dtype, weights_dtype=dtype), load_tokenizer(base))
        return Predictor(loaded, "completion", (), "", base.max_length(options.max_length))
    with library_errors_translated(f"reading {directory / CARD_FILE}"):
        card = json.loads((directory / CARD_FILE).read_text(encoding="utf-8"))
    is_adapter = (directory / "adapter_config.json").is_file()
    weights = base_of(card) if is_adapter else model_source.find(name)
    labels = tuple(card["labels"])
    spec = ModelSpec(weights, card["task"], device, dtype, weights_dtype=dtype, labels=labels, new_head=False)
    loaded = load_model(spec, load_tokenizer(weights))
    if is_adapter:
        _merge_adapter(loaded, directory)
    return Predictor(loaded, card["layout"], labels, card["stop"], card["max_length"])


def _merge_adapter(loaded: LoadedModel, directory: Path) -> None:
    from peft import PeftModel

    with quiet(), library_errors_translated(f"loading the adapter {directory}"):
        loaded.module = PeftModel.from_pretrained(loaded.module, str(directory)).merge_and_unload()


def predict(predictor: Predictor, prompts: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
    """Answer the prompts in their order.

    With labels, a label's log-probability is the sum over its tokens (for a classifier, that of its
    class), in nats. The most probable label is the predicted text, the earlier one on a tie.
    Without labels, `generation.generate` generates a text. Raises BackendError (user) if a
    classifier is asked for text or for a label that it does not know.
    """
    if not prompts:
        return []
    with resource_errors_translated("predicting"):
        if predictor.model.task == "sequence-classification":
            return _classify(predictor, prompts, options)
        if options.labels is not None:
            return _choose_label(predictor, prompts, options.labels, options.stop)
        return _generate(predictor, prompts, options)


def _classify(predictor: Predictor, prompts: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
    if options.labels is None:
        raise user_error("a classifier generates no text", "give the labels to choose from")
    unknown = [label for label in options.labels if label not in predictor.labels]
    if unknown:
        raise user_error(
            f"the classifier has no label {unknown[0]!r}", f"choose from its labels: {', '.join(predictor.labels)}"
        )
    model = predictor.model
    ids, segments, whole = encoding.encode_segments(
        model.tokenizer, prompts, predictor.max_length, model.source.uses_segment_ids
    )
    _check_tokens(model, ids)
    columns = [predictor.labels.index(label) for label in options.labels]
    logprobs = model_evaluation.class_logprobs(model, ids, segments)[:, columns]
    return _label_predictions(logprobs, options.labels, [length > predictor.max_length for length in whole])


def _choose_label(
    predictor: Predictor, prompts: Sequence[Mapping[str, Any]], labels: Sequence[str], stop: str
) -> list[Prediction]:
    template = _template(predictor, prompts, stop)
    label_ids = encoding.label_tokens(template, prompts[0], labels)
    max_prompt_tokens = predictor.max_length - max(map(len, label_ids))
    encoded, is_cut = template.tokenize_prompts(prompts, max_prompt_tokens)
    _check_tokens(predictor.model, [*encoded, *label_ids])
    scores = model_evaluation.score_continuations(
        predictor.model, [np.array(tokens) for tokens in encoded], [label_ids] * len(prompts)
    )
    return _label_predictions(scores.logprobs, labels, is_cut)


def _check_tokens(model: LoadedModel, rows: Sequence[Sequence[int] | Ids]) -> None:
    if model.source.vocabulary_size is not None:
        check_token_ids(rows, model.source.vocabulary_size, model.tokenizer, model.source.name)


def _label_predictions(
    logprobs: model_evaluation.Floats, labels: Sequence[str], is_cut: Sequence[bool]
) -> list[Prediction]:
    """Return one prediction per row of `logprobs` (N, labels)."""
    return [
        Prediction(labels[int(row.argmax())], tuple(float(value) for value in row), prompt_cut=cut)
        for row, cut in zip(logprobs, is_cut, strict=True)
    ]


def _template(predictor: Predictor, prompts: Sequence[Mapping[str, Any]], stop: str) -> ExampleTemplate:
    layout = "chat" if "messages" in prompts[0] else "completion"
    return ExampleTemplate(predictor.model.tokenizer, layout, stop or predictor.stop)


def _generate(predictor: Predictor, prompts: Sequence[Mapping[str, Any]], options: PredictOptions) -> list[Prediction]:
    decoding = Decoding(options.max_tokens, options.more_stops, options.temperature, options.top_p)
    template = _template(predictor, prompts, options.stop)
    answers = generation.generate(predictor.model, template, prompts, decoding, predictor.max_length, options.seed)
    room = generation.prompt_room(decoding, predictor.max_length)
    is_cut = [len(tokens) > room for tokens in template.prompt_tokens(prompts)]
    return [
        Prediction(answer.text, truncated=answer.truncated, prompt_cut=cut)
        for answer, cut in zip(answers, is_cut, strict=True)
    ]
