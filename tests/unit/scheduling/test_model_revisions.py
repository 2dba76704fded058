"""Revisions of base models: by content, not by file time; unknown without hub and cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.scheduling.model_revisions import UNKNOWN, model_revision

pytestmark = pytest.mark.unit


def test_the_revision_of_a_local_model_follows_its_content_and_not_its_file_times(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "weights").write_bytes(b"abc")
    first = model_revision(str(folder), None, True)
    (folder / "config.json").touch()
    assert model_revision(str(folder), None, True) == first
    (folder / "sub" / "weights").write_bytes(b"abd")
    assert model_revision(str(folder), None, True) != first


def test_the_name_identifies_a_hosted_and_an_embedded_model() -> None:
    assert model_revision("builtin:tiny-lm", None, True) == "by its name"
    assert model_revision("gpt-4.1-mini", None, False) == "by its name"


def test_the_revision_of_a_hub_model_is_unknown_without_hub_and_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert model_revision("some-owner/not-a-model-that-exists", None, True) == UNKNOWN
