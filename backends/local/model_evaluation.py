"""Measuring a model: log-probabilities of continuations, their metrics, and classification.

All allowed labels of an example are scored together. One row holds the prompt once and all labels
after it, and the attention mask lets each label see only the prompt and itself. That is exact, and
it costs the prompt once instead of once per label. A model that cannot take such a mask (a test
decides) gets each label in a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from backends.contract import BackendError, Failure, FailureKind
from backends.local.encoded_data import CausalData, ClassData, EncodedData, Flags, Ids
from backends.local.encoding import pad, token_batches
from backends.local.failures import is_out_of_memory
from backends.local.loss import class_inputs
from backends.local.model import BatchLimits, LoadedModel

Floats = NDArray[np.float64]

_MAX_TOKENS = {"cpu": 2048, "mps": 8192, "cuda": 32768}
"""The most tokens of one forward pass, padding included. Halved when memory runs out."""
_MAX_LOGITS = 2**25
"""The most logits in memory at once (128 MiB)."""


@dataclass(frozen=True)
class ContinuationScores:
    """The scores of continuation k of prompt n: its log-probability and how many of its tokens are
    predicted.

    `logprobs` (N, K) are sums over the continuation's tokens, in nats. `correct_tokens` (N, K)
    counts the tokens that are the most probable ones after the tokens before them.
    """

    logprobs: Floats
    correct_tokens: Ids


def max_tokens(model: BatchLimits) -> int:
    """Return the most tokens of a forward pass, unless one example is longer."""
    return min(_MAX_TOKENS.get(model.device.type, 2048), model.max_tokens_in_cache)


def max_predicted(model: BatchLimits) -> int:
    """Return the most positions whose logits are in memory at once."""
    return max(1, _MAX_LOGITS // model.vocabulary_size)


# ------------------------------------------------------------------------------------------ metrics
def evaluate(model: LoadedModel, data: EncodedData, prefix: str) -> dict[str, float]:
    """Return the metrics of a data set, each name after `prefix` (`valid_loss`, ...).

    `loss` is in nats per target, which is a token of a trained answer (per example for a
    classifier), whatever weights the training loss has. A token is correct if it is the most
    probable one after the correct tokens before it.
    """
    if isinstance(data, ClassData):
        logprobs = class_logprobs(model, data.ids, data.segments)
        label_logprobs = logprobs[np.arange(len(data.labels)), data.labels]
        values = {"loss": -float(label_logprobs.mean()), **label_metrics(data.labels, logprobs)}
    else:
        values = _causal_metrics(model, data)
    return {f"{prefix}_{name}": value for name, value in values.items()}


def _causal_metrics(model: LoadedModel, data: CausalData) -> dict[str, float]:
    prompts = [ids[:start] for ids, start in zip(data.ids, data.completion_starts, strict=True)]
    tokens = int(data.target_counts.sum())
    if data.labels is None or data.label_ids is None:
        completions = [(ids[start:],) for ids, start in zip(data.ids, data.completion_starts, strict=True)]
        is_counted = [flags[start:] for flags, start in zip(data.targets, data.completion_starts, strict=True)]
        scores = score_continuations(model, prompts, completions, is_counted)
        correct = np.zeros(len(prompts), dtype=np.int64)
    else:
        scores = score_continuations(model, prompts, [data.label_ids] * len(prompts))
        correct = data.labels
    rows = np.arange(len(prompts))
    values = {
        "loss": -float(scores.logprobs[rows, correct].sum()) / tokens,
        "token_accuracy": float(scores.correct_tokens[rows, correct].sum()) / tokens,
    }
    if data.labels is not None:
        values |= label_metrics(data.labels, scores.logprobs)
    return values


def label_metrics(truth: Ids, logprobs: Floats) -> dict[str, float]:
    """Return accuracy and macro-F1 of the log-probabilities of all labels, (N, labels).

    Macro-F1 is the mean F1 of all labels of the data set. One that no example has and no answer
    names counts as 0, as `f1_score(..., labels=..., zero_division=0)` of scikit-learn does: a score
    of 1 would hide that nobody has measured it.
    """
    predicted = logprobs.argmax(axis=1)
    f1 = []
    for label in range(logprobs.shape[1]):
        hits = int(((truth == label) & (predicted == label)).sum())
        f1.append(2 * hits / max(1, int((truth == label).sum() + (predicted == label).sum())))
    return {"accuracy": float((truth == predicted).mean()), "macro_f1": float(np.mean(f1))}


# ---------------------------------------------------------------------------------- language models
def score_continuations(
    model: LoadedModel,
    prompts: Sequence[Ids],
    continuations: Sequence[Sequence[Ids]],
    is_counted: Sequence[Flags] | None = None,
) -> ContinuationScores:
    """Score K continuations of each of N prompts.

    K is the same for all. The model stays in evaluation mode. `is_counted`, for K = 1, says of each
    token of a continuation whether it counts; by default all do.
    """
    # before any test of the model: dropout would make any two ways of scoring differ
    model.module.eval()
    count = len(continuations[0])
    if count > 1 and not _can_share_prompts(model):
        flat = [(continuation,) for group in continuations for continuation in group]
        repeated = [prompt for prompt in prompts for _ in range(count)]
        scores = _score_rows(model, repeated, flat)
        return ContinuationScores(scores.logprobs.reshape(-1, count), scores.correct_tokens.reshape(-1, count))
    return _score_rows(model, prompts, continuations, is_counted)


def _score_rows(
    model: LoadedModel,
    prompts: Sequence[Ids],
    continuations: Sequence[Sequence[Ids]],
    is_counted: Sequence[Flags] | None = None,
) -> ContinuationScores:
    shape = (len(prompts), len(continuations[0]))
    scores = ContinuationScores(np.zeros(shape), np.zeros(shape, dtype=np.int64))
    lengths = np.array([len(p) + sum(map(len, c)) for p, c in zip(prompts, continuations, strict=True)], dtype=np.int64)

    def compute(batch: Ids) -> None:
        counted = None if is_counted is None else np.concatenate([is_counted[i] for i in batch])
        rows = _Rows([prompts[i] for i in batch], [continuations[i] for i in batch], counted)
        scores.logprobs[batch], scores.correct_tokens[batch] = _score_batch(model, rows)

    _in_batches(model, lengths, compute)
    return scores


class _Rows:
    """The arrays of one forward pass over B rows, each with a prompt and all its continuations.

    `ids`, `position_ids` and `branches` are (B, T). For target n of the M continuation tokens that
    count, `target[n]` is its token id, `predictor[n]` the flat position that predicts it, and
    `example[n]` and `continuation[n]` the row and the continuation that it belongs to.
    """

    def __init__(
        self, prompts: Sequence[Ids], continuations: Sequence[Sequence[Ids]], is_counted: Flags | None = None
    ) -> None:
        self.ids = pad([np.concatenate([p, *c]) for p, c in zip(prompts, continuations, strict=True)], 0)
        self.branches = np.full(self.ids.shape, -1)  # 0: prompt, k + 1: continuation k, -1: padding
        self.position_ids = np.zeros(self.ids.shape, dtype=np.int64)
        predictor, target, example, continuation = [], [], [], []
        width = self.ids.shape[1]
        for n, (prompt, group) in enumerate(zip(prompts, continuations, strict=True)):
            begin = len(prompt)
            self.branches[n, :begin] = 0
            self.position_ids[n, :begin] = np.arange(begin)
            for k, tokens in enumerate(group):
                end = begin + len(tokens)
                self.branches[n, begin:end] = k + 1
                self.position_ids[n, begin:end] = np.arange(len(prompt), len(prompt) + len(tokens))
                previous = np.arange(begin - 1, end - 1)
                # the prompt's last token predicts every continuation's first
                previous[:1] = len(prompt) - 1
                predictor.append(previous + n * width)
                target.append(tokens)
                example.append(np.full(len(tokens), n))
                continuation.append(np.full(len(tokens), k))
                begin = end
        self.predictor, self.target = np.concatenate(predictor), np.concatenate(target)
        self.example, self.continuation = np.concatenate(example), np.concatenate(continuation)
        if is_counted is not None and not is_counted.all():
            self.predictor, self.target = self.predictor[is_counted], self.target[is_counted]
            self.example, self.continuation = self.example[is_counted], self.continuation[is_counted]
        self.shape = (len(prompts), len(continuations[0]))

    def mask(self) -> NDArray[np.bool_]:
        """Return (B, 1, T, T): a token sees the earlier tokens of the prompt and of its own
        continuation.
        """
        key_branch, query_branch = self.branches[:, None, :], self.branches[:, :, None]
        causal = np.tril(np.ones((self.ids.shape[1],) * 2, dtype=np.bool_))
        allowed: NDArray[np.bool_] = ((key_branch == 0) | (key_branch == query_branch))[:, None] & causal
        return allowed


@torch.inference_mode()
def _score_batch(model: LoadedModel, rows: _Rows) -> tuple[Floats, Ids]:
    """Return log-probabilities (B, K) and numbers of correct tokens (B, K)."""
    device = model.device
    mask = position_ids = None
    if rows.shape[1] > 1:
        mask = torch.from_numpy(rows.mask()).to(device)
        position_ids = torch.from_numpy(rows.position_ids).to(device)
    # Several targets can share a predictor: the prompt's last token predicts the first one of each
    # continuation.
    positions, state_of_target = np.unique(rows.predictor, return_inverse=True)
    target = torch.from_numpy(rows.target).to(device)
    with model.autocast():
        states = model.states(
            torch.from_numpy(rows.ids).to(device), torch.from_numpy(positions).to(device), mask, position_ids
        )
        state_index = torch.from_numpy(state_of_target).to(device)
        logprob = torch.empty(len(state_of_target), device=device)
        is_correct = torch.empty(len(state_of_target), dtype=torch.bool, device=device)
        step = max_predicted(model)
        for first in range(0, len(positions), step):
            logits = model.logits(states[first : first + step])
            targets = torch.nonzero((state_index >= first) & (state_index < first + step))[:, 0]
            row = state_index[targets] - first
            logprob[targets] = logits[row, target[targets]] - logits.logsumexp(dim=1)[row]
            is_correct[targets] = logits.argmax(dim=1)[row] == target[targets]
    logprobs, correct_tokens = np.zeros(rows.shape), np.zeros(rows.shape, dtype=np.int64)
    np.add.at(logprobs, (rows.example, rows.continuation), logprob.cpu().numpy().astype(np.float64))
    np.add.at(correct_tokens, (rows.example, rows.continuation), is_correct.cpu().numpy())
    return logprobs, correct_tokens


def _can_share_prompts(model: LoadedModel) -> bool:
    """Whether rows with several continuations give the scores of separate rows.

    Tested once per model.
    """
    if model.can_share_prompts is None:
        model.can_share_prompts = _test_prompt_sharing(model)
    return model.can_share_prompts


def _test_prompt_sharing(model: LoadedModel) -> bool:
    config = model.module.config.get_text_config()
    if getattr(config, "sliding_window", None):
        return False  # the window would count the tokens of other labels
    size = model.vocabulary_size
    prompts = [np.arange(1, 4) % size, np.arange(2, 7) % size]
    group = [np.array([5, 6]) % size, np.array([7]) % size, np.array([8, 9, 10]) % size]
    try:
        together = _score_batch(model, _Rows(prompts, [group, group]))[0]
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    separate = np.stack(
        [_score_batch(model, _Rows(prompts, [(continuation,)] * 2))[0][:, 0] for continuation in group], axis=1
    )
    tolerance = 1e-3 if model.dtype is torch.float32 else 0.1
    return bool(np.allclose(together, separate, atol=tolerance))


# ----------------------------------------------------------------------------------------- encoders
def class_logprobs(model: LoadedModel, ids: Sequence[Ids], segments: Sequence[Ids] | None) -> Floats:
    """Return the log-probability in nats of each class, (N, labels)."""
    result = np.zeros((len(ids), int(model.module.config.num_labels)))
    pad_id = model.pad_id

    @torch.inference_mode()
    def compute(batch: Ids) -> None:
        batch_segments = None if segments is None else [segments[i] for i in batch]
        tokens, mask, segment_ids = class_inputs([ids[i] for i in batch], batch_segments, pad_id)
        with model.autocast():
            logits = model.class_logits(tokens, mask, segment_ids)
        result[batch] = logits.log_softmax(dim=1).cpu().numpy()

    _in_batches(model, np.array([len(example) for example in ids], dtype=np.int64), compute)
    return result


def _in_batches(model: LoadedModel, lengths: Ids, compute: Callable[[Ids], None]) -> None:
    """Call `compute` on batches of similar length.

    If memory runs out, split the batch in two and retry.
    """
    model.module.eval()
    waiting = token_batches(lengths, max_tokens(model))
    while waiting:
        batch = waiting.pop()
        try:
            compute(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                message, remedy = (
                    "one example does not fit into memory",
                    "lower backend.max_length, or use a smaller model",
                )
                raise BackendError(Failure(FailureKind.OUT_OF_MEMORY, message, remedy)) from error
            waiting += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
