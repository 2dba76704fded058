"""What a sweep has left in its store: listed by run, and deleted without harm to other sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.cleanup import Leftover
from backends.contract import DataFile, Dataset
from sweeps.file_store.data_files import data_name, put_data
from sweeps.file_store.leftovers import STORED_DATA, STORED_MODEL, STORED_RUN, OwnRun, StoreLeftovers
from sweeps.file_store.run_archive import Manifest, RunArchive, stored_files
from sweeps.file_store.store import FileStore, digest

pytestmark = pytest.mark.unit

MODEL_BYTES, POSITION_BYTES = 5000, 7


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(str(tmp_path / "store"))


def store_run(store: FileStore, run: str, workspace: Path, *, model: bool = True, checkpoint: bool = True) -> str:
    """Store a run as a worker does. Returns the name of its model."""
    folder = workspace / "jobs" / run
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(run.encode() * (MODEL_BYTES // len(run)))
    (folder / "resume").write_bytes(b"x" * POSITION_BYTES)
    models = stored_files([folder / "model"], workspace) if model else ()
    resume = stored_files([folder / "resume"], workspace) if checkpoint else ()
    attempt = RunArchive(store, run).begin("one", workspace, None)
    name = str(folder / "model") if model else None
    attempt.save(Manifest("one", (str(workspace),), "1", (*resume, *models), name, models, ended=True), workspace)
    return str(folder / "model")


def data(folder: Path) -> Dataset:
    files = []
    for part in ("train", "valid"):
        (path := folder / f"{part}.jsonl").write_text(f'{{"prompt": "{part}"}}\n')
        files.append(DataFile(str(path), 1, digest(path)))
    return Dataset(files[0], files[1], "completion")


def kinds(found: list[Leftover]) -> list[tuple[str, str | None]]:
    return [(leftover.kind, leftover.key) for leftover in found]


def test_only_the_runs_of_the_sweep_are_listed_with_their_sizes(store: FileStore, tmp_path: Path) -> None:
    model = store_run(store, "a", tmp_path / "work")
    store_run(store, "another", tmp_path / "work")
    found = StoreLeftovers(store, "pairs-1", [OwnRun("a", "k0", model), OwnRun("b", "k1", None)], []).leftovers()
    assert kinds(found) == [(STORED_MODEL, "k0"), (STORED_RUN, "k0")]
    assert found[0].model == model
    assert found[0].size_bytes == MODEL_BYTES
    assert (found[1].size_bytes or 0) > POSITION_BYTES
    assert found[1].model is None


def test_a_kept_model_survives_the_removal_of_the_rest_and_is_then_alone(store: FileStore, tmp_path: Path) -> None:
    model = store_run(store, "a", tmp_path / "work")
    left = StoreLeftovers(store, "pairs-1", [OwnRun("a", "k0", model)], [])
    assert left.remove(left.leftovers()[1]) == ""
    assert kinds(left.leftovers()) == [(STORED_MODEL, "k0")]
    fetched = tmp_path / "driver" / "jobs" / "a" / "model"
    assert RunArchive(store, "a").fetch_model(fetched, tmp_path / "driver")
    assert (fetched / "weights").stat().st_size == MODEL_BYTES
    assert left.remove(left.leftovers()[0]) == ""
    assert store.names("runs") == [], "the record of a run without a model is of no use"


def test_nothing_of_a_run_stays_once_both_are_removed(store: FileStore, tmp_path: Path) -> None:
    model = store_run(store, "a", tmp_path / "work")
    RunArchive(store, "a").begin("two", tmp_path / "two", None)  # killed before its first state
    left = StoreLeftovers(store, "pairs-1", [OwnRun("a", "k0", model)], [])
    for leftover in (*left.leftovers(), *left.leftovers()):
        assert left.remove(leftover) == "", "removing is idempotent"
    assert store.names("runs") == []
    assert left.leftovers() == []


def test_files_of_a_run_that_retention_has_emptied_are_only_its_record(store: FileStore, tmp_path: Path) -> None:
    model = store_run(store, "a", tmp_path / "work")
    RunArchive(store, "a").discard()
    assert not [name for name in store.sizes("runs") if "/files/" in name]
    left = StoreLeftovers(store, "pairs-1", [OwnRun("a", "k0", model)], [])
    assert kinds(left.leftovers()) == [(STORED_RUN, "k0")]
    left.remove(left.leftovers()[0])
    assert store.names("runs") == []


def test_files_of_an_attempt_that_was_killed_before_its_first_state_go_with_the_others(
    store: FileStore, tmp_path: Path
) -> None:
    store_run(store, "a", tmp_path / "work")
    killed = RunArchive(store, "a").begin("two", tmp_path / "work", None)
    store.upload(tmp_path / "work" / "jobs" / "a" / "resume", f"{killed.folder}/{killed.name}/files/abc")
    RunArchive(store, "a").discard()
    assert not [name for name in store.sizes("runs") if "/files/" in name]


def test_data_goes_once_no_other_sweep_claims_it(store: FileStore, tmp_path: Path) -> None:
    dataset = data(tmp_path)
    put_data(store, dataset, "pairs-1")
    put_data(store, dataset, "pairs-2")
    digests = [dataset.train.sha256, dataset.valid.sha256]
    first, second = (StoreLeftovers(store, sweep, [], digests) for sweep in ("pairs-1", "pairs-2"))
    found = first.leftovers()
    assert kinds(found) == [(STORED_DATA, None)] * 2
    assert {leftover.needed for leftover in found} == {"sweep pairs-2 uses it"}
    assert [first.remove(leftover) for leftover in found] == ["sweep pairs-2 uses it"] * 2
    assert store.size(data_name(digests[0])) is not None
    assert [leftover.needed for leftover in second.leftovers()] == ["", ""]
    assert [second.remove(leftover) for leftover in second.leftovers()] == ["", ""]
    assert store.sizes("data") == store.sizes("claims") == {}


def test_nothing_of_others_can_be_named(store: FileStore, tmp_path: Path) -> None:
    store_run(store, "another", tmp_path / "work")
    left = StoreLeftovers(store, "pairs-1", [OwnRun("a", "k0", None)], [])
    stranger = Leftover(STORED_RUN, f"{store.url}/runs/another", "k9")
    assert left.remove(stranger) == "it is not a run of this sweep"
    assert store.names("runs") == ["another"]
