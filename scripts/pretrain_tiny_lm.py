"""Pre-train `builtin:tiny-lm` from scratch: `python scripts/pretrain_tiny_lm.py`.

A Llama of about a million parameters reads a few million tokens of generated, unlabelled text
(tiny_lm_text.py) in half an hour on one core. The same machine reproduces the same model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tiny_lm_text import SECTION_BREAK, passages  # noqa: E402

CARD = """\
# builtin:tiny-lm

A causal language model of {parameters:,} parameters (Llama architecture, 4 layers of width 128, byte-level BPE), made
for trying out finesweep offline. It knows a small world of people, things and places and has no other use.

| | |
|---|---|
| data | generated, unlabelled English about the world of `builtin:nli` (`scripts/tiny_lm_text.py`), see below |
| training | {steps:,} steps of {passages_per_step} passages, {tokens:,} tokens, AdamW |
| pre-training learning rate | {learning_rate:g} (peak; `learning_rate_multiplier` is relative to it) |
| loss | a remark's tokens have weight {remark_weight:g}, all others 1 |
| final loss | {final_loss} nats per token unweighted, {final_loss_of_remarks} per token of a remark |
| made with | one run of `scripts/pretrain_tiny_lm.py` without options; torch {torch}, transformers {transformers} |
| licence | Apache-2.0: the generator and all of its words are our own |

The text consists of statements about words and of events with a claim. Words such as `So`, `Maybe` and `It is wrong
that` join the claim to the event, or a remark such as `Of course.` follows it. The text therefore teaches which claims
follow from which events, but in other words than the task's. It contains all words of all splits, none of the task's
labels, and no premise that a labelled pair may use.
"""

SEED = 0
STEPS = 5000
PASSAGES_PER_STEP = 64
LEARNING_RATE = 3e-3
"""The peak rate.

The rate rises over the first hundred steps, stays, and falls over the last two fifths.
"""

REMARK_WEIGHT = 6.0
"""The weight of a remark's tokens in the pre-training loss."""

PAD, END = "<|pad|>", "<|end|>"
LABELS = ("entailment", "neutral", "contradiction", "yes", "no", "true", "false", "positive", "negative", "spam", "ham")
"""Words that tasks use as labels.

Each is one token, so that all tasks start equal. No pre-training text has one.
"""


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer: every word of the world is one token, other text falls
    back to bytes.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = [passage.text + passage.remark for passage in itertools.islice(passages(seed=1), 40_000)]
    text += [f" {word}" for word in LABELS] * 500 + [SECTION_BREAK] * 500
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=512)


def batches(tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield padded batches of passages of similar length: token ids (B, T) and loss weights (B, T -
    1).

    The weights are those of all tokens except the first. A remark has a few of about thirty tokens,
    but only these depend on the relation between two whole sentences. Their weight is therefore
    REMARK_WEIGHT; other tokens have weight 1 and padding 0. Text and remark are tokenized
    separately, as the local backend does with prompt and completion, because a line break at that
    boundary is then a different token than inside a text.
    """
    text, rng, size = passages(SEED), Random(SEED), PASSAGES_PER_STEP
    while True:
        rows = []
        for passage in itertools.islice(text, size * 16):
            text_ids, remark_ids = (
                tokenizer(part)["input_ids"] if part else [] for part in (passage.text, passage.remark)
            )
            weights = [1.0] * len(text_ids) + [REMARK_WEIGHT] * len(remark_ids)
            rows.append(([*text_ids, *remark_ids, tokenizer.eos_token_id], [*weights, 1.0]))
        rows.sort(key=lambda row: len(row[0]))
        chunks = [rows[first : first + size] for first in range(0, len(rows), size)]
        for chunk in rng.sample(chunks, len(chunks)):
            longest = len(chunk[-1][0])
            ids_of = [ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in chunk]
            weights_of = [weights + [0.0] * (longest - len(weights)) for _, weights in chunk]
            yield torch.tensor(ids_of), torch.tensor(weights_of)[:, 1:]


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return a Llama with random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.05,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def token_losses(model: LlamaForCausalLM, ids: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy (nats) of every token but the first, given those before it: (B, T)
    -> (B, T - 1).

    The tokens `unused` (N,) occur in no text. The softmax leaves them out. Otherwise each step
    would push them further down, and a task with these labels would start with more than 15 nats
    per token.
    """
    logits = model(input_ids=ids).logits[:, :-1].index_fill(2, unused, -torch.inf)  # (B, T - 1, V)
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


@dataclass
class Progress:
    """Steps and tokens so far, and running means of the loss (nats per token), mostly of the last
    hundred steps.
    """

    steps: int = 0
    tokens: int = 0
    loss: float | None = None
    loss_of_remarks: float | None = None

    def add(self, losses: torch.Tensor, weights: torch.Tensor) -> None:
        """Count a step with losses and weights (B, T - 1).

        A step without remarks leaves the mean of remarks unchanged.
        """
        self.steps += 1
        self.tokens += int((weights > 0).sum())
        self.loss = _running(self.loss, losses[weights > 0])
        self.loss_of_remarks = _running(self.loss_of_remarks, losses[weights == REMARK_WEIGHT])


def _running(mean: float | None, losses: torch.Tensor) -> float | None:
    if not len(losses):
        return mean
    new = float(losses.mean())
    return new if mean is None else 0.98 * mean + 0.02 * new


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int) -> Progress:
    """Train the model in place and return the final progress."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    unused = torch.tensor(
        [tokenizer.convert_tokens_to_ids(f"\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}{word}") for word in LABELS]
    )
    progress, began = Progress(), time.monotonic()
    for step, (ids, weights) in enumerate(itertools.islice(batches(tokenizer), steps)):
        decay = (steps - step) / (0.4 * steps)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100, max(0.02, decay))
        losses = token_losses(model, ids, unused)  # (B, T - 1)
        ((losses * weights).sum() / weights.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        progress.add(losses.detach(), weights)
        if (step + 1) % 100 == 0:
            means = f"loss {progress.loss:.4f}, of remarks {progress.loss_of_remarks:.4f}"
            print(f"{step + 1:6d} {means} {progress.tokens:9d} tokens {time.monotonic() - began:6.0f} s", flush=True)
    return progress


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, progress: Progress, out: Path) -> None:
    """Write weights, tokenizer, model card and training.json to `out`."""
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    facts = {
        "learning_rate": LEARNING_RATE,
        "source": "the peak rate of its own pre-training, scripts/pretrain_tiny_lm.py",
        "steps": progress.steps,
        "passages_per_step": PASSAGES_PER_STEP,
        "tokens": progress.tokens,
        "final_loss": round(progress.loss, 4),
        "remark_weight": REMARK_WEIGHT,
        "final_loss_of_remarks": round(progress.loss_of_remarks, 4),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": SEED,
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(CARD.format(**facts), encoding="utf-8")


def main() -> None:
    """Pre-train the model and write its directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "backends/local/models/tiny_lm")
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer for a trial run")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    transformers.utils.logging.disable_progress_bar()

    tokenizer = make_tokenizer(vocabulary=1024)
    model = make_model(tokenizer).train()
    progress = train(model, tokenizer, options.steps)
    save(model, tokenizer, progress, options.out)


if __name__ == "__main__":
    main()
