"""Predicts labels or texts with a model in the transformers layout.

A copy of this module travels with the model. It stands alone: it imports nothing of this software.

The settings: `task` (causal-lm or sequence-classification), `layout` (completion or chat), `labels`
as they appear in the training data, `stop`, `max_length` in tokens, `adapter` (whether there is
one), `device` and `dtype` (auto, or a name), and `generation`: how to generate if there are no
labels, by the names of `text_generation.GenerationSettings`. The folder holds `model/`, copies of
`text_generation` and `chat_text` and, if there is an adapter, `adapter/`.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

Line = Mapping[str, Any]
LabelScores = tuple[str, list[float] | None]
"""The text of the predicted label, and the log-probability of each label; a generated text, and
None.
"""

GENERATION_CODE = "text_generation.py"
"""The file in the folder with the code that generates."""
CHAT_CODE = "chat_text.py"
"""The file in the folder with the code that writes conversations."""

_ANCHOR = "\n"
_MAX_BATCH_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32768}
"""Tokens in one forward pass, including padding."""
_MAX_LOGITS = 2**26
"""Logits in memory at once (256 MiB in float32)."""


def load(folder: str, settings: Mapping[str, Any]) -> LanguageModel | Classifier:
    """Load the model in a folder."""
    return LanguageModel(folder, settings) if settings["task"] == "causal-lm" else Classifier(folder, settings)


class _Model:
    def __init__(self, folder: str, settings: Mapping[str, Any]) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        logging: Any = transformers_logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.labels, self.max_length = list(settings["labels"]), int(settings["max_length"])
        self.device, self.dtype = _device(settings["device"]), torch.float32
        if settings["dtype"] != "float32" and self.device.type == "cuda" and torch.cuda.is_bf16_supported(False):
            self.dtype = torch.bfloat16
        model_folder = os.path.join(folder, "model")
        options: dict[str, Any] = {"dtype": self.dtype, "local_files_only": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
            if settings["task"] == "causal-lm":
                module: Any = AutoModelForCausalLM.from_pretrained(model_folder, **options)
            else:
                module = AutoModelForSequenceClassification.from_pretrained(
                    model_folder, num_labels=len(self.labels), ignore_mismatched_sizes=True, **options
                )
                self.pad_id = _padding_id(self.tokenizer, module.config)
                module.config.get_text_config().pad_token_id = self.pad_id
            if settings["adapter"]:
                from peft import PeftModel

                module = PeftModel.from_pretrained(module, os.path.join(folder, "adapter")).merge_and_unload()
        self.module = module.to(self.device).eval()

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def most_probable(self, logprobs: torch.Tensor) -> list[LabelScores]:
        """Return the most probable label of each row of `logprobs` (rows, labels).

        On a tie, the first label wins.
        """
        return [(self.labels[int(row.argmax())], [float(logprob) for logprob in row]) for row in logprobs]


class LanguageModel(_Model):
    """Scores each label as a continuation of the prompt. Without labels, it generates a text.

    The score is the sum of the log-probabilities of the label's tokens.
    """

    def __init__(self, folder: str, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, settings)
        self.chat, self.stop = settings["layout"] == "chat", str(settings["stop"])
        self.has_chat_template = self.chat and bool(self.tokenizer.chat_template)
        self.chat_text: Any = _module(os.path.join(folder, CHAT_CODE)) if self.chat else None
        forward = self.module.forward
        self.keeps_logits = "logits_to_keep" in inspect.signature(forward).parameters
        self.generator: Any = None if self.labels else _module(os.path.join(folder, GENERATION_CODE))
        self.generation = settings.get("generation")

    def predict(self, lines: Sequence[Line]) -> list[LabelScores]:
        """Return the predictions in the order of the lines."""
        if not lines:
            return []
        if self.generator is not None:
            return self._generated(lines)
        labels = self._encoded_labels([self._completion(lines[0], label) for label in self.labels])
        prompts = self._encoded_prompts(lines, self.max_length - max(map(len, labels)))
        rows = [(prompt, label) for prompt in prompts for label in labels]
        logprobs = torch.zeros(len(rows), dtype=torch.float64)
        vocabulary = int(self.module.config.get_text_config().vocab_size)
        logits_per_token = 1 if self.keeps_logits else vocabulary
        max_tokens = max(1, min(_MAX_BATCH_TOKENS[self.device.type], _MAX_LOGITS // logits_per_token))

        def score(batch: list[int]) -> None:
            logprobs[batch] = self._score([rows[n] for n in batch]).to("cpu", torch.float64)

        _in_batches([len(prompt) + len(label) for prompt, label in rows], max_tokens, score)
        return self.most_probable(logprobs.reshape(len(lines), len(labels)))

    def _generated(self, lines: Sequence[Line]) -> list[LabelScores]:
        if self.generation is None:
            raise ValueError("this model was kept by a version that could not generate: train it again")
        fields = {**self.generation, "end_tokens": frozenset(self.generation["end_tokens"])}
        settings = self.generator.GenerationSettings(**{**fields, "stops": tuple(fields["stops"])})
        prompts = self._encoded_prompts(lines, settings.max_prompt_tokens)
        answers = self.generator.generate(self, prompts, settings, _is_out_of_memory)
        return [(answer.text, None) for answer in answers]

    @torch.inference_mode()
    def _score(self, rows: Sequence[tuple[list[int], list[int]]]) -> torch.Tensor:
        """Return the log-probability of the label of each (prompt, label) row, shape (B,)."""
        ids = _padded([prompt + label for prompt, label in rows], 0).to(self.device)  # (B, T)
        # the earliest position that predicts a token of a label
        first = min(len(prompt) for prompt, _ in rows) - 1
        kept = {"logits_to_keep": ids.shape[1] - first} if self.keeps_logits else {}
        with self.autocast():
            # Padding is on the right, which a causal model does not see, so no mask is needed.
            logits = self.module(input_ids=ids, use_cache=False, **kept).logits
        logits = logits[:, (0 if self.keeps_logits else first) :].float()  # (B, T - first, V)
        scores = torch.zeros(len(rows), dtype=torch.float64)
        for n, (prompt, label) in enumerate(rows):
            start = len(prompt) - 1 - first
            label_logprobs = logits[n, start : start + len(label)].log_softmax(dim=-1)
            label_ids = torch.tensor(label, device=self.device)
            scores[n] = label_logprobs.gather(1, label_ids[:, None]).double().sum().cpu()
        return scores

    # ------------------------------------------------------------------------- from lines to tokens
    def _encoded_prompts(self, lines: Sequence[Line], limit: int) -> list[list[int]]:
        """Return the tokens of the prompts.

        A prompt of more than `limit` tokens loses its beginning. A conversation loses its earliest
        exchanges first.
        """
        bos = self._bos()
        room = max(limit - len(bos), 0)
        substitute = [self.tokenizer.eos_token_id or 0]  # for an empty prompt
        encoded = self._encode([self._prompt(line) for line in lines])
        for n, ids in enumerate(encoded):
            if self.chat and len(ids) > room:
                encoded[n] = self._encode([self._shortened_prompt(lines[n], room)])[0]
        return [bos + ids[max(len(ids) - room, 0) :] or substitute for ids in encoded]

    def _prompt(self, line: Line) -> str:
        if not self.chat:
            return str(line["prompt"])
        return self._written(self.chat_text.messages_before_answer(line), line)

    def _written(self, messages: Sequence[Any], line: Line) -> str:
        return str(self.chat_text.write(self.tokenizer, messages, line.get("tools") or (), for_generation=True))

    def _shortened_prompt(self, line: Line, room: int) -> str:
        messages = self.chat_text.messages_before_answer(line)
        kept = self.chat_text.fitting(
            messages, lambda candidate: len(self._encode([self._written(candidate, line)])[0]) <= room
        )
        return self._written([messages[index] for index in kept], line)

    def _completion(self, line: Line, label: str) -> str:
        """Return the text of a label as the completion of a line."""
        if not self.chat:
            return label
        if not self.has_chat_template:
            return f" {label}"
        answer = {"role": "assistant", "content": label}
        messages = [*self.chat_text.messages_before_answer(line), answer]
        whole = self.chat_text.write(self.tokenizer, messages, line.get("tools") or ())
        return str(self.chat_text.answer_after(self.tokenizer, self._prompt(line), whole, answer))

    def _bos(self) -> list[int]:
        bos = self.tokenizer.bos_token_id
        if self.has_chat_template or bos is None:
            return []
        return [bos] if self.tokenizer("a", verbose=False)["input_ids"][:1] == [bos] else []

    def _template_ends_turns(self) -> bool:
        """Return whether the chat template puts something after an answer."""
        return self.has_chat_template and bool(self.chat_text.turn_end(self.tokenizer).strip())

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        encoded: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return encoded

    def _encoded_labels(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts as they continue another text.

        Some tokenizers add a space at the beginning of a text.
        """
        anchor, end = self._encode([_ANCHOR])[0], []
        if not self.stop and not self._template_ends_turns() and self.tokenizer.eos_token_id is not None:
            end = [self.tokenizer.eos_token_id]
        labels = []
        for text, anchored in zip(texts, self._encode([_ANCHOR + text for text in texts]), strict=True):
            is_merged = anchored[: len(anchor)] != anchor
            labels.append((self._encode([text])[0] if is_merged else anchored[len(anchor) :]) + end)
        return labels


