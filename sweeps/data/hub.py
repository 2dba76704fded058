"""The Hugging Face `datasets` library: saved data sets, directories of Parquet files, and the hub.

The library needs seconds to import, and up to half a minute of retries to notice that there is no network: it is
imported inside functions, and the hub is asked once, with a time limit, before it is used.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.extras import missing_libraries
from sweeps.data.formats import Read, Record
from sweeps.errors import Problem, UserInputError, require_extra

if TYPE_CHECKING:
    from datasets import Dataset

PROBE_S = 4.0
"""How long the hub may take to say that a data set exists."""

ROWS_AT_ONCE = 1000

_PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "valid": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


class Absent(Exception):  # noqa: N818
    """The source is not there: a missing file or no network, but never a broken content. A fallback may be used."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def is_saved(directory: Path) -> bool:
    """True where `datasets` can read the directory: by `save_to_disk`, or Parquet or Arrow files in it."""
    named = ("dataset_dict.json", "state.json")
    return any((directory / name).is_file() for name in named) or next(_tables(directory), None) is not None


def open_saved(directory: Path, cache: Path | None = None) -> dict[str, Dataset]:
    """Open a directory that `is_saved`; return its parts. Raises UserInputError where it cannot be read.

    Parquet files are converted once into `cache` (None: the library's own place).
    """
    require_extra("local", f"Reading {directory}")
    import datasets

    with _quiet():
        try:
            if (directory / "dataset_dict.json").is_file() or (directory / "state.json").is_file():
                return _parts(datasets.load_from_disk(str(directory)), str(directory))
            loaded = datasets.load_dataset(str(directory), cache_dir=str(cache) if cache else None)
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as broken:
            raise UserInputError([Problem(str(directory), f"datasets cannot load it: {_line(broken)}")]) from broken
    return _parts(loaded, str(directory))


def open_hub(repository: str, config: str | None = None, probe_s: float = PROBE_S) -> dict[str, Dataset]:
    """Load a data set from the hub, or from this machine's cache of it where the hub cannot be reached.

    Decides within `probe_s` and a second that it is not there (`Absent`). Raises UserInputError where it is there and
    cannot be used.
    """
    reason = missing_from_hub(repository, probe_s)
    if reason is not None and missing_libraries("local"):
        raise Absent(reason)  # without the library there is no cached copy either
    require_extra("local", f"Loading {repository} from the Hugging Face hub")
    import datasets

    with _quiet():
        if reason is not None:
            cached = _cached(repository, config)
            if cached is None:
                raise Absent(reason)
            return _parts(cached, repository)
        try:
            loaded = datasets.load_dataset(repository, config)
        except datasets.exceptions.DatasetNotFoundError as gone:
            raise Absent(_line(gone)) from gone
        except (ConnectionError, TimeoutError, _http_error()) as lost:
            raise Absent(f"the connection to the hub was lost: {_line(lost)}") from lost
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as broken:
            raise UserInputError([Problem(f"hf:{repository}", f"datasets cannot load it: {_line(broken)}")]) from broken
    return _parts(loaded, repository)


def missing_from_hub(repository: str, timeout_s: float = PROBE_S, endpoint: str | None = None) -> str | None:
    """Ask the hub for a data set; return None, or why it cannot be had, after `timeout_s` at the latest.

    Name resolution has no time limit of its own: the question is asked in a thread that may be left behind.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    http_error = _http_error()
    answer: list[str | None] = []

    def ask() -> None:
        try:
            HfApi(endpoint=endpoint).dataset_info(repository, timeout=timeout_s)
            answer.append(None)
        except HFValidationError:
            answer.append(f"{repository!r} is no name of a data set (owner/name)")
        except OfflineModeIsEnabled:
            answer.append("the Hugging Face libraries are set to offline mode")
        except HfHubHTTPError as refused:
            status = refused.response.status_code
            unknown = f"the hub has no {repository!r}, or shows it to others only (HTTP {status})"
            answer.append(unknown if status in (401, 403, 404) else f"the hub cannot serve now (HTTP {status})")
        except (http_error, OSError) as unreachable:
            answer.append(f"the hub cannot be reached ({_line(unreachable)})")
        except (ValueError, TypeError):
            answer.append("something else than the hub answered")

    asking = threading.Thread(target=ask, name="hub-probe", daemon=True)
    asking.start()
    asking.join(timeout_s)
    return answer[0] if answer else f"the hub did not answer within {timeout_s:g} s"


def rows(table: Dataset, name: str) -> Read:
    """Return the rows as records, class numbers as their names (none where there is no class). The line is the row."""
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


def _http_error() -> type[Exception]:
    """Return the root of the errors of the HTTP library that the installed huggingface_hub uses."""
    from huggingface_hub import errors

    return errors.HTTPError  # type: ignore[attr-defined]


def _tables(directory: Path) -> Iterator[Path]:
    for pattern in ("*.parquet", "*.arrow", "*/*.parquet", "*/*.arrow"):
        yield from directory.glob(pattern)


def _cached(repository: str, config: str | None) -> Any:
    """Return what an earlier `load_dataset` of this repository left behind, or None."""
    from datasets.packaged_modules.cache.cache import Cache

    try:
        name = repository.rpartition("/")[-1]
        found = Cache(repo_id=repository, dataset_name=name, config_name=config, version="auto", hash="auto")
        return found.as_dataset()
    except (ValueError, OSError):
        return None


def _parts(loaded: Any, name: str) -> dict[str, Dataset]:
    from datasets import Dataset

    if isinstance(loaded, Dataset):
        return {"train": loaded}
    found = {part: loaded[each] for part, names in _PARTS.items() for each in names if each in loaded}
    if "train" not in found:
        if len(loaded) != 1:
            there = ", ".join(sorted(loaded))
            raise UserInputError([Problem(name, f"there is no training part, only: {there}")])
        found = {"train": next(iter(loaded.values()))}
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and warnings off the terminal, and restore them afterwards."""
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


def _line(failure: BaseException) -> str:
    text = " ".join(str(failure).split()) or type(failure).__name__
    return text if len(text) <= 200 else text[:197] + "..."
