"""Text generation: batches of prompts with a key-value cache, on any causal model of transformers.

A copy of this module travels with a packaged model. It stands alone: it imports nothing of this
software.

- Prompts are sorted by length and padded on the left. A batch is as large as `batches` allows.
- A row that has ended leaves the batch, so that the model computes only the unfinished ones.
- Without sampling, a text depends only on the model and the prompt. With sampling, also on the
  seed. Rounding aside, it never depends on the other prompts of the call.
"""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from transformers.cache_utils import DynamicLayer

MAX_ROWS = {"cpu": 64, "mps": 64, "cuda": 256}
"""The most prompts in one batch."""
MAX_PROMPT_TOKENS = {"cpu": 8192, "mps": 8192, "cuda": 65536}
"""The most tokens, padding included, that one forward pass over the prompts of a batch has."""
MAX_CACHE_BYTES = {"cpu": 2**29, "mps": 2**30, "cuda": 2**32}
"""The most bytes of keys and values of a batch, if each of its answers has the maximal length."""
MAX_LOGITS = 2**25
"""The most logits in memory at once (128 MiB in float32)."""

CONTEXT_TOKENS = 8
"""How many tokens before a text to decode together with it: some tokenizers drop the space before
the first token of a text.
"""

_LEAVING_SHARE = 1 / 8
"""Rows leave a batch when at least this share of it has ended: each departure copies the cache."""
_MAX_PADDING = 1.2
"""The most tokens to compute for the prompts of a batch, per token of the prompts. Prompts of
different lengths are computed in several passes.
"""
_SPARE_TOKENS = 64
"""For how many more tokens a full cache is enlarged."""
_LIKELY_TOKENS = 1024
"""Among how many tokens to look for the most probable ones that together reach `top_p`."""


class GenerativeModel(Protocol):
    """A causal language model in memory. `dtype` is the data type of its computations."""

    module: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> Any:
        """Return the context of a forward pass."""


