"""Examples in memory and on disk are the same sequence."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.data.example_store import ExampleStore, Selection
from sweeps.data.examples import Example

pytestmark = pytest.mark.unit


def examples(count: int, length: int = 10) -> list[Example]:
    return [
        Example(f"{number} " * length, "yes", (f"{number}",), "a.csv", number, group=str(number % 3))
        for number in range(count)
    ]


@given(st.integers(0, 40), st.integers(0, 400), st.data())
@settings(max_examples=40, deadline=None)
def test_a_store_is_the_list_that_was_appended(
    tmp_path_factory: pytest.TempPathFactory, count: int, limit: int, data: st.DataObject
) -> None:
    written = examples(count)
    store = ExampleStore(tmp_path_factory.mktemp("store"), limit)
    for number, example in enumerate(written):
        store.append(example)
        if data.draw(st.booleans()):
            assert store[number] == example  # reading between two writes

    assert len(store) == count
    assert list(store) == written
    assert list(store) == written  # a second pass
    if count:
        index = data.draw(st.integers(-count, count - 1))
        assert store[index] == written[index]
    start, stop = data.draw(st.integers(-50, 50)), data.draw(st.integers(-50, 50))
    assert list(store[start:stop]) == written[start:stop]
    with pytest.raises(IndexError):
        store[count]


@given(st.lists(st.integers(0, 19)), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_selection_keeps_the_order_of_its_indices(
    tmp_path_factory: pytest.TempPathFactory, indices: list[int], on_disk: bool
) -> None:
    written = examples(20)
    store = ExampleStore(tmp_path_factory.mktemp("store"), 0 if on_disk else 10**9)
    for example in written:
        store.append(example)

    for order in (indices, sorted(set(indices))):
        selection = Selection(store, order)
        assert list(selection) == [written[index] for index in order]
        assert [selection[number] for number in range(len(selection))] == [written[index] for index in order]


def test_texts_longer_than_a_block_are_read_whole(tmp_path: Path) -> None:
    written = examples(3, length=2_000_000)
    store = ExampleStore(tmp_path)
    for example in written:
        store.append(example)
    assert list(store) == written


def test_nothing_stays_on_disk_nor_open(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    store = ExampleStore(tmp_path / "data", 0)
    for example in examples(5):
        store.append(example)
    assert list((tmp_path / "data").iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == descriptors + 1
    del store
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
