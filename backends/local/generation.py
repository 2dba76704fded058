"""Text generation with a loaded model: the only way in which this backend generates.

Evaluations during training and predictions of kept models give the same texts, because both call
`generate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backends.contract import BackendError, Decoding, Failure, FailureKind
from backends.local.example_template import ExampleTemplate
from backends.local.failures import is_out_of_memory
from backends.local.model import LoadedModel
from backends.local.special_tokens import check_token_ids, end_ids
from backends.model_packages import text_generation
from backends.model_packages.text_generation import GeneratedAnswer, GenerationSettings


def generate(
    model: LoadedModel,
    template: ExampleTemplate,
    lines: Sequence[Mapping[str, Any]],
    decoding: Decoding,
    max_length: int,
    seed: int = 0,
) -> list[GeneratedAnswer]:
    """Generate one text for the prompt of each line, in the order of the lines.

    Prompt and text together have at most `max_length` tokens. A prompt that leaves too little room
    loses its beginning. The model stays in evaluation mode. Raises BackendError (out_of_memory) if
    one example does not fit into memory.
    """
    settings = generation_settings(model, template, decoding, max_length, seed)
    prompts, _ = template.tokenize_prompts(lines, settings.max_prompt_tokens)
    if model.source.vocabulary_size is not None:
        check_token_ids(prompts, model.source.vocabulary_size, model.tokenizer, model.source.name)
    try:
        return text_generation.generate(model, prompts, settings, is_out_of_memory)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = "generating the text of one example does not fit into memory"
        remedy = "lower max_tokens or backend.max_length, or use a smaller model"
        raise BackendError(Failure(FailureKind.OUT_OF_MEMORY, message, remedy)) from error


def prompt_room(decoding: Decoding, max_length: int) -> int:
    """Return the most tokens of a prompt beside an answer of this decoding."""
    return GenerationSettings(decoding.max_tokens, max_length, frozenset()).max_prompt_tokens


def generation_settings(
    model: LoadedModel, template: ExampleTemplate, decoding: Decoding, max_length: int, seed: int = 0
) -> GenerationSettings:
    """Return `decoding` together with what ends a text of this model and data set."""
    return GenerationSettings(
        max_tokens=decoding.max_tokens,
        max_length=max_length,
        end_tokens=end_ids(model.tokenizer, model.module),
        stops=tuple(stop for stop in dict.fromkeys((template.stop_text, *decoding.stop)) if stop),
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=seed,
    )
