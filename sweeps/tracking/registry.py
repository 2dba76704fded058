"""The MLflow Model Registry: versions of a registered model, the alias `champion`, and asking a version.

What became of a version stands in its tags, and who moved the alias by hand in those of the registered model: the
registry is the only record, so that a team shares it.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from backends.model_packages import ModelPackage
from sweeps.errors import SweepError
from sweeps.tracking import projection, reachability, served_card
from sweeps.tracking.mlflow_client import load, new_client, translated_errors
from sweeps.tracking.outbox import RejectedError, UnreachableError
from sweeps.tracking.served_card import Card

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.pyfunc import PyFuncModel

ALIAS = "champion"
OURS = "finesweep.model"
"""The tag of registered models that sweeps made."""

ARTIFACT = "champion"
"""Where a run keeps the model that was registered from it."""

TAG_CHARS = 4900
"""MLflow's limit of a tag's value in the registry is 5,000."""

_SCRIPT = Path(__file__).parent / "served_model.py"
_ALWAYS = ("mlflow", "pandas")
_CARD = "card.json"


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    model: str
    number: str
    run_id: str | None
    tags: Mapping[str, str]
    created_at: datetime

    @property
    def order(self) -> int:
        """The number as such."""
        return int(self.number)


class ServedVersion:
    """A loaded version: which columns it asks for, and its answers."""

    def __init__(self, loaded: PyFuncModel, card: Card) -> None:
        self._loaded = loaded
        self.card = card

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Answer rows, which have the card's columns; see `served_model.ServedModel.predict`.

        Raises SweepError where the model cannot answer; the text is the model's own.
        """
        import pandas as pd

        try:
            answers: Any = self._loaded.predict(pd.DataFrame(list(rows), columns=list(self.card.columns)))
        except Exception as error:  # the rim: whatever a model raises, and a host's error has many types
            text = str(error).partition("\n")[0][:400]
            raise SweepError(f"the model does not answer: {text or type(error).__name__}") from error
        found: list[dict[str, Any]] = json.loads(answers.to_json(orient="records", double_precision=15))
        return found


