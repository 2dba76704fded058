"""The training loss, as sums over a micro-batch that add up to the mean over the effective batch.

Language model: the sum of w * nll over the tokens, divided by the sum of w over the *whole
effective batch*. nll is a token's negative log-likelihood in nats. w is 1 for the targets (the
tokens of trained answers, stop sequence and end-of-sequence included) and `prompt_loss_weight` for
all other tokens. A sequence's first token has no loss, because no token precedes it. With a weight
of 0 the other tokens serve only as context.

Classifier: the mean negative log-likelihood (nats) of the correct label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backends.local.encoded_data import CausalData, ClassData, EncodedData, Ids
from backends.local.encoding import pad
from backends.local.model import LoadedModel


def total_weight(data: EncodedData, batch: Ids, prompt_loss_weight: float) -> float:
    """Return the sum of the loss weights of an effective batch; `batch` holds example indices."""
    if isinstance(data, ClassData):
        return float(len(batch))
    targets = int(data.target_counts[batch].sum())
    others = sum(len(data.ids[i]) - 1 for i in batch) - targets
    return targets + prompt_loss_weight * float(others)


def summed_loss(model: LoadedModel, data: EncodedData, batch: Ids, prompt_loss_weight: float) -> Tensor:
    """Return the weighted sum of the examples' negative log-likelihoods in nats, a scalar with
    gradients.
    """
    if isinstance(data, ClassData):
        return _class_loss(model, data, batch)
    return _causal_loss(model, data, batch, prompt_loss_weight)


def _causal_loss(model: LoadedModel, data: CausalData, batch: Ids, prompt_loss_weight: float) -> Tensor:
    rows = [data.ids[i] for i in batch]
    ids = pad(rows, 0)  # (B, T)
    width = ids.shape[1]
    lengths = np.array([len(row) for row in rows])[:, None]  # (B, 1)
    is_target, column = pad([data.targets[i] for i in batch], 0)[:, 1:], np.arange(1, width)[None, :]
    weights = np.where(is_target, 1.0, prompt_loss_weight) * (column < lengths)  # (B, T - 1), of tokens 1 to T - 1
    row, predictor = np.nonzero(weights)
    positions = row * width + predictor  # the state at column t predicts the token at column t + 1
    device = model.device
    logits = model.logits(model.states(torch.from_numpy(ids).to(device), torch.from_numpy(positions).to(device)))
    targets = torch.from_numpy(ids[row, predictor + 1]).to(device)
    nll = functional.cross_entropy(logits, targets, reduction="none")
    return nll @ torch.from_numpy(weights[row, predictor]).to(device, nll.dtype)


def class_inputs(
    rows: Sequence[Ids], segments: Sequence[Ids] | None, pad_id: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return token ids (B, T), the attention mask (B, T) or None, and segment ids (B, T) or None.

    The mask is None if no row is padded. The segment ids are None if `segments` is None.
    """
    ids = pad(rows, pad_id)
    lengths = np.array([len(row) for row in rows])[:, None]
    mask = (np.arange(ids.shape[1])[None, :] < lengths).astype(np.int64)
    return (
        torch.from_numpy(ids),
        None if mask.all() else torch.from_numpy(mask),
        None if segments is None else torch.from_numpy(pad(segments, 0)),
    )


def _class_loss(model: LoadedModel, data: ClassData, batch: Ids) -> Tensor:
    segments = None if data.segments is None else [data.segments[i] for i in batch]
    ids, mask, segment_ids = class_inputs([data.ids[i] for i in batch], segments, model.pad_id)
    logits = model.class_logits(ids, mask, segment_ids)
    return functional.cross_entropy(logits, torch.from_numpy(data.labels[batch]).to(model.device), reduction="sum")
