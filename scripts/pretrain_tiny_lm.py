"""Pre-trains `builtin:tiny-lm` from scratch and writes its directory, in two runs:

    python scripts/pretrain_tiny_lm.py --out first
    python scripts/pretrain_tiny_lm.py --go-on-from first --remarked 0.8 --seed 1 --steps 2200

A Llama of about a million parameters reads about five million tokens of generated, unlabelled text (tiny_lm_text.py),
in some 15 minutes on one core. The same seed on the same machine gives the same model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
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
for trying finesweep offline. It knows a small world of people, things and places and is of no other use.

| | |
|---|---|
| data | generated, unlabelled English about the world of `builtin:nli` (`scripts/tiny_lm_text.py`), see below |
| training | {steps:,} steps of {passages_per_step} passages, {tokens:,} tokens, AdamW |
| pre-training learning rate | {learning_rate:g} (peak; `learning_rate_multiplier` is relative to it) |
| final loss | {final_loss} nats a token |
| made with | `scripts/pretrain_tiny_lm.py`, in the two runs that it names; torch {torch}, transformers {transformers} |
| licence | Apache-2.0, as the generator and all of its words are our own |

The text has statements about words, and events with a claim that is joined by words such as `So`, `Maybe` and `It is
not true that`, or followed by a remark such as `That is so.`: it does teach what follows from what, in other words than
the task's. It holds all words of all splits, none of the task's labels, and no premise that a labelled pair may use.
"""

PAD, END = "<|pad|>", "<|end|>"
LABELS = ("entailment", "neutral", "contradiction", "yes", "no", "true", "false", "positive", "negative", "spam", "ham")
"""Words that tasks use as labels: one token each, so that any task begins equal. They occur in no pre-training text."""


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every word of the world is one token, and any other text falls back to bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = list(itertools.islice(passages(seed=1), 40_000))
    text += [f" {word}" for word in LABELS] * 500 + [SECTION_BREAK] * 500
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=512)


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, size: int, remarked: float) -> Iterator[torch.Tensor]:
    """Yield padded batches (size, T) of passages of like length."""
    text, rng = passages(seed, remarked), Random(seed)
    while True:
        encoded = [
            tokenizer(each)["input_ids"] + [tokenizer.eos_token_id] for each in itertools.islice(text, size * 16)
        ]
        encoded.sort(key=len)
        chunks = [encoded[first : first + size] for first in range(0, len(encoded), size)]
        for chunk in rng.sample(chunks, len(chunks)):
            longest = len(chunk[-1])
            yield torch.tensor([each + [tokenizer.pad_token_id] * (longest - len(each)) for each in chunk])


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


def main() -> None:
    """Pre-train, and write weights, tokenizer, card and training.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "backends/local/models/tiny_lm")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=64, help="passages in a batch")
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="the peak; warm-up, constant, linear decay")
    parser.add_argument("--remarked", type=float, default=0.5, help="share of passages that are claims with a remark")
    parser.add_argument("--go-on-from", type=Path, help="a model of an earlier run of this script")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    transformers.utils.logging.disable_progress_bar()

    if options.go_on_from is None:
        tokenizer = make_tokenizer(vocabulary=1024)
        model = make_model(tokenizer)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(options.go_on_from)
        model = LlamaForCausalLM.from_pretrained(options.go_on_from, dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    source = batches(tokenizer, options.seed, options.batch, options.remarked)
    began, tokens, average = time.monotonic(), 0, 0.0
    for step in range(options.steps):
        decay = (options.steps - step) / (0.4 * options.steps)
        rate = options.learning_rate * min(1.0, (step + 1) / 100, max(0.02, decay))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids = next(source)
        read = ids != tokenizer.pad_token_id
        loss = model(input_ids=ids, labels=ids.masked_fill(~read, -100)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += int(read.sum())
        average = loss.item() if step == 0 else 0.98 * average + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            print(f"{step + 1:6d} loss {average:.3f} {tokens:9d} tokens {time.monotonic() - began:6.0f} s", flush=True)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    earlier = {"steps": 0, "tokens": 0}
    if options.go_on_from is not None:
        earlier = json.loads((options.go_on_from / "training.json").read_text(encoding="utf-8"))
    facts = {
        "learning_rate": options.learning_rate,
        "source": "the peak rate of its own pre-training, scripts/pretrain_tiny_lm.py",
        "steps": earlier["steps"] + options.steps,
        "passages_per_step": options.batch,
        "tokens": earlier["tokens"] + tokens,
        "final_loss": round(average, 4),
        "parameters": sum(each.numel() for each in model.parameters()),
        "seed": options.seed,
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }
    (options.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(CARD.format(**facts), encoding="utf-8")


if __name__ == "__main__":
    main()
