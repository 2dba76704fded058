"""What a sweep has left in its store: its runs, their models and the data, listed and deleted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from backends.cleanup import Leftover
from sweeps.file_store.data_files import claims, data_name, release_data
from sweeps.file_store.run_archive import RunArchive, run_folder
from sweeps.file_store.store import FileStore

STORED_MODEL, STORED_RUN, STORED_DATA = "stored model", "stored run", "stored data"


@dataclass(frozen=True)
class OwnRun:
    """A run of the sweep: its name in the store, the key of its trial, and the trial's model."""

    run: str
    key: str
    model: str | None


class StoreLeftovers:
    """The leftovers of one sweep in a store.

    Only the runs that the sweep's record names are touched, since a store can serve many sweeps. A
    data file goes once no other sweep claims it.
    """

    def __init__(self, store: FileStore, sweep_id: str, runs: Sequence[OwnRun], digests: Sequence[str]) -> None:
        """`digests` are those of the sweep's data files."""
        self._store, self._sweep_id = store, sweep_id
        self._runs = {run.run: run for run in runs}
        self._digests = dict.fromkeys(digests)

    def leftovers(self) -> list[Leftover]:
        """Return what is there, in an order in which it can be removed. Raises SweepError.

        The checkpoint of a run and the record of its end are one leftover, its kept model another.
        """
        found = []
        sizes = self._sizes_by_run()
        for run in self._runs.values():
            if run.run in sizes:
                found += self._of_run(run, sizes[run.run])
        for sha256 in self._digests:
            size = self._store.size(data_name(sha256))
            if size is not None:
                needed = self._needed(sha256)
                found.append(Leftover(STORED_DATA, self._address(data_name(sha256)), None, None, size, needed))
        return found

    def has(self, leftover: Leftover) -> bool:
        """Return whether a leftover is one of a store."""
        return leftover.kind in (STORED_MODEL, STORED_RUN, STORED_DATA)

    def remove(self, leftover: Leftover) -> str:
        """Delete a leftover, and give up the claim on data that others need.

        Returns why it stays, or the empty string. Idempotent. Raises SweepError.
        """
        if leftover.kind == STORED_DATA:
            sha256 = next((known for known in self._digests if leftover.name == self._address(data_name(known))), None)
            if sha256 is None:
                return "it is not the data of this sweep"
            release_data(self._store, sha256, self._sweep_id)
            return self._needed(sha256)
        run = next((known for known in self._runs if leftover.name == self._address(run_folder(known))), None)
        if run is None:
            return "it is not a run of this sweep"
        archive = RunArchive(self._store, run)
        if leftover.kind == STORED_MODEL:
            archive.discard_model()
        else:
            archive.discard_checkpoint()
        return ""

    def _sizes_by_run(self) -> Mapping[str, Mapping[str, int]]:
        by_run: dict[str, dict[str, int]] = defaultdict(dict)
        for name, size in self._store.sizes("runs").items():
            folder = name.split("/")[1]
            by_run[unquote(folder)][name] = size
        return by_run

    def _of_run(self, run: OwnRun, sizes: Mapping[str, int]) -> list[Leftover]:
        name = self._address(run_folder(run.run))
        stored = {file: size for file, size in sizes.items() if "/files/" in file}
        model: dict[str, int] = {}
        if stored and (found := RunArchive(self._store, run.run).latest()) is not None:
            attempt, manifest = found
            names = {f"{run_folder(run.run)}/{attempt}/files/{file.sha256}" for file in manifest.model}
            model = {file: size for file, size in stored.items() if file in names}
        leftovers = []
        if model:
            leftovers.append(Leftover(STORED_MODEL, name, run.key, run.model or name, sum(model.values())))
        if not model or len(stored) > len(model):
            rest_bytes = sum(sizes.values()) - sum(model.values())
            leftovers.append(Leftover(STORED_RUN, name, run.key, None, rest_bytes))
        return leftovers

    def _needed(self, sha256: str) -> str:
        others = [claim for claim in claims(self._store, sha256) if claim != self._sweep_id]
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        return f"sweep {others[0]}{more} uses it" if others else ""

    def _address(self, name: str) -> str:
        return f"{self._store.url.rstrip('/')}/{name}"