class Registry:
    """A connection to the registry at an MLflow URI. Every method raises SweepError where MLflow refuses or is away."""

    def __init__(self, uri: str) -> None:
        """Connect. Raises SweepError within about 10 s where nothing answers."""
        reachability.check(uri)
        load()
        self._uri = uri
        self._client = new_client(uri)

    # ---------------------------------------------------------------------------------------------------------- reading
    def models(self) -> list[str]:
        """Return the names of the registered models that sweeps made."""
        with self._asking():
            found = self._client.search_registered_models(max_results=1000)
            return sorted(each.name for each in found if OURS in each.tags)

    def champion(self, model: str) -> Version | None:
        """Return the version that the alias is on, or None."""
        from mlflow.exceptions import MlflowException

        with self._asking():
            try:
                found = self._client.get_model_version_by_alias(model, ALIAS)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
            return None if found is None else self._version(self._client.get_model_version(model, found.version))

    def versions(self, model: str) -> list[Version]:
        """Return all versions, the newest first; none where there is no such model."""
        with self._asking():
            quoted = model.replace("'", "''")
            found, token = [], None
            while True:
                page = self._client.search_model_versions(f"name='{quoted}'", max_results=1000, page_token=token)
                found += [self._version(each) for each in page]
                token = page.token
                if not token:
                    return sorted(found, key=lambda each: -each.order)

    def notes(self, model: str) -> Mapping[str, str]:
        """Return the tags of the registered model; none where there is none."""
        from mlflow.exceptions import MlflowException

        with self._asking():
            try:
                return dict(self._client.get_registered_model(model).tags)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return {}
                raise

    def run_of_trial(self, experiment: str, trial_key: str) -> str | None:
        """Return the run that shows a trial, or None where MLflow has none."""
        with self._asking():
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                return None
            condition = f"tags.`{projection.TRIAL_TAG}` = '{trial_key}'"
            runs = self._client.search_runs([found.experiment_id], condition, max_results=1)
            return str(runs[0].info.run_id) if runs else None

    def load(self, version: Version) -> ServedVersion:
        """Load a version into this process."""
        import mlflow

        with TemporaryDirectory() as place:  # an artifact store is copied from; a folder is read where it is
            with self._asking(), _quiet():
                where = self._client.get_model_version_download_uri(version.model, version.number)
                here = urlsplit(where).scheme in ("", "file")
                got = mlflow.artifacts.download_artifacts(
                    where, dst_path=None if here else place, tracking_uri=self._uri
                )
            try:
                with _quiet():
                    return ServedVersion(mlflow.pyfunc.load_model(got), served_card.read(Path(got)))
            except Exception as error:  # the rim: what a model's files can raise has no common type
                text = str(error).partition("\n")[0][:400] or type(error).__name__
                message = f"version {version.number} of {version.model} cannot be loaded: {text}"
                hint = "see whether its artifacts are complete and its requirements installed"
                raise SweepError(message, hint) from error

    # ---------------------------------------------------------------------------------------------------------- writing
    def register(
        self,
        model: str,
        run_id: str,
        package: ModelPackage,
        files: Path,
        card: Card,
        example: Sequence[Mapping[str, Any]],
        tags: Mapping[str, str],
    ) -> Version:
        """Save a packaged model with its signature and example below the run, and register it as a new version."""
        with TemporaryDirectory() as place:
            folder = Path(place) / ARTIFACT
            with self._asking(), _quiet():
                _save(folder, package, files, card, example, tags)
                self._client.log_artifacts(run_id, str(folder), ARTIFACT)
        with self._asking(), _quiet():
            self._ensure_model(model)
            where = str(self._client.get_run(run_id).info.artifact_uri).rstrip("/")
            cut = {name: value[:TAG_CHARS] for name, value in tags.items()}
            made = self._client.create_model_version(model, f"{where}/{ARTIFACT}", run_id, tags=cut)
            return self._version(made)

    def _ensure_model(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model, tags={OURS: "1"})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            self._client.set_registered_model_tag(model, OURS, "1")

    def promote(self, version: Version) -> None:
        """Put the alias on a version. Idempotent."""
        with self._asking():
            self._client.set_registered_model_alias(version.model, ALIAS, version.number)

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Tag a version."""
        with self._asking():
            for name, value in tags.items():
                self._client.set_model_version_tag(version.model, version.number, name, value[:TAG_CHARS])

    def describe(self, version: Version, text: str) -> None:
        """Set what the UI shows as a version's description."""
        with self._asking():
            self._client.update_model_version(version.model, version.number, text)

    def note(self, model: str, name: str, value: str) -> None:
        """Tag the registered model."""
        with self._asking():
            self._client.set_registered_model_tag(model, name, value[:TAG_CHARS])

    @staticmethod
    def _version(found: ModelVersion) -> Version:
        created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
        return Version(found.name, str(found.version), found.run_id or None, dict(found.tags), created)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with translated_errors():
                yield
        except (UnreachableError, RejectedError) as error:
            message = f"the model registry at {reachability.without_secrets(self._uri)} refuses: {error}"
            raise SweepError(message, "start it, or give another place by MLFLOW_TRACKING_URI") from error


def _save(
    folder: Path,
    package: ModelPackage,
    files: Path,
    card: Card,
    example: Sequence[Mapping[str, Any]],
    tags: Mapping[str, str],
) -> None:
    import mlflow
    import pandas as pd

    with TemporaryDirectory() as place:
        written = Path(place) / _CARD
        written.write_text(json.dumps({**asdict(card), "facts": dict(package.settings)}, indent=1), encoding="utf-8")
        if not any(files.iterdir()):  # an artifact store keeps no empty folder
            (files / "README").write_text("This model needs no files of its own.\n", encoding="utf-8")
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(_SCRIPT),
            artifacts={"card": str(written), "answers": str(package.code), "files": str(files)},
            signature=_signature(card),
            input_example=pd.DataFrame(list(example), columns=list(card.columns)),
            pip_requirements=[_pinned(each) for each in (*_ALWAYS, *package.requirements)],
            metadata=dict(tags),
        )


def _signature(card: Card) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array, Object, Property

    if card.prompt is None:
        message = Object([Property("role", DataType.string), Property("content", DataType.string)])
        asked: list[Any] = [ColSpec(Array(message), "messages")]
    else:
        asked = [ColSpec(DataType.string, column) for column in card.columns]
    shares = [ColSpec(DataType.double, f"probability.{name}", required=False) for name in card.names]
    answer: list[Any] = [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability", required=False),
        *shares,
    ]
    return ModelSignature(Schema(asked), Schema(answer))


def _pinned(distribution: str) -> str:
    """Return the installed version as a requirement, without the part that names a build, as `+cpu`."""
    return f"{distribution}=={importlib.metadata.version(distribution).partition('+')[0]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's hints off the screen."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
