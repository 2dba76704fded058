"""One trial with transformers' `Trainer`, as an engineer would write it.

It is the baseline, and the trial of Ray Tune.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from benchmarks.workloads import Job

_SCORING_BATCH_SIZE = 32
"""Examples per forward pass of the label scoring. Each example has one row per label."""

Example = dict[str, Any]


@dataclass(frozen=True)
class Encoded:
    """Tokenized data for `Trainer`, and the tokens of each label if a language model scores
    them.
    """

    tokenizer: Any
    train: list[Example]
    valid: list[Example]
    sample: list[Example]
    labels: list[list[int]]


# --------------------------------------------------------------------------------------------- data
def encode(job: Job) -> Encoded:
    """Load the tokenizer and tokenize both files.

    Sort evaluated examples by length, which minimizes padding.
    """
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    train, valid = (_lines(path) for path in (job.train, job.valid))
    labels = [_continuation(tokenizer, label, job) for label in job.labels] if job.task == "causal-lm" else []
    encoder = _causal if job.task == "causal-lm" else _pair
    examples, validation = ([encoder(tokenizer, line, job) for line in lines] for lines in (train, valid))
    chosen = np.random.default_rng(0).choice(len(examples), size=min(job.train_sample, len(examples)), replace=False)
    sample = [examples[i] for i in chosen]
    return Encoded(tokenizer, examples, _by_length(validation), _by_length(sample), labels)


def _lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def _by_length(examples: Sequence[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: len(example["input_ids"]))


def _continuation(tokenizer: Any, text: str, job: Job) -> list[int]:
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return ids if job.stop else [*ids, tokenizer.eos_token_id]


def _causal(tokenizer: Any, line: Mapping[str, Any], job: Job) -> Example:
    prompt = list(tokenizer(line["prompt"])["input_ids"])
    if prompt[-1] == tokenizer.eos_token_id:
        prompt.pop()  # some tokenizers append an end-of-sequence token to every text
    completion = _continuation(tokenizer, line["completion"], job)
    ids = prompt + completion
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + completion}


def _pair(tokenizer: Any, line: Mapping[str, Any], job: Job) -> Example:
    return {**tokenizer(*line["segments"]), "labels": job.labels.index(line["completion"])}


# -------------------------------------------------------------------------------------------- trial
class _CountingDataset(Dataset[Example]):
    """The training set.

    It counts the examples and tokens that the training loop's batches really take.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self.examples = self.tokens = 0

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Example]:
        batch = [self._examples[i] for i in indices]
        self.examples += len(batch)
        self.tokens += sum(len(example["input_ids"]) for example in batch)
        return batch


class _LabelScoring(Trainer):
    """Evaluates a language model by the log-probability of each allowed label."""

    scored: Encoded

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Score the validation set and the training sample."""
        metrics: dict[str, float] = {"epoch": self.state.epoch or 0.0}
        for name, examples in (("valid", self.scored.valid), ("train", self.scored.sample)):
            for metric, value in score_labels(self.model, examples, self.scored.labels).items():
                metrics[f"eval_{name}_{metric}"] = value
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


@torch.inference_mode()
def score_labels(model: Any, examples: Sequence[Example], labels: Sequence[list[int]]) -> dict[str, float]:
    """Return the loss in nats per token of the correct completion, and the accuracy of the most
    probable label.
    """
    model.eval()
    nll, tokens, hits = 0.0, 0, 0
    for first in range(0, len(examples), _SCORING_BATCH_SIZE):
        part = examples[first : first + _SCORING_BATCH_SIZE]
        prompts = [[t for t, y in zip(e["input_ids"], e["labels"], strict=True) if y == -100] for e in part]
        right = [labels.index([y for y in e["labels"] if y != -100]) for e in part]
        rows = [(prompt, label) for prompt in prompts for label in labels]
        width = max(len(prompt) + len(label) for prompt, label in rows)
        ids, positions, target, row_of_token = torch.zeros(len(rows), width, dtype=torch.long), [], [], []
        for n, (prompt, label) in enumerate(rows):
            ids[n, : len(prompt) + len(label)] = torch.tensor(prompt + label)
            positions += [n * width + len(prompt) - 1 + k for k in range(len(label))]
            target += label
            row_of_token += [n] * len(label)
        # Padding on the right needs no mask: attention is causal, and no padded position is read.
        logits = model(input_ids=ids, use_cache=False).logits
        logprobs = logits.reshape(-1, logits.shape[-1])[torch.tensor(positions)].log_softmax(-1)
        token_logprobs = logprobs.gather(1, torch.tensor(target)[:, None])[:, 0]
        sums = torch.zeros(len(rows)).index_add_(0, torch.tensor(row_of_token), token_logprobs)
        sums = sums.reshape(len(part), len(labels))
        nll -= float(sums[torch.arange(len(part)), torch.tensor(right)].sum())
        tokens += sum(len(labels[i]) for i in right)
        hits += int((sums.argmax(1) == torch.tensor(right)).sum())
    return {"loss": nll / tokens, "accuracy": hits / len(examples)}


def load_model(job: Job) -> Any:
    """Load the base model in float32. The job's seed determines a new head."""
    set_seed(job.seed)
    if job.task == "causal-lm":
        return AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    return AutoModelForSequenceClassification.from_pretrained(
        job.model, num_labels=len(job.labels), dtype=torch.float32, ignore_mismatched_sizes=True
    )


def train(
    job: Job,
    data: Encoded,
    model: Any,
    point: Mapping[str, float],
    folder: Path,
    callbacks: Sequence[Any] = (),
    sampling: str = "random",
) -> dict[str, Any]:
    """Train one point of the grid to completion, keep its best state below `folder`, and return the
    work done.
    """
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=point["n_epochs"],
        per_device_train_batch_size=int(point["batch_size"]),
        per_device_eval_batch_size=64,
        learning_rate=point["learning_rate"],
        lr_scheduler_type="constant",
        train_sampling_strategy=sampling,
        eval_strategy="epoch",
        save_strategy="best",
        save_only_model=True,
        save_total_limit=1,
        metric_for_best_model="eval_valid_loss",
        greater_is_better=False,
        logging_strategy="epoch",
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
        seed=job.seed,
        report_to="none",
        disable_tqdm=True,
    )
    counting = _CountingDataset(data.train)
    options: dict[str, Any] = {
        "model": model,
        "args": arguments,
        "train_dataset": counting,
        "callbacks": list(callbacks),
    }
    if job.task == "causal-lm":
        collator: Any = DataCollatorForSeq2Seq(data.tokenizer)
        trainer: Any = _LabelScoring(**options, eval_dataset=data.valid, data_collator=collator)
        trainer.scored = data
    else:
        collator, validation = DataCollatorWithPadding(data.tokenizer), {"valid": data.valid, "train": data.sample}
        trainer = Trainer(**options, eval_dataset=validation, data_collator=collator, compute_metrics=_accuracy)
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_valid_loss" in entry]
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "point": dict(point),
        "steps": trainer.state.global_step,
        "examples": counting.examples,
        "tokens": counting.tokens,
        "evaluations": len(evaluations),
        "scored": len(evaluations) * (len(data.valid) + len(data.sample)),
        "valid_loss": evaluations[-1]["eval_valid_loss"],
        "valid_accuracy": evaluations[-1]["eval_valid_accuracy"],
    }


def _accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}
