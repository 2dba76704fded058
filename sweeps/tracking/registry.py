"""The MLflow Model Registry: the versions of a registered model, and its alias `champion`.

The registry is the only record, so that a team shares it. The tags of a version hold how its
challenge was decided. The tags of the registered model hold who moved the alias by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sweeps.errors import SweepError
from sweeps.tracking import projection, reachability
from sweeps.tracking.mlflow_client import load, new_client
from sweeps.tracking.mlflow_errors import translated_errors
from sweeps.tracking.model_files import LoadedVersion, PackagedModel, load_model, save_model, silenced
from sweeps.tracking.outbox import RejectedError, UnreachableError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHAMPION_ALIAS = "champion"
OWN_MODEL_TAG = "finesweep.model"
"""The tag of the registered models that sweeps created."""

ARTIFACT_PATH = "champion"
"""The artifact path of a run under which it keeps the model that was registered from it."""

MAX_TAG_CHARS = 4900
"""MLflow's limit for the value of a tag in the registry is 5,000."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model. `run_id` is the MLflow run of the trial that trained it."""

    model: str
    number: str
    run_id: str | None
    tags: Mapping[str, str]
    created_at: datetime


class Registry:
    """A connection to the registry at an MLflow URI.

    Every method raises SweepError if MLflow refuses the request or does not answer.
    """

    def __init__(self, uri: str) -> None:
        """Connect. Raises SweepError within about 10 s if nothing answers."""
        reachability.check(uri)
        load()
        self._uri = uri
        with self._registry_errors():
            self._client = new_client(uri)

    # -------------------------------------------------------------------------------------- reading
    def model_names(self) -> list[str]:
        """Return the names of the registered models that sweeps created, sorted."""
        with self._registry_errors():
            models = self._client.search_registered_models(max_results=1000)
            return sorted(model.name for model in models if OWN_MODEL_TAG in model.tags)

    def champion(self, model: str) -> RegisteredVersion | None:
        """Return the version with the alias `champion`, or None if no version has it."""
        from mlflow.exceptions import MlflowException

        with self._registry_errors():
            try:
                champion = self._client.get_model_version_by_alias(model, CHAMPION_ALIAS)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
            return _registered_version(self._client.get_model_version(model, champion.version))

    def versions(self, model: str) -> list[RegisteredVersion]:
        """Return all versions, the newest first. Empty if the model does not exist."""
        with self._registry_errors():
            quoted = model.replace("'", "''")
            versions: list[RegisteredVersion] = []
            token = None
            while True:
                page = self._client.search_model_versions(f"name='{quoted}'", max_results=1000, page_token=token)
                versions += [_registered_version(version) for version in page]
                token = page.token
                if not token:
                    return sorted(versions, key=lambda version: int(version.number), reverse=True)

    def model_tags(self, model: str) -> Mapping[str, str]:
        """Return the tags of the registered model. Empty if the model does not exist."""
        from mlflow.exceptions import MlflowException

        with self._registry_errors():
            try:
                return dict(self._client.get_registered_model(model).tags)
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return {}
                raise

    def run_of_trial(self, experiment_name: str, trial_key: str) -> str | None:
        """Return the id of the run that shows a trial, or None if MLflow has no such run."""
        with self._registry_errors():
            experiment = self._client.get_experiment_by_name(experiment_name)
            if experiment is None:
                return None
            condition = f"tags.`{projection.TRIAL_TAG}` = '{trial_key}'"
            runs = self._client.search_runs([experiment.experiment_id], condition, max_results=1)
            return str(runs[0].info.run_id) if runs else None

    def load(self, version: RegisteredVersion) -> LoadedVersion:
        """Load a version into this process."""
        import mlflow

        # Artifacts in a local folder are read in place. Other artifacts are downloaded.
        with TemporaryDirectory() as download_folder:
            with self._registry_errors(), silenced():
                location = self._client.get_model_version_download_uri(version.model, version.number)
                is_local = urlsplit(location).scheme in ("", "file")
                folder = mlflow.artifacts.download_artifacts(
                    location, dst_path=None if is_local else download_folder, tracking_uri=self._uri
                )
            return load_model(Path(folder), f"version {version.number} of {version.model}")

    # -------------------------------------------------------------------------------------- writing
    def register(self, model: str, run_id: str, packaged: PackagedModel, tags: Mapping[str, str]) -> RegisteredVersion:
        """Register a packaged model as a new version with these tags.

        Saves it as an artifact of the run first, with its signature and an input example.
        """
        with TemporaryDirectory() as temporary_folder:
            folder = Path(temporary_folder) / ARTIFACT_PATH
            with self._registry_errors(), silenced():
                save_model(packaged, folder, tags)
                self._client.log_artifacts(run_id, str(folder), ARTIFACT_PATH)
        with self._registry_errors(), silenced():
            self._ensure_model(model)
            artifact_uri = str(self._client.get_run(run_id).info.artifact_uri).rstrip("/")
            cut_tags = {name: value[:MAX_TAG_CHARS] for name, value in tags.items()}
            source = f"{artifact_uri}/{ARTIFACT_PATH}"
            return _registered_version(self._client.create_model_version(model, source, run_id, tags=cut_tags))

    def _ensure_model(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model, tags={OWN_MODEL_TAG: "1"})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            self._client.set_registered_model_tag(model, OWN_MODEL_TAG, "1")

    def promote(self, version: RegisteredVersion) -> None:
        """Move the alias `champion` to a version. Idempotent."""
        with self._registry_errors():
            self._client.set_registered_model_alias(version.model, CHAMPION_ALIAS, version.number)

    def tag_version(self, version: RegisteredVersion, tags: Mapping[str, str]) -> None:
        """Set tags of a version. A value is cut to 4,900 characters."""
        with self._registry_errors():
            for name, value in tags.items():
                self._client.set_model_version_tag(version.model, version.number, name, value[:MAX_TAG_CHARS])

    def describe_version(self, version: RegisteredVersion, text: str) -> None:
        """Set the description of a version, which the MLflow UI shows."""
        with self._registry_errors():
            self._client.update_model_version(version.model, version.number, text)

    def tag_model(self, model: str, name: str, value: str) -> None:
        """Set a tag of the registered model. Its value is cut to 4,900 characters."""
        with self._registry_errors():
            self._client.set_registered_model_tag(model, name, value[:MAX_TAG_CHARS])

    @contextmanager
    def _registry_errors(self) -> Iterator[None]:
        """Raise SweepError if MLflow refuses a request or does not answer."""
        try:
            with translated_errors():
                yield
        except UnreachableError as error:
            hint = "Start the MLflow server, or set MLFLOW_TRACKING_URI to another place."
            raise SweepError(f"the model registry at {self._place} cannot be reached: {error}", hint) from error
        except RejectedError as error:
            hint = "Check the message, or set MLFLOW_TRACKING_URI to another place."
            raise SweepError(f"the model registry at {self._place} refused the request: {error}", hint) from error

    @property
    def _place(self) -> str:
        return reachability.without_secrets(self._uri)


def _registered_version(version: ModelVersion) -> RegisteredVersion:
    created_at = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return RegisteredVersion(version.name, str(version.version), version.run_id or None, dict(version.tags), created_at)
