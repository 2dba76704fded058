"""The last layer of a model, computed only at positions whose output is read.

Positions meet in a layer's attention and nowhere else: its query and output projections and its feed-forward part
treat each one alone. Nothing comes after the last layer, so there they are wasted on positions that nobody reads: all
but the first of an encoder's row, all but those before a completion's tokens where a language model is scored. Keys and
values are needed everywhere. The output that is read, and all gradients, are those of the whole layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_ALONE = (
    *("self_attn.q_proj", "attn.q_proj", "attention.self.query", "attention.self.query_proj", "attention.q_lin"),
    *("self_attn.o_proj", "self_attn.out_proj", "self_attn.dense", "self_attention.dense", "attn.c_proj"),
    *("attn.out_proj", "attn.Wo", "attention.dense", "attention.out_lin", "attention.output"),
    *("mlp", "ffn"),
)
_SPANS = (*((name, name) for name in _ALONE), ("intermediate", "output"))
"""Parts of a layer that treat each position alone, by their names in transformers: first and last module of each."""

_MAX_SHARE = 0.5
"""Of the positions: where more are read, picking them out costs what it saves."""
_TOLERANCE = {torch.float32: 1e-4}
_COARSE_TOLERANCE = 0.1


class LastLayer:
    """Hooks on the last layer of a model. Without effect outside `only`, and for good where `try_out` says so."""

    def __init__(self, body: Any) -> None:
        """`body` is a transformers model without its head, of any architecture."""
        self._usable = True
        self._elsewhere = 0.0  # what the parts give at positions that are not read
        self._where: Tensor | None = None
        self._shape = (0, 0)
        depth = getattr(body.config.get_text_config(), "num_hidden_layers", 0)
        stacks = [each for each in body.modules() if isinstance(each, nn.ModuleList) and len(each) == depth > 0]
        if stacks:
            layer = dict(stacks[0][-1].named_modules())
            for first, last in _SPANS:
                if first in layer and last in layer:
                    for name in {first, last}:
                        layer[name].register_forward_pre_hook(self._pick, with_kwargs=True)
                    layer[last].register_forward_hook(self._put_back)

    @contextmanager
    def only(self, where: Tensor, shape: tuple[int, int]) -> Iterator[None]:
        """Inside the block, forward passes of (B, T) = `shape` are right at the flat positions `where`, each once."""
        if self._usable and len(where) <= _MAX_SHARE * shape[0] * shape[1]:
            self._where, self._shape = where, shape
        try:
            yield
        finally:
            self._where = None

    @torch.inference_mode()
    def try_out(self, compute: Callable[[], Tensor], dtype: torch.dtype) -> bool:
        """Return whether `compute`, which uses `only`, gives what the whole layer gives; else there is no effect.

        Positions that should not be read hold NaN meanwhile, so that a head that reads them is found for certain.
        """
        self._usable = False
        whole = compute()
        self._usable, self._elsewhere = True, math.nan
        try:
            part = compute()
        except (TypeError, RuntimeError, AttributeError, IndexError):
            self._usable = False
        else:
            tolerance = _TOLERANCE.get(dtype, _COARSE_TOLERANCE)
            self._usable = torch.allclose(whole, part, atol=tolerance, rtol=tolerance)
        self._elsewhere = 0.0
        return self._usable

    # ------------------------------------------------------------------------------------------------------------ hooks
    def _pick(self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if self._where is None:
            return None
        return tuple(map(self._picked, given)), {name: self._picked(each) for name, each in named.items()}

    def _picked(self, value: Any) -> Any:
        """Return (1, N, D) of a tensor (B, T, D), and all else as it is, that is also what was picked out before."""
        if self._where is None or not isinstance(value, Tensor) or value.shape[:2] != self._shape:
            return value
        return value.flatten(0, 1).index_select(0, self._where)[None]

    def _put_back(self, module: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        """Return (B, T, D) of an output (1, N, D)."""
        if self._where is None or output.shape[:2] != (1, len(self._where)):
            return None
        batch, length = self._shape
        whole = output.new_full((batch * length, output.shape[-1]), self._elsewhere)
        return whole.index_copy(0, self._where, output[0]).unflatten(0, (batch, length))
