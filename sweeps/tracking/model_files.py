"""The files of a registered model: saves a packaged model in MLflow's format, and loads it."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from backends import codec
from backends.model_packages import ModelPackage
from sweeps.errors import SweepError
from sweeps.tracking import served_card
from sweeps.tracking.served_card import ServedCard

if TYPE_CHECKING:
    from mlflow.pyfunc import PyFuncModel

MAX_ERROR_CHARS = 400

_SERVED_MODEL = Path(__file__).parent / "served_model.py"
_BASE_REQUIREMENTS = ("mlflow", "pandas")
"""The distributions that `served_model` imports."""


@dataclass(frozen=True)
class PackagedModel:
    """A model that is ready to be registered.

    `files` is the folder with the files of the package. `example_rows` have the card's columns.
    """

    package: ModelPackage
    files: Path
    card: ServedCard
    example_rows: Sequence[Mapping[str, Any]]


class LoadedVersion:
    """A version of a registered model, loaded into this process. `card` names its columns."""

    def __init__(self, model: PyFuncModel, card: ServedCard) -> None:
        self._model = model
        self.card = card

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Predict rows that have the card's columns; see `served_model.ServedModel.predict`.

        Raises SweepError with the model's own message if the model fails.
        """
        import pandas as pd

        try:
            table: Any = self._model.predict(pd.DataFrame(list(rows), columns=list(self.card.columns)))
        # a boundary: a model may raise any type, and a host's errors have many
        except Exception as error:
            raise SweepError(f"the model cannot predict: {_first_line(error)}") from error
        predictions: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=15))
        return predictions


def load_model(folder: Path, description: str) -> LoadedVersion:
    """Load a saved model. The error messages call it `description`.

    Raises SweepError if the model cannot be loaded.
    """
    import mlflow

    try:
        with silenced():
            return LoadedVersion(mlflow.pyfunc.load_model(str(folder)), served_card.read(folder))
    except Exception as error:  # a boundary: the errors of a model's files have no common type
        hint = "Check that its artifacts are complete and its requirements are installed."
        raise SweepError(f"{description} cannot be loaded: {_first_line(error)}", hint) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:MAX_ERROR_CHARS] or type(error).__name__


def save_model(packaged: PackagedModel, folder: Path, tags: Mapping[str, str]) -> None:
    """Save a packaged model to the new `folder` in MLflow's format, with `tags` as its metadata."""
    import mlflow
    import pandas as pd

    package, card = packaged.package, packaged.card
    with TemporaryDirectory() as temporary_folder:
        card_file = Path(temporary_folder) / served_card.FILE_NAME
        card_json = {**codec.to_json(card), "facts": dict(package.settings)}
        card_file.write_text(json.dumps(card_json, indent=1), encoding="utf-8")
        if not any(packaged.files.iterdir()):  # an artifact store keeps no empty folder
            (packaged.files / "README").write_text("This model needs no files of its own.\n", encoding="utf-8")
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(_SERVED_MODEL),
            artifacts={"card": str(card_file), "answers": str(package.code), "files": str(packaged.files)},
            signature=_signature(card),
            input_example=pd.DataFrame(list(packaged.example_rows), columns=list(card.columns)),
            pip_requirements=[_pinned(name) for name in (*_BASE_REQUIREMENTS, *package.requirements)],
            metadata=dict(tags),
        )


def _signature(card: ServedCard) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array, Object, Property

    if card.prompt is None:
        message = Object([Property("role", DataType.string), Property("content", DataType.string)])
        inputs: list[Any] = [ColSpec(Array(message), "messages")]
    else:
        inputs = [ColSpec(DataType.string, column) for column in card.columns]
    outputs: list[Any] = [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability", required=False),
        *(ColSpec(DataType.double, f"probability.{name}", required=False) for name in card.label_names),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs))


def _pinned(distribution: str) -> str:
    """Return the requirement of the installed version, without a local part such as `+cpu`."""
    return f"{distribution}=={importlib.metadata.version(distribution).partition('+')[0]}"


@contextmanager
def silenced() -> Iterator[None]:
    """Keep MLflow's hints and warnings off the screen."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
