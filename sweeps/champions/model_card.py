"""The card of an exported model: a README.md as the Hugging Face hub reads it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from backends.contract import Scalar
from backends.model_export import ExportFormat
from sweeps.study.state import SweepState
from sweeps.trials.trial import Trial

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_BACKTICKS = re.compile("`+")

_LIBRARIES: Mapping[ExportFormat, str] = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}


def card_text(sweep: SweepState, trial: Trial, file_format: ExportFormat) -> str:
    """Return the card of the model of `trial`.

    It names the base model, the data by its digests, the hyperparameters, the verdict with its
    evidence, and the scores. It contains no example of the data, no path of the machine and no
    secret.
    """
    return "\n".join(_lines(sweep, trial, file_format)) + "\n"


def _lines(sweep: SweepState, trial: Trial, file_format: ExportFormat) -> Iterator[str]:
    data, labels = sweep.plan["data"], list(sweep.plan["data"].get("labels") or ())
    base = _base_name(trial)
    header: dict[str, Any] = {
        **({"base_model": base} if is_hub_name(trial.base_model) else {}),
        "library_name": _LIBRARIES[file_format],
        "tags": ["finesweep", *(["lora"] if file_format == "adapter" else [])],
    }
    yield "---"
    yield yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip()
    yield "---"
    yield f"\n# {sweep.name}\n"
    yield f"{_first_sentence(trial, base, sweep, file_format)}\n"
    yield "## Scores\n"
    yield "| metric | value |"
    yield "|---|---|"
    for name, value in _scores(trial):
        yield f"| {name} | {value:.6g} |"
    if sweep.finals is not None and sweep.finals.test is not None:
        mean, low, high = sweep.finals.test
        yield f"| {sweep.finals.test_metric} on the test split, scored once | {mean:.6g} ({low:.6g} to {high:.6g}) |"
    epoch = "" if trial.best_epoch is None else f" after epoch {trial.best_epoch:g}"
    yield f"\nThe scores are those of the kept state{epoch}. `valid_` metrics are of the validation split."
    if trial.verdict is not None:
        yield "\n## Verdict\n"
        yield f"{trial.verdict.kind.value}: {trial.verdict.evidence}"
    if data.get("prompt"):
        yield "\n## Prompt\n"
        yield from _block(f"{data['prompt']}{data.get('separator') or ''}")
        yield "\nThe names in braces are columns. The model was trained on exactly this text."
        if data.get("stop"):
            yield f"Its answers end with {json.dumps(data['stop'], ensure_ascii=False)}."
    yield "\n## Data\n"
    yield f"- name: {data['name']}"
    yield f"- task: {data['task']}" + (f", {len(labels)} labels" if labels else "")
    yield f"- examples: {data['training_examples']} training, {data['validation_examples']} validation"
    yield f"- fingerprint: {data['fingerprint']}"
    for part, digest in data["digests"].items():
        if digest:
            yield f"- SHA-256 of the {part} split: {digest}"
    yield "\n## Hyperparameters\n"
    yield "| hyperparameter | value |"
    yield "|---|---|"
    for name, chosen in {**_resolved(trial), **trial.hyperparameters, "seed": trial.seed}.items():
        yield f"| {name} | {base if name == 'base_model' else _written(chosen)} |"


def is_hub_name(name: str) -> bool:
    """Whether a base model has the form of a name on the Hugging Face hub: OWNER/NAME."""
    return _HUB_NAME.fullmatch(name) is not None


def _block(text: str) -> Iterator[str]:
    """Yield a text as a code block, whose fence is longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in _BACKTICKS.findall(text)), 3)
    yield f"{fence}text"
    yield text
    yield fence


def _first_sentence(trial: Trial, base: str, sweep: SweepState, file_format: ExportFormat) -> str:
    what = {
        "adapter": f"A PEFT adapter for {base}",
        "merged": f"{base}, fine-tuned",
        "gguf": f"{base}, fine-tuned, as a GGUF file",
    }[file_format]
    search = f"{len(sweep.trials)} trials for the {'highest' if _is_maximized(sweep) else 'lowest'}"
    return f"{what}: trial {trial.number} of the sweep `{sweep.name}`, which tried {search} {sweep.objective.metric}."


def _is_maximized(sweep: SweepState) -> bool:
    return sweep.objective.direction == "maximize"


def _base_name(trial: Trial) -> str:
    """Return the base model without the folders of this machine."""
    name = str(trial.resolved.get("base_model", trial.base_model))
    return name.rstrip("/").rpartition("/")[2] if name.startswith(("/", ".", "~")) else name


def _scores(trial: Trial) -> list[tuple[str, float]]:
    kept = [measured for measured in trial.curve if measured.epoch == trial.best_epoch]
    return sorted(kept[-1].values.items()) if kept else []


_SHOWN = (
    *("learning_rate", "batch_size", "micro_batch_size", "n_epochs", "schedule", "warmup_ratio", "weight_decay"),
    *("max_grad_norm", "method", "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "use_rslora", "use_dora"),
    *("neftune_noise_alpha", "optimizer", "max_length", "dtype"),
)
"""The resolved values that help to train the model again."""


def _resolved(trial: Trial) -> dict[str, Scalar]:
    return {name: trial.resolved[name] for name in _SHOWN if name in trial.resolved}


def _written(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