class Classifier(_Model):
    """Gives each class its log-probability.

    The model gets two segments as a pair, and any other number joined.
    """

    def predict(self, lines: Sequence[Line]) -> list[LabelScores]:
        """Return the predictions in the order of the lines."""
        options = {"truncation": True, "max_length": self.max_length, "verbose": False, "return_token_type_ids": True}
        encoded = [self.tokenizer(*_segments(line), **options) for line in lines]
        logprobs = torch.zeros(len(lines), len(self.labels), dtype=torch.float64)

        @torch.inference_mode()
        def score(batch: list[int]) -> None:
            ids = [encoded[n]["input_ids"] for n in batch]
            inputs = {"input_ids": _padded(ids, self.pad_id)}
            inputs["attention_mask"] = _padded([[1] * len(row) for row in ids], 0)
            if int(getattr(self.module.config, "type_vocab_size", 0) or 0) > 1:
                inputs["token_type_ids"] = _padded([encoded[n]["token_type_ids"] for n in batch], 0)
            with self.autocast():
                logits = self.module(**{name: tensor.to(self.device) for name, tensor in inputs.items()}).logits
            logprobs[batch] = logits.float().log_softmax(dim=1).to("cpu", torch.float64)

        lengths = [len(encoding["input_ids"]) for encoding in encoded]
        _in_batches(lengths, _MAX_BATCH_TOKENS[self.device.type], score)
        return self.most_probable(logprobs)


