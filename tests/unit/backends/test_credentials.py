"""Secrets by name: from a variable, or from the file that NAME_FILE names."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends import credentials
from backends.contract import BackendError, FailureKind

pytestmark = pytest.mark.unit


def test_a_secret_comes_from_the_variable_or_from_the_file_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-a-file\n")
    assert credentials.secret("A", {"A": " plain "}) == "plain"
    assert credentials.secret("A", {"A_FILE": str(file)}) == "from-a-file"
    assert credentials.secret("A", {"A": "plain", "A_FILE": str(file)}) == "plain"
    assert credentials.secret("A", {"B": "x"}) is None
    assert credentials.secret("A", {"A": "", "A_FILE": ""}) is None


def test_a_secret_file_that_cannot_be_read_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(BackendError) as raised:
        credentials.secret("A", {"A_FILE": str(tmp_path / "gone")})
    assert raised.value.failure.kind is FailureKind.USER
    assert "A_FILE" in raised.value.failure.message


def test_secrets_are_read_from_the_current_source(monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"A": "one"}
    credentials.use_secrets_from(source)
    source["A"] = "two"
    assert credentials.secret("A") == "two"
    credentials.use_secrets_from({})
    assert credentials.secret("A") is None
