"""The messages between the server and its worker processes: one JSON object per line.

The field `kind` tells the type of a message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from backends import codec
from backends.contract import Failure, Placement, Prediction, PredictOptions, TrainingRequest
from sweeps.server.run_loop import RunReport

STOP_TIMEOUT_S = 30.0
"""How long a worker may take to leave its run once its stdin has ended.

Then the process is killed, and the run resumes at its last checkpoint.
"""


# --------------------------------------------------------------------------------------- to workers
@dataclass(frozen=True)
class WorkerSetup:
    """The first message to a worker: the backend to open, with its validated options."""

    backend: str
    options: Mapping[str, Any]
    workspace: str
    placement: Placement
    kind: Literal["setup"] = field(default="setup", kw_only=True)


@dataclass(frozen=True)
class TrainCommand:
    """Drive a run; see `run_loop.drive_run`. The worker answers with its `RunReport`s."""

    request: TrainingRequest
    first_event: int
    checkpoints_folder: str
    kind: Literal["train"] = field(default="train", kw_only=True)


@dataclass(frozen=True)
class StopCommand:
    """Stop the run with this key for good. It may arrive before the run's `TrainCommand`."""

    key: str
    kind: Literal["stop"] = field(default="stop", kw_only=True)


@dataclass(frozen=True)
class PredictCommand:
    """Answer prompts with a model.

    The worker answers with `PredictionsMade` or `PredictionFailed`.
    """

    model: str
    prompts: Sequence[Mapping[str, Any]]
    options: PredictOptions
    kind: Literal["predict"] = field(default="predict", kw_only=True)


WorkerCommand: TypeAlias = Annotated[
    WorkerSetup | TrainCommand | StopCommand | PredictCommand, Field(discriminator="kind")
]


# ------------------------------------------------------------------------------------- from workers
@dataclass(frozen=True)
class PredictionsMade:
    """The answers, in the order of the prompts."""

    predictions: Sequence[Prediction]
    kind: Literal["predictions"] = field(default="predictions", kw_only=True)


@dataclass(frozen=True)
class PredictionFailed:
    """The backend could not answer."""

    failure: Failure
    kind: Literal["prediction_failed"] = field(default="prediction_failed", kw_only=True)


WorkerReport: TypeAlias = Annotated[RunReport | PredictionsMade | PredictionFailed, Field(discriminator="kind")]


def encode(message: WorkerCommand | WorkerReport) -> str:
    """Return a message as a line."""
    return json.dumps(codec.to_json(message)) + "\n"


def decode_command(line: str) -> WorkerCommand:
    """Read a line that the server wrote."""
    return codec.from_json(WorkerCommand, json.loads(line))


def decode_report(line: str) -> WorkerReport:
    """Read a line that a worker wrote."""
    return codec.from_json(WorkerReport, json.loads(line))
