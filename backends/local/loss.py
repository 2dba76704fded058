"""The training loss, as sums over a micro-batch that add up to the mean over the effective batch.

Language model: sum of w * nll over the tokens, divided by the sum of w over the *whole effective batch*, where nll is
a token's negative log-likelihood in nats and w is 1 for completion tokens (stop sequence and end-of-sequence included)
and `prompt_loss_weight` for prompt tokens. The first token of an example is predicted from nothing: it has no loss.
With a weight of 0 the prompt has no influence but as context.

Classifier: the mean negative log-likelihood of the right label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from backends.local.encoding import CausalData, ClassData, Data, Ids, pad
from backends.local.model import LoadedModel


def total_weight(data: Data, batch: Ids, prompt_loss_weight: float) -> float:
    """Return the sum of the weights of an effective batch."""
    if isinstance(data, ClassData):
        return float(len(batch))
    starts = data.starts[batch]
    completions = sum(len(data.ids[i]) for i in batch) - int(starts.sum())
    return completions + prompt_loss_weight * float((starts - 1).sum())


def summed_loss(model: LoadedModel, data: Data, batch: Ids, prompt_loss_weight: float) -> Tensor:
    """Return the weighted sum of the negative log-likelihoods of some examples, a scalar with gradients."""
    if isinstance(data, ClassData):
        return _class_loss(model, data, batch)
    return _causal_loss(model, data, batch, prompt_loss_weight)


def _causal_loss(model: LoadedModel, data: CausalData, batch: Ids, prompt_loss_weight: float) -> Tensor:
    rows = [data.ids[i] for i in batch]
    ids = pad(rows, 0)  # (B, T)
    width = ids.shape[1]
    lengths = np.array([len(each) for each in rows])[:, None]
    starts, column = data.starts[batch][:, None], np.arange(1, width)[None, :]
    weights = np.where(column >= starts, 1.0, prompt_loss_weight) * (column < lengths)  # (B, T - 1), of the next token
    row, target = np.nonzero(weights)
    where = row * width + target  # the state before a token predicts it: one position to the left of column target + 1
    to = model.device
    logits = model.logits(model.states(torch.from_numpy(ids).to(to), torch.from_numpy(where).to(to)))
    wanted = torch.from_numpy(ids[row, target + 1]).to(to)
    nll = functional.cross_entropy(logits, wanted, reduction="none")
    return nll @ torch.from_numpy(weights[row, target]).to(to, nll.dtype)


def class_inputs(
    rows: Sequence[Ids], segments: Sequence[Ids] | None, pad_id: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return ids (B, T), the attention mask (None where nothing is padded) and segment ids of an encoder's batch."""
    ids = pad(rows, pad_id)
    lengths = np.array([len(each) for each in rows])[:, None]
    mask = (np.arange(ids.shape[1])[None, :] < lengths).astype(np.int64)
    return (
        torch.from_numpy(ids),
        None if mask.all() else torch.from_numpy(mask),
        None if segments is None else torch.from_numpy(pad(segments, 0)),
    )


def _class_loss(model: LoadedModel, data: ClassData, batch: Ids) -> Tensor:
    segments = None if data.segments is None else [data.segments[i] for i in batch]
    ids, mask, types = class_inputs([data.ids[i] for i in batch], segments, model.tokenizer.pad_token_id or 0)
    logits = model.class_logits(ids, mask, types)
    return functional.cross_entropy(logits, torch.from_numpy(data.labels[batch]).to(model.device), reduction="sum")
