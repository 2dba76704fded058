"""The Hugging Face `datasets` library: data sets that it saved, and the hub.

Importing the library takes seconds, so functions import it. Without a network it retries for up to
half a minute, so `open_hub` first asks the hub once, with a time limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.extras import missing_libraries
from backends.hugging_face import PROBE_S, http_error, one_line, why_unavailable
from sweeps.data.part_files import PART_NAMES
from sweeps.data.readers.record import Record, RecordStream
from sweeps.errors import Problem, UserInputError, require_extra

if TYPE_CHECKING:
    from datasets import Dataset

ROWS_AT_ONCE = 1000


class SourceUnavailableError(Exception):
    """The source is unavailable: a missing file or no network, never wrong content.

    The fallback may take its place.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_saved(directory: Path) -> bool:
    """Return whether `save_to_disk` of the library wrote the directory."""
    return any((directory / name).is_file() for name in ("dataset_dict.json", "state.json"))


def open_saved(directory: Path) -> dict[str, Dataset]:
    """Open a directory for which `is_saved` holds; return its parts.

    Raises UserInputError if the library cannot read it.
    """
    require_extra("local", f"Reading {directory}")
    import datasets

    with _quiet():
        try:
            loaded = datasets.load_from_disk(str(directory))
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as failure:
            raise UserInputError(
                [Problem(str(directory), f"datasets cannot load it: {one_line(failure)}")]
            ) from failure
    return _parts(loaded, str(directory))


def open_hub(repository: str, config: str | None = None, probe_s: float = PROBE_S) -> dict[str, Dataset]:
    """Load a data set from the hub, or from this machine's cache if the hub is unreachable.

    Raises SourceUnavailableError if there is neither, at most a second after `probe_s`. Raises
    UserInputError if the data set exists but cannot be used.
    """
    reason = why_unavailable("dataset", repository, probe_s)
    if reason is not None and missing_libraries("local"):
        raise SourceUnavailableError(reason)  # without the library there is no cached copy either
    require_extra("local", f"Loading {repository} from the Hugging Face hub")
    import datasets

    with _quiet():
        if reason is not None:
            cached = _cached(repository, config)
            if cached is None:
                raise SourceUnavailableError(reason)
            return _parts(cached, repository)
        try:
            loaded = datasets.load_dataset(repository, config)
        except datasets.exceptions.DatasetNotFoundError as missing:
            raise SourceUnavailableError(one_line(missing)) from missing
        except (ConnectionError, TimeoutError, http_error()) as failure:
            raise SourceUnavailableError(f"the connection to the hub failed: {one_line(failure)}") from failure
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as failure:
            message = f"datasets cannot load it: {one_line(failure)}"
            raise UserInputError([Problem(f"hf:{repository}", message)]) from failure
    return _parts(loaded, repository)


def row_records(table: Dataset, name: str) -> RecordStream:
    """Yield the rows as records, numbered from 1.

    Class numbers become class names; an example without a class gets None.
    """
    from datasets import ClassLabel

    classes = {column: feature.names for column, feature in table.features.items() if isinstance(feature, ClassLabel)}
    number = 0
    for batch in table.with_format("arrow").iter(ROWS_AT_ONCE):
        for row in batch.to_pylist():
            number += 1
            for column, names in classes.items():
                index = row[column]
                row[column] = names[index] if index is not None and 0 <= index < len(names) else None
            yield Record(row, name, number)


def _cached(repository: str, config: str | None) -> Any:
    """Return the data set that an earlier `load_dataset` of this repository cached, or None."""
    from datasets.packaged_modules.cache.cache import Cache

    try:
        name = repository.rpartition("/")[-1]
        cache = Cache(repo_id=repository, dataset_name=name, config_name=config, version="auto", hash="auto")
        return cache.as_dataset()
    except (ValueError, OSError):
        return None


def _parts(loaded: Any, place: str) -> dict[str, Dataset]:
    from datasets import Dataset

    if isinstance(loaded, Dataset):
        return {"train": loaded}
    parts = {part: loaded[name] for part, names in PART_NAMES.items() for name in names if name in loaded}
    if "train" not in parts:
        if len(loaded) != 1:
            available = ", ".join(sorted(loaded))
            raise UserInputError([Problem(place, f"the data set has no training part, only: {available}")])
        parts = {"train": next(iter(loaded.values()))}
    return parts


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and warnings off the terminal; restore them afterwards."""
    import datasets

    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
