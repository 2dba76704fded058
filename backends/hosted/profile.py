"""Host profiles: the known facts about each fine-tuning host, as data in `profiles/*.toml`.

No code checks the name of a host; it reads the host's profile instead. Every number in a profile
has a source and a date: those of its own table, or else those at the top of the file.
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
    """The state of a job.

    A status that a profile does not list is UNKNOWN, which never ends a job.
    """

    CHECKING = "checking"
    QUEUED = "queued"
    TRAINING = "training"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def is_final(self) -> bool:
        """Whether the status can never change again."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourcedTable(_Table):
    """A table with a source and a date.

    Where one is absent, that at the top of the file applies.
    """

    source: str | None = None
    as_of: date | None = None


class DeclaredHyperparameter(SourcedTable):
    """A hyperparameter that the jobs of this host accept; see `contract.Hyperparameter`."""

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
        """Return it as the `Hyperparameter` of a backend's capabilities."""
        return Hyperparameter(**self.model_dump(exclude={"source", "as_of"}))


class FileRules(SourcedTable):
    """Rules for data files.

    - `max_bytes`: the host rejects a larger file. None: no known limit.
    - `multipart_above_bytes`: the client sends a larger file through the uploads route, in parts.
      None: never.
    - `ready_statuses`: a job may use a file with one of these statuses.
    - `failed_statuses`: a file with one of these statuses never becomes ready.
    - `completion_fields`: the fields of an example that a completion model receives.
    - `message_weights`: an answer of a conversation may have `weight: 0`, and is then not trained.
    """

    max_bytes: int | None = None
    multipart_above_bytes: int | None = None
    min_examples: int = 1
    byte_order_mark: bool = False
    ready_statuses: tuple[str, ...] = ("processed",)
    failed_statuses: tuple[str, ...] = ("error", "deleted")
    completion_fields: tuple[str, ...] = ("prompt", "completion")
    message_weights: bool = False


class MetricNames(SourcedTable):
    """What the host's metric names mean, in events, checkpoints and result files alike.

    - `step` maps the host's names of running values to ours.
    - `evaluation` maps the host's names of scores on the whole validation set to ours.
    - `aliases` maps other spellings to the host's names above.
    - `label_metrics`: those of our names that need labels.
    - `null_is_not_finite`: the host writes null for a measurement that is not a finite number.
      Elsewhere null means the same as absent.
    """

    step: Mapping[str, str]
    evaluation: Mapping[str, str]
    aliases: Mapping[str, str] = Field(default_factory=dict)
    label_metrics: tuple[str, ...] = ()
    null_is_not_finite: bool = False


class JobRules(SourcedTable):
    """How to create, find, poll and stop jobs.

    - `hyperparameters_in`: whether they go into `method` or into the older field beside it.
    - `metadata_filter`: whether the host filters a job list by metadata. Without it, the client
      reads all pages.
    - `suffix_max`: the key of a run also travels in the suffix, cut to this length, for hosts that
      drop metadata. None: no suffix.
    - `create_grace_s`: the host lists an accepted job within this time after the request ended. The
      client does not create the job again earlier.
    - `events_newest_first`: reading a job's log may stop at a page of known events.
    - `settle_s`: a measurement younger than this waits for late earlier ones.
    - `stall_s`: a training job without any change for this long is lost.
    - `queue_stall_s`: the same for a queued job.
    - `stop`: how to stop a job. `pause` keeps a checkpoint where pausing works, and falls back to
      `cancel`.
    - `final_model`: which training state `fine_tuned_model` is.
    - `model_grace_s`: the name of the model may appear this long after the job succeeded.
    - `max_per_day`: job creations within 24 hours. None: only the host's refusals tell.
    - `failed_is_free`: the host does not charge for a failed job.
    - `task_extension`: jobs accept the field `task`, which tells `sweep serve` the labels, the stop
      sequence and the evaluation settings.
    - `evaluations_within_epoch`: as in the capabilities.
    """

    hyperparameters_in: Literal["method", "hyperparameters"] = "method"
    metadata_filter: bool = True
    suffix_max: int | None = None
    create_grace_s: float = 120.0
    create_timeout_s: float = 120.0
    events_newest_first: bool = True
    settle_s: float = 0.0
    stall_s: float = 7200.0
    queue_stall_s: float = 172800.0
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


