"""The last layer of a model, computed only at the positions whose output is read.

Positions interact only in a layer's attention. Its query and output projections and its
feed-forward part treat each position alone. No layer follows the last one, so these parts are
wasted there on every position whose output nobody reads: all but the first of an encoder's row, and
all but those that predict completion tokens when a language model is scored. Keys and values are
needed at every position. The output at the positions that are read, and all gradients, equal those
of the whole layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_SINGLE_MODULES = (
    *("self_attn.q_proj", "attn.q_proj", "attention.self.query", "attention.self.query_proj", "attention.q_lin"),
    *("self_attn.o_proj", "self_attn.out_proj", "self_attn.dense", "self_attention.dense", "attn.c_proj"),
    *("attn.out_proj", "attn.Wo", "attention.dense", "attention.out_lin", "attention.output"),
    *("mlp", "ffn"),
)
_POSITIONWISE_SPANS = (*((name, name) for name in _SINGLE_MODULES), ("intermediate", "output"))
"""The parts of a layer that treat each position alone: first and last module of each part, by
transformers' names.
"""

_MAX_SHARE = 0.5
"""The largest share of positions worth picking out. Above it, picking costs as much as it saves."""
_TOLERANCE = {torch.float32: 1e-4}
_COARSE_TOLERANCE = 0.1


class LastLayer:
    """Hooks that restrict a model's last layer to the positions that are read.

    They have no effect outside `restricted_to`, and none at all once `verify` has returned False.
    """

    def __init__(self, body: Any) -> None:
        """Register the hooks on `body`, a transformers model of any architecture without its
        head.
        """
        self.layer: nn.Module | None = None
        """The last layer; None for an unknown architecture."""
        self._usable = True
        self._fill_value = 0.0  # the output of the hooked parts at positions that are not read
        self._positions: Tensor | None = None
        self._shape = (0, 0)
        depth = getattr(body.config.get_text_config(), "num_hidden_layers", 0)
        stacks = [module for module in body.modules() if isinstance(module, nn.ModuleList) and len(module) == depth > 0]
        if stacks:
            self.layer = stacks[0][-1]
            layer = dict(self.layer.named_modules())
            for first, last in _POSITIONWISE_SPANS:
                if first in layer and last in layer:
                    for name in {first, last}:
                        layer[name].register_forward_pre_hook(self._select_inputs, with_kwargs=True)
                    layer[last].register_forward_hook(self._scatter_output)

    @contextmanager
    def restricted_to(self, positions: Tensor, shape: tuple[int, int]) -> Iterator[None]:
        """Inside the block, a forward pass is guaranteed to be correct only at `positions`.

        `shape` is (B, T), the shape of the pass's token ids. `positions` (N,) are indices into the
        flattened B * T positions, each at most once.
        """
        if self._usable and len(positions) <= _MAX_SHARE * shape[0] * shape[1]:
            self._positions, self._shape = positions, shape
        try:
            yield
        finally:
            self._positions = None

    @torch.inference_mode()
    def verify(self, compute: Callable[[], Tensor], dtype: torch.dtype) -> bool:
        """Return whether `compute`, which uses `restricted_to`, gives the result of the whole
        layer.

        If it does not, the hooks have no effect from then on. During the test, positions that must
        not be read hold NaN, so that a head that reads them fails the test with certainty.
        """
        self._usable = False
        whole = compute()
        self._usable, self._fill_value = True, math.nan
        try:
            partial = compute()
        except (TypeError, RuntimeError, AttributeError, IndexError):
            self._usable = False
        else:
            tolerance = _TOLERANCE.get(dtype, _COARSE_TOLERANCE)
            self._usable = torch.allclose(whole, partial, atol=tolerance, rtol=tolerance)
        self._fill_value = 0.0
        return self._usable

    # ---------------------------------------------------------------------------------------- hooks
    def _select_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._positions is None:
            return None
        return tuple(map(self._select, args)), {name: self._select(value) for name, value in kwargs.items()}

    def _select(self, value: Any) -> Any:
        """Return the selected positions (1, N, D) of a tensor (B, T, D).

        Return any other value unchanged.

        That includes a tensor whose positions have already been selected.
        """
        if self._positions is None or not isinstance(value, Tensor) or value.shape[:2] != self._shape:
            return value
        return value.flatten(0, 1).index_select(0, self._positions)[None]

    def _scatter_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Return an output (1, N, D) at its positions in (B, T, D), with the fill value at all
        others.
        """
        if self._positions is None or output.shape[:2] != (1, len(self._positions)):
            return None
        batch, length = self._shape
        whole = output.new_full((batch * length, output.shape[-1]), self._fill_value)
        return whole.index_copy(0, self._positions, output[0]).unflatten(0, (batch, length))
