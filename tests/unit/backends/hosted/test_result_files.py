"""Result files in every encoding and with the column names of every host."""

from __future__ import annotations

import base64
import math

import pytest

from backends.hosted import profile, result_files

pytestmark = pytest.mark.unit

ALIASES = profile.load("openai").metrics.aliases
PLAIN = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n1,0.9,0.5,,\n2,0.7,0.6,0.8,0.55\n"


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        base64.b64encode(PLAIN.encode()),
        base64.encodebytes(PLAIN.encode()),
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.replace("\n", "\r\n").encode(),
    ],
    ids=["plain", "base64", "base64 in lines", "byte order mark", "Windows"],
)
def test_a_result_file_is_read_in_every_encoding(content: bytes) -> None:
    assert result_files.read(content, ALIASES) == [
        {"step": 1.0, "train_loss": 0.9, "train_mean_token_accuracy": 0.5},
        {
            "step": 2.0,
            "train_loss": 0.7,
            "train_mean_token_accuracy": 0.6,
            "valid_loss": 0.8,
            "valid_mean_token_accuracy": 0.55,
        },
    ]


def test_the_column_names_of_azure_are_aliases() -> None:
    names = "step,train_loss,train_mean_token_accuracy,valid_loss,validation_mean_token_accuracy,full_valid_loss"
    assert result_files.read(f"{names}\n3,1,2,3,4,5\n".encode(), ALIASES) == [
        {
            "step": 3.0,
            "train_loss": 1.0,
            "train_mean_token_accuracy": 2.0,
            "valid_loss": 3.0,
            "valid_mean_token_accuracy": 4.0,
            "full_valid_loss": 5.0,
        }
    ]


def test_a_non_finite_number_counts_and_an_empty_cell_does_not() -> None:
    (row,) = result_files.read(b"step,train_loss,valid_loss\n1,nan,\n", ALIASES)
    assert math.isnan(row["train_loss"])
    assert "valid_loss" not in row


@pytest.mark.parametrize("content", [b"", b"<html>", b"\xff\xfe\x00", base64.b64encode(b"\xff"), b"epoch,loss\n1,2\n"])
def test_other_content_has_no_rows(content: bytes) -> None:
    assert result_files.read(content, ALIASES) == []
