"""The options of `backend: {type: command}`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from backends.command.placeholders import BUILT_IN, is_placeholder_name
from backends.contract import Scalar
from backends.local_paths import MayBePath

GRACE_S = 30.0
"""How long a program may take to end after SIGTERM. A checkpoint of a large model takes a while."""

ABANDONED_AFTER_S = 300.0
"""How long a program goes on while nobody follows it, as after the sweep was killed."""


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _hyperparameter_name(name: str) -> str:
    if not is_placeholder_name(name):
        raise ValueError(f"{name!r} is no name of a hyperparameter: write letters, digits and `_`")
    if name in BUILT_IN:
        raise ValueError(f"`{{{name}}}` has a meaning of its own: {BUILT_IN[name]}; choose another name")
    return name


class HyperparameterOptions(_Options):
    """A hyperparameter of the program: a range, or the only accepted values.

    `log` is how the range is searched if the sweep file has no `space:` for it.
    """

    type: Literal["int", "float", "str", "bool"] | None = Field(
        None, description="The type of the values. Default: that of the bounds or the choices."
    )
    low: int | float | None = Field(None, description="The lowest value that the program accepts.")
    high: int | float | None = Field(None, description="The highest value that the program accepts.")
    log: bool = Field(False, description="Search the range by orders of magnitude.")
    choices: tuple[Scalar, ...] | None = Field(None, min_length=1, description="The only accepted values.")
    default: Scalar | None = Field(None, description="The value if the space does not mention it.")
    description: str = Field("", description="What it does.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.choices is not None and (self.low is not None or self.high is not None):
            raise ValueError("give `choices` or a range, not both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low is {self.low:g}, which is above high, {self.high:g}")
        if self.kind in ("str", "bool") and (self.low is not None or self.high is not None):
            raise ValueError(f"a {self.kind} has no range; give `choices`")
        if self.log and not (self.low is not None and self.low > 0 and self.high is not None):
            raise ValueError("`log` needs a range above 0: give `low` and `high`")
        return self

    @property
    def kind(self) -> Literal["int", "float", "str", "bool"]:
        """The type of the values, stated or inferred."""
        if self.type is not None:
            return self.type
        values = self.choices or [value for value in (self.low, self.high, self.default) if value is not None]
        if all(isinstance(value, bool) for value in values) and values:
            return "bool"
        if all(isinstance(value, int) and not isinstance(value, bool) for value in values) and values:
            return "int"
        return "str" if any(isinstance(value, str) for value in values) else "float"


class ConfigOptions(_Options):
    """A configuration file that each trial gets: a template, and the values to set in it."""

    template: Path | None = Field(None, description="A YAML, JSON or TOML file. Default: an empty one.")
    set: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Keys and their values, e.g. {learning_rate: '{learning_rate}', model.lora.r: '{lora_r}'}.",
    )
    name: str = Field(
        "config.yml", description="The file's name in the folder of the trial. Default: that of the template."
    )

    @model_validator(mode="before")
    @classmethod
    def _named_as_the_template(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("template") and "name" not in value:
            return {**value, "name": Path(str(value["template"])).name}
        return value


class MetricSource(_Options):
    """A file that the program writes while it trains, and how to read it."""

    type: str
    file: str | None = Field(None, description="The file, or a pattern, e.g. '{output}/**/trainer_state.json'.")


def _source_from_written(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


def _as_command(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class ReportedExamples(_Options):
    """How many examples the program has, for ranges in per cent and for verdicts."""

    train: int = Field(0, ge=0)
    valid: int = Field(0, ge=0)


ReportedMetric = Annotated[str, StringConstraints(pattern=r"^(valid|train)_[A-Za-z0-9_]{1,60}$")]


class CommandOptions(_Options):
    """Which program trains, how it gets its hyperparameters, and how its numbers are read."""

    preset: str | None = Field(None, description="A known training program; `sweep backends` lists the presets.")
    run: Annotated[str | tuple[str, ...], BeforeValidator(_as_command, json_schema_input_type=str | list[str])] = Field(
        "", description="The command, e.g. python train.py --lr {learning_rate} --output_dir {output}."
    )
    shell: bool = Field(False, description="Run the command by /bin/sh instead of as a list of arguments.")
    config: ConfigOptions | None = Field(None, description="A configuration file; the command gets it as {config}.")
    environment: Mapping[str, str] = Field(default_factory=dict, description="Environment variables to set.")
    working_folder: Path | Literal["trial"] = Field(
        Path(), description="Where the program runs. `trial` means in {output}, which is empty at the start."
    )
    model: Annotated[str, MayBePath()] = Field("", description="The base model, for {model}: a path or a hub id.")
    hyperparameters: Mapping[Annotated[str, AfterValidator(_hyperparameter_name)], HyperparameterOptions] = Field(
        default_factory=dict, description="The hyperparameters that the program takes."
    )
    metrics: tuple[
        Annotated[MetricSource, BeforeValidator(_source_from_written, json_schema_input_type=str | MetricSource)], ...
    ] = Field((), description="How its numbers are read. Default: by the preset, or found by itself.")
    rename: Mapping[str, str] = Field(
        default_factory=dict, description="Names of the program's numbers, e.g. {eval/acc: valid_accuracy}."
    )
    reports: tuple[ReportedMetric, ...] = Field(
        (), description="The metrics that every evaluation reports. Default: unknown until the program runs."
    )
    examples: ReportedExamples = Field(ReportedExamples(), description="How many examples there are.")
    checkpoints: str | None = Field(None, description="A pattern of its checkpoints, e.g. '{output}/checkpoint-*'.")
    resume: str | None = Field(
        None, description="What to append to continue, e.g. '--resume_from_checkpoint {checkpoint}'."
    )
    grace_s: float = Field(GRACE_S, ge=0, description="Time to end after SIGTERM, before SIGKILL.")
    abandoned_after_s: float = Field(
        ABANDONED_AFTER_S, gt=0, description="Time that the program goes on while no sweep follows it."
    )

    @field_validator("run")
    @classmethod
    def _is_a_command_line(cls, written: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(written, str):
            try:
                shlex.split(written)
            except ValueError as error:
                raise ValueError(f"is no command line: {error}") from None
        return written

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command as a list of arguments, with placeholders."""
        return tuple(shlex.split(self.run)) if isinstance(self.run, str) else self.run
