"""The database under failures: a full disk, a lock of another program, damaged records."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.server import storage
from sweeps.server.records import StoredFile
from sweeps.server.storage import Store

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(storage, "LOCK_TIMEOUT_S", 0.05)
    store = Store(tmp_path / "server.sqlite")
    yield store
    store.close()


def file(number: int, size: int = 10) -> StoredFile:
    return StoredFile(f"file-{number}", "x" * size, "fine-tune", 1, 1, "sha")


def test_a_transaction_that_finds_no_space_leaves_nothing_and_the_next_one_is_written(store: Store) -> None:
    """SQLite's limit of pages stands for the full disk: it gives the same error."""
    ((pages,),) = store._execute("PRAGMA page_count", ())
    store._execute(f"PRAGMA max_page_count = {pages + 5}", ())

    def add_many() -> None:
        with store.transaction():
            for number in range(100):
                store.add(file(number, size=4000))

    with pytest.raises(sqlite3.OperationalError, match="full"):
        add_many()
    assert store.all(StoredFile) == []
    store._execute("PRAGMA max_page_count = 1000000", ())
    store.add(file(1))
    other = sqlite3.connect(f"file:{store._connection.execute('PRAGMA database_list').fetchone()[2]}?mode=ro", uri=True)
    assert other.execute("SELECT id FROM files").fetchall() == [("file-1",)], "it is committed"
    other.close()


def test_a_transaction_that_cannot_begin_leaves_the_store_usable_for_other_threads(
    store: Store, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "server.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        store.add(file(1))
    other.execute("ROLLBACK")
    other.close()
    thread = threading.Thread(target=store.add, args=(file(2),), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "the first thread still holds the lock"
    assert [stored.id for stored in store.all(StoredFile)] == ["file-2"]


def test_a_page_is_full_although_records_are_damaged(store: Store) -> None:
    for number in range(20):
        store.add(file(number))
    store._execute("UPDATE files SET bytes = 'many' WHERE seq % 3 = 0 OR seq > 15", ())
    good = [f"file-{number}" for number in range(15) if (number + 1) % 3]
    for newest_first in (True, False):
        expected = good[::-1] if newest_first else good
        shown: list[str] = []
        has_more = True
        while has_more:
            after = shown[-1] if shown else None
            page, has_more = store.page(StoredFile, after=after, limit=3, newest_first=newest_first)
            assert len(page) == 3 or not has_more
            shown += [stored.id for stored in page]
        assert shown == expected
    assert store.find(StoredFile, "file-2") is None
    assert store.keys(StoredFile) == {f"file-{number}" for number in range(20)}
