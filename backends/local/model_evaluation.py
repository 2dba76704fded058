"""Measuring a model: the log-probability of continuations, the metrics made of them, and classification by labels.

The allowed labels of an example are scored together: one row holds the prompt once and all labels after it, and the
attention mask lets each label see the prompt and itself. That is exact, and costs the prompt once instead of once a
label. Models that cannot take such a mask (it is tried out) are given each label in a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from backends.contract import BackendError, Failure, FailureKind
from backends.local.encoding import CausalData, ClassData, Data, Ids, pad, token_batches
from backends.local.failures import is_out_of_memory
from backends.local.loss import class_inputs
from backends.local.model import LoadedModel

Floats = NDArray[np.float64]

_MAX_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32768}
"""Tokens of one forward pass, padding included; halved where memory runs out."""
_MAX_LOGITS = 2**25
"""Logits held at once (128 MiB)."""


@dataclass(frozen=True)
class Scores:
    """For example n and its continuation k: the sum of its tokens' log-probabilities, and how many would be guessed."""

    logprobs: Floats  # (N, K)
    guessed: Ids  # (N, K)


# -------------------------------------------------------------------------------------------------------------- metrics
def evaluate(model: LoadedModel, data: Data, prefix: str) -> dict[str, float]:
    """Return the metrics of a data set, each name after `prefix` (`valid_loss`, ...).

    `loss` is in nats per completion token (per example for a classifier), whatever the training loss weighs. A token
    counts as right where it is the most probable one after the right tokens before it.
    """
    if isinstance(data, ClassData):
        logprobs = class_logprobs(model, data.ids, data.segments)
        right = logprobs[np.arange(len(data.labels)), data.labels]
        values = {"loss": -float(right.mean()), **label_metrics(data.labels, logprobs.argmax(axis=1))}
    else:
        values = _causal_metrics(model, data)
    return {f"{prefix}_{name}": value for name, value in values.items()}


def _causal_metrics(model: LoadedModel, data: CausalData) -> dict[str, float]:
    prompts = [ids[:start] for ids, start in zip(data.ids, data.starts, strict=True)]
    tokens = int(sum(len(ids) for ids in data.ids) - data.starts.sum())
    if data.labels is None or data.label_ids is None:
        own = [(ids[start:],) for ids, start in zip(data.ids, data.starts, strict=True)]
        scores = score(model, prompts, own)
        right = np.zeros(len(prompts), dtype=np.int64)
    else:
        scores = score(model, prompts, [data.label_ids] * len(prompts))
        right = data.labels
    rows = np.arange(len(prompts))
    values = {
        "loss": -float(scores.logprobs[rows, right].sum()) / tokens,
        "token_accuracy": float(scores.guessed[rows, right].sum()) / tokens,
    }
    if data.labels is not None:
        values |= label_metrics(data.labels, scores.logprobs.argmax(axis=1))
    return values


def label_metrics(truth: Ids, predicted: Ids) -> dict[str, float]:
    """Return accuracy and macro-F1: the mean F1 of the classes that occur, as the truth or as a prediction."""
    f1 = []
    for each in np.union1d(truth, predicted):
        hits = int(((truth == each) & (predicted == each)).sum())
        f1.append(2 * hits / int((truth == each).sum() + (predicted == each).sum()))
    return {"accuracy": float((truth == predicted).mean()), "macro_f1": float(np.mean(f1))}


# ---------------------------------------------------------------------------------------------------- language models
def score(model: LoadedModel, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]) -> Scores:
    """Score K continuations of each of N prompts; K is the same for all. Leaves the model in evaluation mode."""
    model.module.eval()  # before anything is tried out: dropout would make any two ways of scoring differ
    count = len(continuations[0])
    if count > 1 and not _can_share_prompts(model):
        flat = [(each,) for group in continuations for each in group]
        repeated = [prompt for prompt in prompts for _ in range(count)]
        scores = _score_rows(model, repeated, flat)
        return Scores(scores.logprobs.reshape(-1, count), scores.guessed.reshape(-1, count))
    return _score_rows(model, prompts, continuations)


def _score_rows(model: LoadedModel, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]) -> Scores:
    shape = (len(prompts), len(continuations[0]))
    scores = Scores(np.zeros(shape), np.zeros(shape, dtype=np.int64))
    lengths = np.array([len(p) + sum(map(len, c)) for p, c in zip(prompts, continuations, strict=True)], dtype=np.int64)

    def compute(batch: Ids) -> None:
        rows = _Rows([prompts[i] for i in batch], [continuations[i] for i in batch])
        scores.logprobs[batch], scores.guessed[batch] = _score_batch(model, rows)

    _in_batches(model, lengths, compute)
    return scores