class InferenceRules(SourcedTable):
    """How to query fine-tuned models.

    - `completion_models`: patterns of base models that take a text. The others take messages.
    - `chat_labels`, `completion_labels`: how to score labels: by the `echo` of prompt and label, by
      the `alternatives` to each token, or by the `text` alone.
    - `chat_alternatives`, `completion_alternatives`: how many alternatives the host returns.
    - `deployment`: how to deploy a model before it answers. `none`: it answers without.
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


class Price(SourcedTable):
    """The price of training a model and its dated versions, in USD per million tokens."""

    model: str
    usd_per_million_tokens: float


class ExampleLimit(SourcedTable):
    """The most tokens of one example for the models of a pattern. The host cuts longer ones."""

    model: str
    tokens: int


class AutoEpochs(SourcedTable):
    """The rule by which a host chooses the number of epochs.

    The host trains `target_epochs`. It trains more, up to `max_epochs`, where it would otherwise
    see fewer than `min_examples_seen` examples (counted with repetition), and fewer where it would
    see more than `max_examples_seen`.
    """

    target_epochs: int = 3
    max_epochs: int = 25
    min_examples_seen: int = 100
    max_examples_seen: int = 25000


class Profile(_Table):
    """A host.

    - `client`: the class of the `openai` package that talks to it.
    - `api_key`, `deployment_token`: the names of the environment variables with these secrets.
    - `notice`: advice for people who read the profile.
    """

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
    files: FileRules
    metrics: MetricNames
    jobs: JobRules
    inference: InferenceRules
    extra_body: Mapping[str, Scalar] = Field(default_factory=dict)
    prices: tuple[Price, ...] = ()
    example_limits: tuple[ExampleLimit, ...] = ()
    auto_epochs: AutoEpochs | Literal["unknown"] = "unknown"
    bytes_per_token: float = 4.0

    def job_status(self, status: object) -> JobStatus:
        """Return the meaning of the host's word for a job's status."""
        return self.statuses.get(str(status), JobStatus.UNKNOWN)

    def price(self, model: str) -> Price | None:
        """Return the price of training a model: its own, or that of its undated name."""
        undated = re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model)
        return next((price for name in (model, undated) for price in self.prices if price.model == name), None)

    def source_of(self, table: SourcedTable) -> str:
        """Return the source and the date of a table as one text."""
        return f"{table.source or self.source}, {table.as_of or self.as_of}"

    def is_completion_model(self, base_model: str) -> bool:
        """Return whether a base model trains on prompt and completion instead of messages."""
        return any(fnmatch.fnmatchcase(base_model, pattern) for pattern in self.inference.completion_models)


def names() -> tuple[str, ...]:
    """Return the names of all profiles, sorted."""
    files = resources.files(__package__).joinpath("profiles").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


@cache
def load(name: str) -> Profile:
    """Return a host's profile. Raises ValueError with the nearest known name for an unknown one."""
    if name not in names():
        nearest = difflib.get_close_matches(name, names(), n=1)
        guess = f"Did you mean {nearest[0]}? " if nearest else ""
        raise ValueError(f"unknown host {name!r}. {guess}Known hosts: {', '.join(names())}")
    text = resources.files(__package__).joinpath("profiles", f"{name}.toml").read_text(encoding="utf-8")
    value: dict[str, Any] = tomllib.loads(text)
    if base := value.pop("like", None):
        value = _merged(load(base).model_dump(), value)
    return Profile.model_validate(value)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` applied table by table. A list replaces the whole list."""
    result = dict(base)
    for name, value in changes.items():
        is_table = isinstance(value, dict) and isinstance(base.get(name), Mapping)
        result[name] = _merged(base[name], value) if is_table else value
    return result