def _module(path: str) -> Any:
    name = os.path.basename(path).removesuffix(".py")
    spec = importlib.util.spec_from_file_location(f"{name}_of_a_package", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look there for their own module
    spec.loader.exec_module(module)
    return module


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def _padding_id(tokenizer: Any, config: Any) -> int:
    """Return the token to pad with; a decoder reads its result at the last token before it."""
    text_config = config.get_text_config()
    candidates = (tokenizer.pad_token_id, text_config.pad_token_id, tokenizer.eos_token_id)
    vocabulary_size = int(getattr(text_config, "vocab_size", 2**63))
    known = (int(candidate) for candidate in candidates if isinstance(candidate, int))
    return next((candidate for candidate in known if 0 <= candidate < vocabulary_size), 0)


def _device(name: str) -> torch.device:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return torch.device(name if available.get(name) else next(kind for kind, usable in available.items() if usable))


def _messages_before_answer(line: Line) -> list[dict[str, str]]:
    messages = list(line["messages"])
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def _segments(line: Line) -> tuple[str, ...]:
    segments = [str(segment) for segment in line.get("segments") or ()]
    if "messages" in line:
        segments = [str(message["content"]) for message in _messages_before_answer(line)]
    segments = segments or [str(line["prompt"])]
    return tuple(segments) if len(segments) == 2 else ("\n".join(segments),)


def _padded(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    """Return the rows as one tensor (B, T), filled with `value` on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def _in_batches(lengths: Sequence[int], max_tokens: int, compute: Callable[[list[int]], None]) -> None:
    for batch in _batches(lengths, max_tokens):
        compute(batch)


def _batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield batches of row indices by ascending length.

    A batch has one row, or at most `max_tokens` tokens including padding.
    """
    batch: list[int] = []
    for n in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[n] > max_tokens:
            yield batch
            batch = []
        batch.append(n)
    if batch:
        yield batch
