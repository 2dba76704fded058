"""Paths in options: a backend declares them by type or mark, and they become absolute."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, DirectoryPath, FilePath

from backends.hosted.options import HostedOptions
from backends.local.options import LocalOptions
from backends.local_paths import MayBePath, absolute_name, with_absolute_paths

pytestmark = pytest.mark.unit


class Nested(BaseModel):
    certificate: Path | None = None


class Options(BaseModel):
    model_config = ConfigDict(frozen=True)

    model: Annotated[str, MayBePath()] = "builtin:x"
    note: str = "models"
    rules: FilePath | None = None
    folder: DirectoryPath | None = None
    files: tuple[Path, ...] = ()
    more: Mapping[str, Path] = {}
    names: Annotated[list[str], MayBePath()] = []
    nested: Nested = Nested()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "rules.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_declared_path_becomes_absolute_and_nothing_else(folder: Path) -> None:
    written = Options(
        model="models",
        rules=Path("rules.txt"),
        folder=Path("models"),
        files=(Path("a"), folder / "b"),
        more={"x": Path("../c")},
        names=["models", "org/hub-model"],
        nested=Nested(certificate=Path("cert.pem")),
    )
    absolute = with_absolute_paths(written)
    assert absolute == Options(
        model=str(folder / "models"),
        rules=folder / "rules.txt",
        folder=folder / "models",
        files=(folder / "a", folder / "b"),
        more={"x": folder.parent / "c"},
        names=[str(folder / "models"), "org/hub-model"],
        nested=Nested(certificate=folder / "cert.pem"),
    )
    assert (written.model, absolute.note) == ("models", "models")


def test_options_without_a_relative_path_stay_the_same_object() -> None:
    for options in (Options(), LocalOptions(), LocalOptions(model="org/model"), HostedOptions(model="gpt")):
        assert with_absolute_paths(options) is options


@pytest.mark.parametrize(
    ("name", "is_path"),
    [
        ("models", True),
        ("./absent", True),
        ("../absent", True),
        ("absent", False),
        ("org/absent", False),
        ("builtin:tiny-lm", False),
        ("~unknown-user/x", True),
        ("a\0b", False),
        ("", False),
    ],
)
def test_a_name_is_a_path_if_something_lies_there_or_it_begins_like_one(folder: Path, name: str, is_path: bool) -> None:
    absolute = absolute_name(name)
    assert Path(absolute).is_absolute() is is_path
    assert is_path or absolute == name
    assert absolute_name(absolute) == absolute


def test_a_link_stays_a_link_and_the_home_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    (folder / "link").symlink_to("models")
    assert absolute_name("link") == str(folder / "link")
    assert absolute_name("~/x") == "/somewhere/x"


def test_the_built_in_backends_declare_their_paths(folder: Path) -> None:
    local = with_absolute_paths(LocalOptions(model="models"))
    hosted = with_absolute_paths(HostedOptions(model="models", tokenizer="rules.txt"))
    assert local.model == str(folder / "models")
    assert (hosted.model, hosted.tokenizer) == ("models", str(folder / "rules.txt"))
