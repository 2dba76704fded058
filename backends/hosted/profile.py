"""What is known of a host, as data: `profiles/*.toml`. No code asks for a host's name; it asks its profile.

Every number in a profile stands beside its source and date: a table's own, or those at the head of the file.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
import tomllib
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from backends.contract import Hyperparameter, Scalar


class JobStatus(StrEnum):
    """What a job's status means. A status that a profile does not name is UNKNOWN, which is never an end."""

    CHECKING = "checking"
    QUEUED = "queued"
    TRAINING = "training"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def is_end(self) -> bool:
        """Whether the service does nothing more with the job by itself or on request."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Sourced(_Table):
    """Something that somebody said at some time; both are inherited from the head of the file where absent."""

    source: str | None = None
    as_of: date | None = None


class DeclaredHyperparameter(Sourced):
    """A hyperparameter that jobs of this host take; see `contract.Hyperparameter`."""

    name: str
    kind: Literal["int", "float", "str", "bool"]
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Scalar, ...] | None = None
    default: Scalar | None = None
    default_rule: str = ""
    requires: Mapping[str, tuple[Scalar, ...]] = Field(default_factory=dict)
    excludes: tuple[str, ...] = ()

    def declared(self) -> Hyperparameter:
        """Return it as capabilities state it."""
        return Hyperparameter(**self.model_dump(exclude={"source", "as_of"}))


class Files(Sourced):
    """Rules for data files. `ready` are the statuses in which a file may be used, `broken` those it never leaves.

    `in_parts_above`: larger files are sent through the uploads route, in parts; None: never.
    """

    max_bytes: int | None = None
    in_parts_above: int | None = None
    min_examples: int = 1
    byte_order_mark: bool = False
    ready: tuple[str, ...] = ("processed",)
    broken: tuple[str, ...] = ("error", "deleted")
    completion_fields: tuple[str, ...] = ("prompt", "completion")


class Metrics(Sourced):
    """What the service's names of measurements mean, in events, checkpoints and result files alike.

    `step` are running values, `evaluation` those of the whole validation set. `aliases` are other spellings of a name,
    `label_metrics` those of ours that need labels. `null_is_not_finite`: a measurement that is null was made, and was
    no number; elsewhere null is the same as absent.
    """

    step: Mapping[str, str]
    evaluation: Mapping[str, str]
    aliases: Mapping[str, str] = Field(default_factory=dict)
    label_metrics: tuple[str, ...] = ()
    null_is_not_finite: bool = False


class Jobs(Sourced):
    """How jobs are created, found, watched and ended.

    `hyperparameters_in`: within `method`, or in the older field beside it. `metadata_filter`: whether listing may be
    narrowed by metadata; without it all jobs are paged. `suffix_max`: the key also travels in the suffix, for hosts
    that drop metadata (None: not sent). `create_grace_s`: a job that was accepted is listed within this time after the
    request was sent or broke off, and not created again before. `events_newest_first`: reading may end at a page that
    is known. `settle_s`: measurements younger than this wait for stragglers. `stop`: what stopping does; `pause` keeps
    a checkpoint where it works and falls back to `cancel`. `final_model`: which state `fine_tuned_model` is.
    `max_per_day`: creations within 24 hours; where nobody says, the host's refusals do.
    `failed_is_free`: a failed job is not charged. `task_extension`: jobs take the field `task`, by which `sweep
    serve` learns the labels, the stop sequence and what to evaluate. `evaluations_within_epoch` as in the capabilities.
    """

    hyperparameters_in: Literal["method", "hyperparameters"] = "method"
    metadata_filter: bool = True
    suffix_max: int | None = None
    create_grace_s: float = 120.0
    create_timeout_s: float = 120.0
    events_newest_first: bool = True
    settle_s: float = 0.0
    stall_s: float = 7200.0
    queue_s: float = 172800.0
    stop: Literal["cancel", "pause"] = "cancel"
    checkpoints_while_training: bool = False
    final_model: Literal["last", "best"] = "last"
    model_grace_s: float = 600.0
    failed_is_free: bool = False
    max_concurrent: int | None = None
    max_per_day: int | None = None
    poll_s: float = 10.0
    task_extension: bool = False
    evaluations_within_epoch: bool = False


class Inference(Sourced):
    """How fine-tuned models answer.

    `completion_models` are patterns of base models that take a text (the others take messages). `labels`: how labels
    are scored, by the `echo` of prompt and label, by the `alternatives` to each token, or by the `text` alone.
    `alternatives` is how many the service gives. `deployment`: what makes a model answer, `none` where it just does.
    """

    completion_models: tuple[str, ...] = ()
    chat_labels: Literal["alternatives", "text"] = "alternatives"
    completion_labels: Literal["echo", "alternatives", "text"] = "alternatives"
    chat_alternatives: int = 20
    completion_alternatives: int = 5
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    concurrency: int = 8
    prompts_per_request: int = 1
    deployment: Literal["none", "control-plane"] = "none"
    models_listed: bool = True
    models_deletable: bool = True


class Price(Sourced):
    """What training costs, in USD per million tokens, for a model and its dated versions."""

    model: str
    usd_per_million_tokens: float


class AutoEpochs(Sourced):
    """How many epochs a host chooses by itself: `target`, more where `least_examples` would not be seen otherwise, and
    fewer where more than `most_examples` would.
    """

    target: int = 3
    most: int = 25
    least_examples: int = 100
    most_examples: int = 25000


class Profile(_Table):
    """A host. `client` names which of the package's two clients speaks to it."""

    title: str
    source: str
    as_of: date
    client: Literal["OpenAI", "AzureOpenAI"] = "OpenAI"
    base_url: str | None = None
    api_version: str | None = None
    api_key: str
    needs_api_key: bool = True
    deployment_token: str | None = None
    recommendation_scope: str
    notice: str = ""
    statuses: Mapping[str, JobStatus]
    hyperparameters: tuple[DeclaredHyperparameter, ...]
    files: Files
    metrics: Metrics
    jobs: Jobs
    inference: Inference
    extra_body: Mapping[str, Scalar] = Field(default_factory=dict)
    prices: tuple[Price, ...] = ()
    auto_epochs: AutoEpochs | Literal["unknown"] = "unknown"
    bytes_per_token: float = 4.0

    def standing(self, status: object) -> JobStatus:
        """Return what a job's status means."""
        return self.statuses.get(str(status), JobStatus.UNKNOWN)

    def price(self, model: str) -> Price | None:
        """Return what training this model costs: its own price, or that of the model it is a dated version of."""
        undated = re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model)
        return next((each for name in (model, undated) for each in self.prices if each.model == name), None)

    def source_of(self, table: Sourced) -> str:
        """Return who said so and when, in words."""
        return f"{table.source or self.source}, {table.as_of or self.as_of}"

    def takes_text(self, base_model: str) -> bool:
        """Return whether a base model is trained on prompt and completion instead of messages."""
        return any(fnmatch.fnmatchcase(base_model, each) for each in self.inference.completion_models)


def names() -> tuple[str, ...]:
    """Return the hosts that are known."""
    found = resources.files(__package__).joinpath("profiles").iterdir()
    return tuple(sorted(each.name.removesuffix(".toml") for each in found if each.name.endswith(".toml")))


@cache
def load(name: str) -> Profile:
    """Return a host's profile. Raises ValueError, with the nearest name, for an unknown one."""
    if name not in names():
        nearest = difflib.get_close_matches(name, names(), n=1)
        guess = f"did you mean {nearest[0]}? " if nearest else ""
        raise ValueError(f"there is no host {name!r}; {guess}known: {', '.join(names())}")
    text = resources.files(__package__).joinpath("profiles", f"{name}.toml").read_text(encoding="utf-8")
    value: dict[str, Any] = tomllib.loads(text)
    if base := value.pop("like", None):
        value = _merged(load(base).model_dump(), value)
    return Profile.model_validate(value)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`, table by table; lists are replaced as a whole."""
    result = dict(base)
    for name, value in changes.items():
        inner = isinstance(value, dict) and isinstance(base.get(name), Mapping)
        result[name] = _merged(base[name], value) if inner else value
    return result
