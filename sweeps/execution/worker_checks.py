"""What a worker needs on its machine beyond finesweep: backend, libraries, models, the store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from backends import credentials, registry
from backends.contract import BackendError, Placement
from sweeps.errors import SweepError, UserInputError
from sweeps.execution.worker_files import cache_folder
from sweeps.file_store.store import FileStore


def problem_on_this_machine(
    backend_type: str, options: str, model_folders: Sequence[str], files: str | None
) -> tuple[str, str]:
    """Return what would make every trial fail on this machine, and the remedy; empty if nothing.

    `options` are the backend's as JSON text, `model_folders` the base models that are folders on
    the driver's machine, and `files` the store.
    """
    credentials.use_secrets_from(os.environ)
    try:
        backend_class = registry.load(backend_type)
        settings = backend_class.options_model.model_validate_json(options)
        with TemporaryDirectory() as folder:
            backend_class.open(settings, Path(folder), Placement()).close()
        if files is not None:
            FileStore(files).check()
            cache_folder().mkdir(parents=True, exist_ok=True)
    except registry.RegistryError as error:
        return error.message, error.hint
    except BackendError as error:
        return error.failure.message.rstrip("."), error.failure.detail
    except UserInputError as error:
        return error.problems[0].message, error.problems[0].hint
    except SweepError as error:
        return error.message, error.hint
    except OSError as error:
        return f"its cache folder {cache_folder()} cannot be written: {error.strerror}", "set SWEEP_CACHE there"
    except ValueError as error:
        return f"its backend {backend_type} does not accept the options: {error}", "install the same version there"
    for folder in model_folders:
        if not Path(folder).is_dir():
            hint = "copy the folder to the same path there, or name a model of the Hugging Face hub"
            return f"the model folder {folder} does not exist there", hint
    return "", ""