@dataclass(frozen=True)
class GenerationSettings:
    """How to generate.

    A text ends before one of the `stops`, at one of the `end_tokens`, after `max_tokens`, or when
    prompt and text together have `max_length` tokens. With temperature 0 each token is the most
    probable one. Otherwise it is drawn from the most probable tokens that together have the
    probability `top_p`; the draw depends only on `seed` and the prompt.
    """

    max_tokens: int
    max_length: int
    end_tokens: frozenset[int]
    stops: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def max_prompt_tokens(self) -> int:
        """The most tokens of a prompt: it leaves room for an answer of `max_tokens`, or of half of
        `max_length` if that is less.
        """
        return max(1, self.max_length - min(self.max_tokens, self.max_length // 2))


@dataclass(frozen=True)
class GeneratedAnswer:
    """A generated text without its stop text, and its number of tokens.

    `truncated`: it has neither ended by itself nor at a stop text.
    """

    text: str
    tokens: int
    truncated: bool


def generate(
    model: GenerativeModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    is_out_of_memory: Callable[[BaseException], bool],
) -> list[GeneratedAnswer]:
    """Generate one text for each prompt, in the order of the prompts.

    A prompt has at least one token. If memory runs out, the batch is split in two; the library's
    own error passes if a single prompt needs too much.
    """
    module = model.module
    module.eval()
    stops = _StopTexts(model.tokenizer, settings.stops)
    rows = [_Row(list(map(int, prompt)), settings) for prompt in prompts]
    waiting = batches(model, [len(row.prompt) for row in rows], settings)
    while waiting:
        batch = waiting.pop()
        try:
            _generate_batch(model, [rows[n] for n in batch], settings, stops)
            continue
        except (RuntimeError, MemoryError) as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        for n in batch:
            rows[n] = _Row(rows[n].prompt, settings)
        waiting += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
    return [row.answer(model.tokenizer, settings.stops) for row in rows]


# ----------------------------------------------------------------------------------------- batches
def batches(model: GenerativeModel, lengths: Sequence[int], settings: GenerationSettings) -> list[list[int]]:
    """Return batches of prompt indices of similar length, of about the same number of prompts.

    A batch holds a single prompt, or respects the limits at the top of this module.
    """
    if not lengths:
        return []
    device = model.device.type
    config = model.module.config.get_text_config()
    bytes_per_token = cache_bytes_per_token(config, model.dtype)
    max_rows = max(1, min(MAX_ROWS.get(device, 64), MAX_LOGITS // int(config.vocab_size)))
    max_rows = -(-len(lengths) // -(-len(lengths) // max_rows))  # 65 prompts are 33 and 32, not 64 and 1
    max_cache_tokens = MAX_CACHE_BYTES.get(device, 2**29) // bytes_per_token
    max_prompt_tokens = MAX_PROMPT_TOKENS.get(device, 8192)
    if "logits_to_keep" not in inspect.signature(model.module.forward).parameters:
        max_prompt_tokens = min(max_prompt_tokens, MAX_LOGITS // int(config.vocab_size))
    can_pad = len(set(lengths)) == 1 or _can_pad(model)
    result: list[list[int]] = []
    batch: list[int] = []
    for n in sorted(range(len(lengths)), key=lengths.__getitem__):
        length, count = lengths[n], len(batch) + 1
        is_full = (
            count > max_rows
            or count * length > max_prompt_tokens
            or count * (length + settings.max_tokens) > max_cache_tokens
            or (not can_pad and batch and lengths[batch[0]] != length)
        )
        if batch and is_full:
            result.append(batch)
            batch = []
        batch.append(n)
    return [*result, batch]


def cache_bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Return the bytes of keys and values of one token in all layers of a model."""
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    key_value_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2 * int(config.num_hidden_layers) * key_value_heads * width * dtype.itemsize


@torch.inference_mode()
def _can_pad(model: GenerativeModel) -> bool:
    """Test whether padding on the left leaves a prompt's logits as they are."""
    size = int(model.module.config.get_text_config().vocab_size)
    short, long = ([number % size for number in numbers] for numbers in ((3, 5, 4), (7, 3, 6, 5, 9, 4, 8)))
    try:
        padded = _Batch(model, [short, long]).logits[0]
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    tolerance = 1e-3 if model.dtype is torch.float32 else 0.25
    return torch.allclose(padded, _Batch(model, [short]).logits[0], atol=tolerance, rtol=tolerance / 10)


# --------------------------------------------------------------------------------------- generation
@dataclass
class _Row:
    """A prompt and the tokens generated so far, without the token that ended them."""

    prompt: list[int]
    settings: GenerationSettings
    tokens: list[int] = field(default_factory=list)
    has_ended: bool = False
    truncated: bool = False

    def __post_init__(self) -> None:
        self.limit = min(self.settings.max_tokens, self.settings.max_length - len(self.prompt))
        self.has_ended = self.truncated = self.limit < 1
        content = ",".join(map(str, [self.settings.seed, *self.prompt]))
        self.random = random.Random(int.from_bytes(hashlib.sha256(content.encode()).digest()))

    def add(self, token: int, stops: _StopTexts) -> None:
        """Take the next token."""
        if token in self.settings.end_tokens:
            self.has_ended = True
            return
        self.tokens.append(token)
        self.has_ended = stops.found(self.prompt, self.tokens)
        if not self.has_ended and len(self.tokens) >= self.limit:
            self.has_ended = self.truncated = True

    def answer(self, tokenizer: Any, stops: Sequence[str]) -> GeneratedAnswer:
        text = text_of(tokenizer, self.prompt, self.tokens)
        ends = [end for stop in stops if (end := text.find(stop)) >= 0]
        return GeneratedAnswer(text[: min(ends)] if ends else text, len(self.tokens), self.truncated)


@torch.inference_mode()
def _generate_batch(
    model: GenerativeModel, rows: Sequence[_Row], settings: GenerationSettings, stops: _StopTexts
) -> None:
    rows = [row for row in rows if not row.has_ended]
    if not rows:
        return
    batch = _started(model, [row.prompt for row in rows])
    while True:
        tokens = _next_tokens(batch.logits, rows, settings)
        for row, token in zip(rows, tokens, strict=True):
            if not row.has_ended:
                row.add(token, stops)
        unfinished = [n for n, row in enumerate(rows) if not row.has_ended]
        if not unfinished:
            return
        if len(rows) - len(unfinished) >= _LEAVING_SHARE * len(rows) and batch.keep(unfinished):
            rows, tokens = [rows[n] for n in unfinished], [tokens[n] for n in unfinished]
        # The position of a row that has ended stays, so that it never exceeds the model's.
        batch.advance(tokens, [len(row.prompt) + len(row.tokens) - 1 for row in rows])


def _started(model: GenerativeModel, prompts: Sequence[Sequence[int]]) -> _Batch:
    """Compute prompts in ascending order of length, with little padding."""
    groups: list[list[Sequence[int]]] = [[]]
    for prompt in prompts:
        group = groups[-1]
        if (len(group) + 1) * len(prompt) > _MAX_PADDING * (sum(map(len, group)) + len(prompt)):
            groups.append(group := [])
        group.append(prompt)
    batch = _Batch(model, groups[0])
    if len(groups) == 1:
        return batch
    if not batch.can_join:
        return _Batch(model, prompts)
    batch.join([_Batch(model, group) for group in groups[1:]])
    return batch


class _Batch:
    """The cache of B sequences. `logits` (B, V) are those of the next token of each.

    A model that returns no cache of the usual kind computes the whole sequences each time.
    """

    def __init__(self, model: GenerativeModel, prompts: Sequence[Sequence[int]]) -> None:
        """Compute the prompts."""
        self._model = model
        self._parameters = inspect.signature(model.module.forward).parameters
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        is_token = torch.arange(width)[None, :] >= width - lengths[:, None]
        self._ids = ids.to(model.device)  # (B, T)
        self._mask = None if bool(is_token.all()) else is_token.long().to(model.device)  # (B, T)
        self._cache: Any = None
        self.logits: Tensor
        self._compute_all()

    def advance(self, tokens: Sequence[int], positions: Sequence[int]) -> None:
        """Append one token to each sequence."""
        device = self._model.device
        column = torch.tensor(tokens, device=device)[:, None]
        if self._mask is not None:
            self._mask = functional.pad(self._mask, (0, 1), value=1)
        if self._cache is None:
            self._ids = torch.cat([self._ids, column], dim=1)
            self._compute_all()
        else:
            self._forward(column, torch.tensor(positions, device=device)[:, None])

    def keep(self, rows: Sequence[int]) -> bool:
        """Keep these rows only. Return False if the cache of the model allows no such thing."""
        index = torch.tensor(rows, device=self._model.device)
        if self._cache is None:
            self._ids = self._ids.index_select(0, index)
        elif hasattr(self._cache, "reorder_cache"):
            self._cache.reorder_cache(index)
        else:
            return False
        if self._mask is not None:
            self._mask = self._mask.index_select(0, index)
        return True

    @property
    def can_join(self) -> bool:
        """Whether the cache consists of keys and values only."""
        return self._cache is not None and all(type(layer) is _RoomyLayer for layer in self._cache.layers)

    def join(self, others: Sequence[_Batch]) -> None:
        """Add the sequences of other batches after those of this one."""
        parts = [self, *others]
        width = max(part._ids.shape[1] for part in parts)
        masks = [torch.ones_like(part._ids) if part._mask is None else part._mask for part in parts]
        self._mask = torch.cat([functional.pad(mask, (width - mask.shape[1], 0)) for mask in masks])
        self.logits = torch.cat([part.logits for part in parts])
        for layers in zip(*(part._cache.layers for part in parts), strict=True):
            layers[0].join(layers[1:], width)

    def _compute_all(self) -> None:
        is_token = torch.ones_like(self._ids) if self._mask is None else self._mask
        output = self._forward(self._ids, (is_token.cumsum(1) - 1).clamp(min=0))
        self._cache = _with_spare_room(getattr(output, "past_key_values", None))

    def _forward(self, ids: Tensor, positions: Tensor) -> Any:
        candidates = {"position_ids": positions, "logits_to_keep": 1, "past_key_values": self._cache}
        options = {name: value for name, value in candidates.items() if name in self._parameters}
        with self._model.autocast():
            output = self._model.module(input_ids=ids, attention_mask=self._mask, use_cache=True, **options)
        self.logits = output.logits[:, -1]
        return output


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer whose keys and values (B, heads, T, width) are the used part of larger tensors.

    The library's own layer copies everything for each token.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.keys, self.values = layer.keys, layer.values
        self._stores = [layer.keys, layer.values]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        used = self.keys.shape[-2]
        needed = used + key_states.shape[-2]
        if needed > self._stores[0].shape[-2]:
            self._stores = [functional.pad(store, (0, 0, 0, _SPARE_TOKENS)) for store in self._stores]
        for store, states in zip(self._stores, (key_states, value_states), strict=True):
            store[:, :, used:needed] = states
        self.keys, self.values = (store[:, :, :needed] for store in self._stores)
        return self.keys, self.values

    def join(self, others: Sequence[_RoomyLayer], width: int) -> None:
        """Add the rows of other layers, and pad all on the left to `width` tokens."""
        parts = [self, *others]
        self._stores = [
            torch.cat([functional.pad(states, (0, 0, width - states.shape[-2], 0)) for states in all_states])
            for all_states in ([part.keys for part in parts], [part.values for part in parts])
        ]
        self.keys, self.values = self._stores

    def reorder_cache(self, beam_idx: Tensor) -> None:
        used = self.keys.shape[-2]
        self._stores = [store.index_select(0, beam_idx) for store in self._stores]
        self.keys, self.values = (store[:, :, :used] for store in self._stores)


def _with_spare_room(cache: Any) -> Any:
    """Replace the ordinary layers of a cache by layers that seldom copy their content."""
    for n, layer in enumerate(getattr(cache, "layers", ())):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[n] = _RoomyLayer(layer)
    return cache


# ---------------------------------------------------------------------------------------- choosing
def _next_tokens(logits: Tensor, rows: Sequence[_Row], settings: GenerationSettings) -> list[int]:
    """Choose the next token of each row of logits (B, V)."""
    if settings.temperature <= 0:
        return [int(token) for token in logits.argmax(dim=-1).tolist()]
    draws = torch.tensor([row.random.random() for row in rows], dtype=torch.float64)
    probabilities = (logits.float().cpu().double() / settings.temperature).softmax(dim=-1)
    return [drawn_token(row, float(draw), settings.top_p) for row, draw in zip(probabilities, draws, strict=True)]


def drawn_token(probabilities: Tensor, draw: float, top_p: float) -> int:
    """Return the token that `draw` in [0, 1) selects from the most probable tokens that together
    have the probability `top_p`; `probabilities` is (V,).
    """
    if top_p >= 1:
        return _selected(probabilities, draw)
    likely, tokens = probabilities.topk(min(_LIKELY_TOKENS, len(probabilities)))
    if float(likely.sum()) < top_p:
        likely, tokens = probabilities.sort(descending=True, stable=True)
    count = int((likely.cumsum(0) - likely < top_p).sum())
    return int(tokens[_selected(likely[: max(count, 1)], draw)])


def _selected(weights: Tensor, draw: float) -> int:
    cumulative = weights.cumsum(0)
    index = int(torch.searchsorted(cumulative, draw * cumulative[-1], right=True))
    return min(index, len(weights) - 1)


# ------------------------------------------------------------------------------------------- texts
def text_of(tokenizer: Any, before: Sequence[int], tokens: Sequence[int], *, skip_special_tokens: bool = True) -> str:
    """Decode tokens that follow others."""
    options = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
    context = list(before[-CONTEXT_TOKENS:])
    start, whole = tokenizer.decode(context, **options), tokenizer.decode([*context, *tokens], **options)
    return str(whole[len(start) :] if whole.startswith(start) else tokenizer.decode(list(tokens), **options))


class _StopTexts:
    """Finds out whether the newest token completes a stop text, at a cost that does not grow with
    the text.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._last_characters = {stop[-1] for stop in self._stops}
        # A token is at least one character, or a byte of a character that has up to four.
        self._tail = CONTEXT_TOKENS + 4 * max(map(len, self._stops), default=0)
        self._may_complete: dict[int, bool] = {}
        self._anchor = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"][:1] if self._stops else []

    def found(self, prompt: Sequence[int], tokens: Sequence[int]) -> bool:
        """Whether the text has a stop text, if it had none before its last token."""
        if not self._stops or not self._can_complete(tokens[-1]):
            return False
        start = max(0, len(tokens) - self._tail)
        before = [*prompt[-CONTEXT_TOKENS:], *tokens[max(0, start - CONTEXT_TOKENS) : start]]
        tail = text_of(self._tokenizer, before, tokens[start:])
        if not any(stop in tail for stop in self._stops):
            return False
        text = text_of(self._tokenizer, prompt, tokens)
        return any(stop in text for stop in self._stops)

    def _can_complete(self, token: int) -> bool:
        """Whether the token's text has the last character of a stop text, or is not known alone."""
        if token not in self._may_complete:
            text = text_of(self._tokenizer, self._anchor, [token])
            self._may_complete[token] = not text or "\ufffd" in text or not self._last_characters.isdisjoint(text)
        return self._may_complete[token]