class _Rows:
    """Prompts with all their continuations in one row each, as arrays for one forward pass.

    `predictor[n]` is the flat position that predicts target n; `example[n]` and `branch[n]` say whose target it is.
    """

    def __init__(self, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]]) -> None:
        self.ids = pad([np.concatenate([p, *c]) for p, c in zip(prompts, continuations, strict=True)], 0)  # (B, T)
        self.branches = np.full(self.ids.shape, -1)  # 0: prompt, k + 1: continuation k, -1: padding
        self.positions = np.zeros(self.ids.shape, dtype=np.int64)
        predictor, target, example, branch = [], [], [], []
        width = self.ids.shape[1]
        for n, (prompt, group) in enumerate(zip(prompts, continuations, strict=True)):
            at = len(prompt)
            self.branches[n, :at] = 0
            self.positions[n, :at] = np.arange(at)
            for k, each in enumerate(group):
                end = at + len(each)
                self.branches[n, at:end] = k + 1
                self.positions[n, at:end] = np.arange(len(prompt), len(prompt) + len(each))
                before = np.arange(at - 1, end - 1)
                before[:1] = len(prompt) - 1
                predictor.append(before + n * width)
                target.append(each)
                example.append(np.full(len(each), n))
                branch.append(np.full(len(each), k))
                at = end
        self.predictor, self.target = np.concatenate(predictor), np.concatenate(target)
        self.example, self.branch = np.concatenate(example), np.concatenate(branch)
        self.shape = (len(prompts), len(continuations[0]))

    def mask(self) -> NDArray[np.bool_]:
        """Return (B, 1, T, T): a token sees what is before it in the prompt and in its own continuation."""
        seen, seeing = self.branches[:, None, :], self.branches[:, :, None]
        causal = np.tril(np.ones((self.ids.shape[1],) * 2, dtype=np.bool_))
        allowed: NDArray[np.bool_] = ((seen == 0) | (seen == seeing))[:, None] & causal
        return allowed


@torch.inference_mode()
def _score_batch(model: LoadedModel, rows: _Rows) -> tuple[Floats, Ids]:
    to = model.device
    mask = positions = None
    if rows.shape[1] > 1:
        mask, positions = torch.from_numpy(rows.mask()).to(to), torch.from_numpy(rows.positions).to(to)
    where, back = np.unique(rows.predictor, return_inverse=True)
    target = torch.from_numpy(rows.target).to(to)
    with model.arithmetic():
        states = model.states(torch.from_numpy(rows.ids).to(to), torch.from_numpy(where).to(to), mask, positions)
        inverse = torch.from_numpy(back).to(to)
        logprob, guess = torch.empty(len(back), device=to), torch.empty(len(back), dtype=torch.bool, device=to)
        step = max(1, _MAX_LOGITS // model.vocabulary)
        for first in range(0, len(where), step):
            logits = model.logits(states[first : first + step])
            here = torch.nonzero((inverse >= first) & (inverse < first + step))[:, 0]
            local = inverse[here] - first
            logprob[here] = logits[local, target[here]] - logits.logsumexp(dim=1)[local]
            guess[here] = logits.argmax(dim=1)[local] == target[here]
    logprobs, guessed = np.zeros(rows.shape), np.zeros(rows.shape, dtype=np.int64)
    np.add.at(logprobs, (rows.example, rows.branch), logprob.cpu().numpy().astype(np.float64))
    np.add.at(guessed, (rows.example, rows.branch), guess.cpu().numpy())
    return logprobs, guessed


def _can_share_prompts(model: LoadedModel) -> bool:
    """Whether rows with several continuations give the scores of separate rows; tried out once a model."""
    if model.tree_scoring is None:
        model.tree_scoring = _try_sharing(model)
    return model.tree_scoring


def _try_sharing(model: LoadedModel) -> bool:
    config = model.module.config.get_text_config()
    if getattr(config, "sliding_window", None):
        return False  # a window would count the tokens of other labels
    size = model.vocabulary
    prompts = [np.arange(1, 4) % size, np.arange(2, 7) % size]
    group = [np.array([5, 6]) % size, np.array([7]) % size, np.array([8, 9, 10]) % size]
    try:
        together = _score_batch(model, _Rows(prompts, [group, group]))[0]
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    apart = np.stack([_score_batch(model, _Rows(prompts, [(each,)] * 2))[0][:, 0] for each in group], axis=1)
    tolerance = 1e-3 if model.dtype is torch.float32 else 0.1
    return bool(np.allclose(together, apart, atol=tolerance))


# ------------------------------------------------------------------------------------------------------------- encoders
def class_logprobs(model: LoadedModel, ids: Sequence[Ids], segments: Sequence[Ids] | None) -> Floats:
    """Return the log-probability of each class (N, labels)."""
    result = np.zeros((len(ids), int(model.module.config.num_labels)))
    pad_id = model.tokenizer.pad_token_id or 0

    @torch.inference_mode()
    def compute(batch: Ids) -> None:
        own = None if segments is None else [segments[i] for i in batch]
        tokens, mask, types = class_inputs([ids[i] for i in batch], own, pad_id)
        with model.arithmetic():
            logits = model.class_logits(tokens, mask, types)
        result[batch] = logits.log_softmax(dim=1).cpu().numpy()

    _in_batches(model, np.array([len(each) for each in ids], dtype=np.int64), compute)
    return result


def _in_batches(model: LoadedModel, lengths: Ids, compute: Callable[[Ids], None]) -> None:
    """Call `compute` on batches of similar length, on halves of a batch where memory runs out."""
    model.module.eval()
    waiting = token_batches(lengths, min(_MAX_TOKENS.get(model.device.type, 2048), model.tokens_in_cache))
    while waiting:
        batch = waiting.pop()
        try:
            compute(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                remedy = "lower backend.max_length, or take a smaller model"
                raise BackendError(Failure(FailureKind.OUT_OF_MEMORY, "one example does not fit", remedy)) from error
            waiting += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
