"""What a person writes about their data: the `data:` part of the YAML."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sweeps.data.templates import Template

BUILTIN_NLI = "builtin:nli"

Label = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]


class DataSpec(BaseModel):
    """Where the examples come from, how they become prompt and completion, and how they are divided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        min_length=1,
        description="snli | builtin:nli | a file (.jsonl .json .csv .tsv, also .gz) | a directory (the official SNLI "
        "files; train, valid and test files; a saved Hugging Face data set) | hf:owner/name[:config]",
    )
    fallback: str | None = Field(
        None, description="another source, used (and said so) when the source is not there; never for a broken one"
    )
    prompt: str | None = Field(
        None, description="template over columns, as {premise}; records with prompt and completion need none"
    )
    completion: str | None = Field(None, description="template over columns, as ' {label}'")
    separator: str | None = Field(
        None,
        description="ends every prompt. Default: the text after the template's last field where that has a newline or "
        r"punctuation; a known separator that all prompts end with; else '\n\n###\n\n' is appended",
    )
    stop: str | None = Field(
        None,
        description=r"ends every completion. Default: '\n', or a known one that all completions end with; none in chat",
    )
    task: Literal["auto", "classification", "generation"] = Field(
        "auto",
        description="auto: classification where the completions are few (at most 50 different, each three times on "
        "average), short (50 characters) and of one line",
    )
    labels: tuple[Label, ...] | None = Field(
        None, min_length=2, description="the allowed labels; any other is an error with its line"
    )
    validation: Annotated[float, Field(gt=0, lt=1)] | str | None = Field(
        None,
        description="a file, or a fraction of the training examples. Default: the source's own part, else 0.1; "
        "parts of builtin:nli are generated, whatever stands here",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | str | None = Field(None, description="as validation; 0 is no test part")
    train_examples: int | None = Field(
        None, ge=1, description="at most so many, stratified; default: all, and 2000 of builtin:nli"
    )
    valid_examples: int | None = Field(
        None, ge=1, description="at most so many, stratified; default: all, and 500 of builtin:nli"
    )
    test_examples: int | None = Field(
        None, ge=1, description="at most so many, stratified; default: all, and 500 of builtin:nli"
    )
    label_noise: float = Field(
        0.0, ge=0, le=1, description="share of training labels of builtin:nli that are replaced by a wrong one"
    )
    seed: int = Field(7, ge=0, description="decides the split, the selection and what is generated")
    encoding: str = Field("utf-8", description="of text files")

    @field_validator("prompt", "completion")
    @classmethod
    def _is_template(cls, text: str | None) -> str | None:
        if text is not None:
            Template.parse(text)
        return text

    @field_validator("encoding")
    @classmethod
    def _is_encoding(cls, name: str) -> str:
        try:
            codecs.lookup(name)
        except LookupError:
            raise ValueError(f"there is no encoding {name!r}; utf-8, latin-1, cp1252 and utf-16 are common") from None
        return name

    @field_validator("separator")
    @classmethod
    def _separates(cls, text: str | None) -> str | None:
        if text == "":
            raise ValueError("a separator cannot be empty")
        return text

    @model_validator(mode="after")
    def _agrees(self) -> DataSpec:
        if self.label_noise and BUILTIN_NLI not in (self.source, self.fallback):
            raise ValueError(f"label_noise is for {BUILTIN_NLI} only; nothing is changed in other data")
        held_out = [each for each in (self.validation, self.test) if isinstance(each, float)]
        if sum(held_out) >= 1:
            raise ValueError("validation and test together leave nothing to train on: their sum must be below 1")
        if self.labels is not None and self.task == "generation":
            raise ValueError("labels are for classification; leave out task: generation or the labels")
        return self
