"""Answers with a model in the transformers layout. Stands alone: it travels with the model.

The facts: `task` (causal-lm or sequence-classification), `layout` (completion or chat), `labels` as they stand in the
training data, `stop`, `max_length` in tokens, `adapter` (whether there is one), `device` and `dtype` (auto, or a name).
The folder holds `model/` and, where there is one, `adapter/`.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

Line = Mapping[str, Any]
Answer = tuple[str, list[float] | None]

_ANCHOR = "\n"
_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32768}
"""Of one forward pass, padding included."""
_LOGITS = 2**26
"""Numbers held at once (256 MiB)."""


def load(folder: str, facts: Mapping[str, Any]) -> LanguageModel | Classifier:
    """Load the model in a folder."""
    return LanguageModel(folder, facts) if facts["task"] == "causal-lm" else Classifier(folder, facts)


class _Model:
    def __init__(self, folder: str, facts: Mapping[str, Any]) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        logging: Any = transformers_logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.labels, self.max_length = list(facts["labels"]), int(facts["max_length"])
        self.device, self.dtype = _device(facts["device"]), torch.float32
        if facts["dtype"] != "float32" and self.device.type == "cuda" and torch.cuda.is_bf16_supported(False):
            self.dtype = torch.bfloat16
        place = os.path.join(folder, "model")
        options: dict[str, Any] = {"dtype": self.dtype, "local_files_only": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=True)
            if facts["task"] == "causal-lm":
                module: Any = AutoModelForCausalLM.from_pretrained(place, **options)
            else:
                module = AutoModelForSequenceClassification.from_pretrained(
                    place, num_labels=len(self.labels), ignore_mismatched_sizes=True, **options
                )
                if module.config.pad_token_id is None:
                    module.config.pad_token_id = self.tokenizer.pad_token_id or 0
            if facts["adapter"]:
                from peft import PeftModel

                module = PeftModel.from_pretrained(module, os.path.join(folder, "adapter")).merge_and_unload()
        self.module = module.to(self.device).eval()

    def arithmetic(self) -> Any:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def answers(self, logprobs: torch.Tensor) -> list[Answer]:
        """Return the most probable label of each row, the earlier one on a tie."""
        return [(self.labels[int(row.argmax())], [float(each) for each in row]) for row in logprobs]


class LanguageModel(_Model):
    """Scores every label as the continuation of a prompt: the sum of its tokens' log-probabilities."""

    def __init__(self, folder: str, facts: Mapping[str, Any]) -> None:
        super().__init__(folder, facts)
        self.chat, self.stop = facts["layout"] == "chat", str(facts["stop"])
        self.templated = self.chat and bool(self.tokenizer.chat_template)
        forward = self.module.forward
        self.keeps_logits = "logits_to_keep" in inspect.signature(forward).parameters

    def answer(self, lines: Sequence[Line]) -> list[Answer]:
        """Answer lines in their order."""
        if not lines:
            return []
        labels = self._continuations([self._label(lines[0], each) for each in self.labels])
        prompts = self._prompts(lines, self.max_length - max(map(len, labels)))
        rows = [(prompt, label) for prompt in prompts for label in labels]
        logprobs = torch.zeros(len(rows), dtype=torch.float64)
        vocabulary = int(self.module.config.get_text_config().vocab_size)
        per_token = 1 if self.keeps_logits else vocabulary
        most = max(1, min(_TOKENS[self.device.type], _LOGITS // per_token))

        def score(batch: list[int]) -> None:
            logprobs[batch] = self._score([rows[n] for n in batch]).to("cpu", torch.float64)

        _in_batches([len(prompt) + len(label) for prompt, label in rows], most, score)
        return self.answers(logprobs.reshape(len(lines), len(labels)))

    @torch.inference_mode()
    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
        ids = _padded([prompt + label for prompt, label in rows], 0).to(self.device)  # (B, T)
        first = min(len(prompt) for prompt, _ in rows) - 1  # the earliest position that predicts a label's token
        kept = {"logits_to_keep": ids.shape[1] - first} if self.keeps_logits else {}
        with self.arithmetic():
            # padding is on the right, where a causal model does not see it: no mask is needed
            logits = self.module(input_ids=ids, use_cache=False, **kept).logits
        logits = logits[:, (0 if self.keeps_logits else first) :].float()
        result = torch.zeros(len(rows), dtype=torch.float64)
        for n, (prompt, label) in enumerate(rows):
            start = len(prompt) - 1 - first
            here = logits[n, start : start + len(label)].log_softmax(dim=-1)
            wanted = torch.tensor(label, device=self.device)
            result[n] = here.gather(1, wanted[:, None]).double().sum().cpu()
        return result

    # ------------------------------------------------------------------------------------------- from lines to tokens
    def _prompts(self, lines: Sequence[Line], limit: int) -> list[list[int]]:
        """Return the prompts' tokens; those that are too long lose their beginning."""
        bos = self._bos()
        room = max(limit - len(bos), 0)
        nothing = [self.tokenizer.eos_token_id or 0]
        encoded = self._tokens([self._prompt(each) for each in lines])
        return [bos + each[max(len(each) - room, 0) :] or nothing for each in encoded]

    def _prompt(self, line: Line) -> str:
        if not self.chat:
            return str(line["prompt"])
        messages = _asked(line)
        if self.templated:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return "".join(f"{each['role']}: {each['content']}\n" for each in messages) + "assistant:"

    def _label(self, line: Line, label: str) -> str:
        """Return the text of a label as the completion of a line."""
        if not self.chat:
            return label
        if not self.templated:
            return f" {label}"
        messages = [*_asked(line), {"role": "assistant", "content": label}]
        whole, prompt = str(self.tokenizer.apply_chat_template(messages, tokenize=False)), self._prompt(line)
        return whole[len(prompt) :] if whole.startswith(prompt) else label + (self.tokenizer.eos_token or "")

    def _bos(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        if self.templated or bos is None:
            return []
        return [bos] if self.tokenizer("a", verbose=False)["input_ids"][:1] == [bos] else []

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        encoded: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return encoded

    def _continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts as they are behind another text: some tokenizers put a space before what begins a text."""
        before, end = self._tokens([_ANCHOR])[0], []
        if not self.stop and not self.templated and self.tokenizer.eos_token_id is not None:
            end = [self.tokenizer.eos_token_id]
        found = []
        for text, anchored in zip(texts, self._tokens([_ANCHOR + each for each in texts]), strict=True):
            merged = anchored[: len(before)] != before
            found.append((self._tokens([text])[0] if merged else anchored[len(before) :]) + end)
        return found


class Classifier(_Model):
    """Gives each class its log-probability. Two segments are a pair to the model, any other number is joined."""

    def answer(self, lines: Sequence[Line]) -> list[Answer]:
        """Answer lines in their order."""
        cut = {"truncation": True, "max_length": self.max_length, "verbose": False, "return_token_type_ids": True}
        encoded = [self.tokenizer(*_segments(each), **cut) for each in lines]
        logprobs = torch.zeros(len(lines), len(self.labels), dtype=torch.float64)

        @torch.inference_mode()
        def score(batch: list[int]) -> None:
            ids = [encoded[n]["input_ids"] for n in batch]
            inputs = {"input_ids": _padded(ids, self.tokenizer.pad_token_id or 0)}
            inputs["attention_mask"] = _padded([[1] * len(each) for each in ids], 0)
            if int(getattr(self.module.config, "type_vocab_size", 0) or 0) > 1:
                inputs["token_type_ids"] = _padded([encoded[n]["token_type_ids"] for n in batch], 0)
            with self.arithmetic():
                logits = self.module(**{name: each.to(self.device) for name, each in inputs.items()}).logits
            logprobs[batch] = logits.float().log_softmax(dim=1).to("cpu", torch.float64)

        _in_batches([len(each["input_ids"]) for each in encoded], _TOKENS[self.device.type], score)
        return self.answers(logprobs)


def _device(asked: str) -> torch.device:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return torch.device(asked if there.get(asked) else next(name for name, found in there.items() if found))


def _asked(line: Line) -> list[dict[str, str]]:
    messages = list(line["messages"])
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def _segments(line: Line) -> tuple[str, ...]:
    parts = [str(each) for each in line.get("segments") or ()]
    if "messages" in line:
        parts = [str(each["content"]) for each in _asked(line)]
    parts = parts or [str(line["prompt"])]
    return tuple(parts) if len(parts) == 2 else ("\n".join(parts),)


def _padded(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def _in_batches(lengths: Sequence[int], most: int, compute: Callable[[list[int]], None]) -> None:
    for batch in _batches(lengths, most):
        compute(batch)


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield indices in ascending length, each batch of at most `most` tokens with padding, or of one row."""
    batch: list[int] = []
    for n in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[n] > most:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch
