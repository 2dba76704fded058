"""The options of the local backend: the YAML's `backend:` mapping."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from backends.local_paths import MayBePath

Task = Literal["causal-lm", "sequence-classification"]
LongPrompts = Literal["cut", "drop", "error"]
LongCompletions = Literal["error", "drop", "cut"]


class LocalOptions(BaseModel):
    """Options of the local backend.

    Unknown keys are errors. The backend never runs code from a model repository.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: Annotated[str, MayBePath()] = Field(
        default="builtin:tiny-lm",
        description="builtin:tiny-lm (a demonstration), builtin:minilm (an encoder, from the extra `encoder`), a local "
        "directory in the transformers layout, or a Hugging Face hub id",
    )
    task: Literal["auto"] | Task = Field(
        default="auto", description="auto: causal-lm for language models, sequence-classification for encoders"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto", description="auto: CUDA if torch sees a GPU, else mps, else the CPU"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="data type of the computations; auto: bfloat16 on GPUs that have it, else float32"
    )
    max_length: int | None = Field(
        default=None, ge=8, description="maximum tokens of one example: prompt and completion"
    )
    long_prompts: LongPrompts = Field(
        default="cut",
        description="a prompt that does not fit beside its completion: cut (the beginning, for an encoder the end), "
        "drop (leave the example out), or error",
        json_schema_extra={"absent_by_default": True},
    )
    long_completions: LongCompletions = Field(
        default="error",
        description="a completion that leaves no room for a prompt: error, drop (leave the example out), or cut (the "
        "end, so that the model never learns to stop there)",
        json_schema_extra={"absent_by_default": True},
    )
    pretraining_learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="peak rate of the base model's pre-training, which learning_rate_multiplier multiplies",
    )
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="examples per forward and backward pass; the effective batch stays batch_size"
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="compute activations again in the backward pass: less memory, about a third more time, same result",
        json_schema_extra={"same_result": True},
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub model")
