"""Which files of a folder are which part."""

from __future__ import annotations

import pytest

from sweeps.data.part_files import arrange, natural_order
from sweeps.data.readers.files import is_data_file
from sweeps.errors import UserInputError

pytestmark = pytest.mark.unit


def arranged(*names: str) -> dict[str, list[str]]:
    return arrange(names, is_data_file, "folder")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.csv", "dev.csv", "test.csv"], {"train": ["train.csv"], "valid": ["dev.csv"], "test": ["test.csv"]}),
        (["Training.JSONL.gz", "val.jsonl"], {"train": ["Training.JSONL.gz"], "valid": ["val.jsonl"]}),
        (
            ["train-00001-of-00002.parquet", "train-00000-of-00002.parquet", "validation-00000-of-00001.parquet"],
            {
                "train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
                "valid": ["validation-00000-of-00001.parquet"],
            },
        ),
        (["train2.csv", "train10.csv", "train1.csv"], {"train": ["train1.csv", "train2.csv", "train10.csv"]}),
        (["part2.csv", "part1.csv", "part10.csv"], {"train": ["part1.csv", "part2.csv", "part10.csv"]}),
        (["january.csv", "february.csv"], {"train": ["february.csv", "january.csv"]}),
        (["squad_train.csv", "squad-test.csv"], {"train": ["squad_train.csv"], "test": ["squad-test.csv"]}),
        (["data/train-0.parquet", "README.md"], {"train": ["data/train-0.parquet"]}),
        (
            ["default/train/0001.parquet", "default/train/0000.parquet", "default/test/0000.parquet"],
            {
                "train": ["default/train/0000.parquet", "default/train/0001.parquet"],
                "test": ["default/test/0000.parquet"],
            },
        ),
        (["train.csv", "old/train.csv"], {"train": ["train.csv"]}),
        (["train.csv", "labels.csv"], {"train": ["train.csv"]}),
        (["test.csv"], {"test": ["test.csv"]}),
        (["notes.txt"], {}),
        ([], {}),
    ],
)
def test_the_names_say_the_parts(names, expected):
    assert arranged(*names) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.jsonl", "training.jsonl"], "several files for one part: train.jsonl, training.jsonl"),
        (["train.jsonl", "train.csv"], "several files for one part"),
        (["train_old.csv", "train_new.csv"], "several files for one part"),
        (["a.csv", "b.jsonl"], "files of several formats: a.csv, b.jsonl"),
    ],
)
def test_files_that_could_be_meant_are_an_error(names, message):
    with pytest.raises(UserInputError, match=message):
        arranged(*names)


def test_numbers_in_names_sort_by_their_value():
    assert sorted(["b1", "a10", "a9", "a09b", "A", "10", "9"], key=natural_order) == [
        "9", "10", "A", "a09b", "a9", "a10", "b1"
    ]  # fmt: skip
