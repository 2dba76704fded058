"""The `data:` section of the sweep file."""

from __future__ import annotations

import codecs
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from sweeps.data.builtin.generated import GENERATED_SOURCES, NLI
from sweeps.data.checks import catalogue
from sweeps.data.findings import nearest_hint
from sweeps.data.templates import Template


def _number_as_text(value: object) -> object:
    return str(value) if type(value) in (int, float) else value


Label = Annotated[str, BeforeValidator(_number_as_text, json_schema_input_type=str | int | float)]

Code = Annotated[str, Field(pattern=r"^[a-z][a-z-]*$")]

_HAS_FIELD: dict[str, Any] = {"pattern": r"\{[^{}]+\}"}

_RULES: dict[str, Any] = {
    "allOf": [
        {
            "if": {"required": ["label_noise"], "properties": {"label_noise": {"exclusiveMinimum": 0}}},
            "then": {
                "anyOf": [
                    {"properties": {"source": {"const": NLI}}},
                    {"required": ["fallback"], "properties": {"fallback": {"const": NLI}}},
                ]
            },
        },
        {
            "if": {"required": ["labels"], "properties": {"labels": {"type": "array"}}},
            "then": {"properties": {"task": {"not": {"const": "generation"}}}},
        },
    ]
}
"""The rules of `DataSpec._consistent` that JSON Schema can express."""


class DataSpec(BaseModel):
    """The source of the examples, their templates for prompt and completion, and the split."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, json_schema_extra=_RULES)

    source: str = Field(
        min_length=1,
        description=f"snli | {' | '.join(GENERATED_SOURCES)} | a file (.jsonl .json .csv .tsv .parquet .arrow "
        ".xlsx, also .gz and .zip) | a directory (the official SNLI files; train, valid and test files; a saved "
        "Hugging Face data set) | a URL of a file or a directory (s3://...) | hf:owner/name[:config]",
    )
    fallback: str | None = Field(
        None,
        description="Another source, used with a warning if the source is unavailable, never if its content is wrong.",
    )
    prompt: str | None = Field(
        None,
        json_schema_extra=_HAS_FIELD,
        description="Template over columns, e.g. {premise}. Records with prompt and completion need none.",
    )
    completion: str | None = Field(
        None, json_schema_extra=_HAS_FIELD, description="Template over columns, e.g. ' {label}'."
    )
    separator: str | None = Field(
        None,
        json_schema_extra={"minLength": 1},
        description="Ends every prompt. Default: the text after the template's last field if it has a newline or "
        r"punctuation; else a known separator that nine of ten prompts end with; else '\n\n###\n\n' is appended.",
    )
    stop: str | None = Field(
        None,
        description="Ends every completion. Default: a known stop sequence that nine of ten completions end with, "
        r"else '\n'. Chat data has none.",
    )
    train_on: Literal["all", "last"] = Field(
        "all",
        description="The answers of a conversation to train: all of them, or the last. An answer with weight: 0 is "
        "never trained. With labels only the last one is.",
    )
    task: Literal["auto", "classification", "generation"] = Field(
        "auto",
        description="auto: classification if the completions are few (at most 50 different ones, each three times on "
        "average), short (50 characters) and on one line. Conversations with several trained answers are generation.",
    )
    labels: tuple[Label, ...] | None = Field(
        None, min_length=2, description="The allowed labels. Any other label is an error with its line."
    )
    validation: Annotated[float, Field(gt=0, lt=1)] | str | None = Field(
        None,
        description="A file, or a fraction of the training examples. Default: the source's own part, else 0.1. "
        "A builtin: source always generates its own part.",
    )
    test: Annotated[float, Field(ge=0, lt=1)] | str | None = Field(
        None,
        description="A file, or a fraction of the training examples; 0 means no test part. Default: as validation.",
    )
    train_examples: int | None = Field(
        None,
        ge=1,
        description="Use at most this many training examples, stratified by label. Default: all; 2000 if generated.",
    )
    selection: Literal["stratified", "nested"] = Field(
        "stratified",
        description="How train_examples selects. stratified: in exact proportion to the labels. nested: nearly so, but "
        "a larger selection contains every smaller one. `sweep scale` uses nested.",
    )
    valid_examples: int | None = Field(
        None,
        ge=1,
        description="Use at most this many validation examples, stratified by label. Default: all; 500 if generated.",
    )
    test_examples: int | None = Field(
        None,
        ge=1,
        description="Use at most this many test examples, stratified by label. Default: all; 500 if generated.",
    )
    label_noise: float = Field(
        0.0, ge=0, le=1, description="Share of the training labels of builtin:nli to replace by wrong ones."
    )
    group_by: str | None = Field(
        None,
        min_length=1,
        description="A column, such as the user or the document. Examples with the same value stay in one part of a "
        "split; in parts with files of their own, a value in two parts is reported.",
    )
    drop: tuple[Code, ...] = Field(
        (),
        description="Leave out the examples with these findings, e.g. [empty-completion, overlap]; `sweep check` names "
        "the code of each finding, and counts what is left out.",
    )
    checks: Literal["full", "quick"] = Field(
        "full",
        description="quick: formats, labels, exact duplicates and overlap. full: also near duplicates, likely wrong "
        "labels, drift between the parts, personal data, and the baselines; takes seconds, once for each content.",
    )
    seed: int = Field(7, ge=0, description="Decides the split, the selection of examples, and generated examples.")
    encoding: str = Field("utf-8", description="The encoding of text files.")

    @field_validator("prompt", "completion")
    @classmethod
    def _valid_template(cls, text: str | None) -> str | None:
        if text is not None:
            Template.parse(text)
        return text

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        try:
            codecs.lookup(name)
        except LookupError:
            raise ValueError(f"unknown encoding {name!r}; common ones are utf-8, latin-1, cp1252 and utf-16") from None
        return name

    @field_validator("drop")
    @classmethod
    def _droppable(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        droppable = [check.code for check in catalogue.CHECKS.values() if check.droppable]
        for code in codes:
            if code not in droppable:
                reason = "is about more than single examples" if code in catalogue.CHECKS else "is no code of a finding"
                raise ValueError(f"{code!r} {reason}; {nearest_hint(code, droppable)}")
        return codes

    @field_validator("separator")
    @classmethod
    def _not_empty(cls, text: str | None) -> str | None:
        if text == "":
            raise ValueError("a separator cannot be empty")
        return text

    @model_validator(mode="after")
    def _consistent(self) -> DataSpec:
        if self.label_noise and NLI not in (self.source, self.fallback):
            raise ValueError(f"label_noise works with {NLI} only; other data is never changed")
        fractions = [fraction for fraction in (self.validation, self.test) if isinstance(fraction, float)]
        if sum(fractions) >= 1:
            raise ValueError("validation and test leave no training examples; their sum must be below 1")
        if self.labels is not None and self.task == "generation":
            raise ValueError("labels are for classification; remove task: generation or the labels")
        return self
