"""A hub that is out of reach: one reason within seconds, and the cache is used if it can be."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from backends import notices
from backends.contract import BackendError
from backends.hugging_face import why_unavailable
from backends.local import model_source

pytestmark = pytest.mark.unit


@pytest.fixture
def silent_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Accept connections and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(model_source, "HUB_PROBE_S", 0.5)
        yield endpoint


def test_a_model_at_a_hub_that_never_answers_is_one_error(silent_hub: str) -> None:
    with pytest.raises(BackendError, match="the hub did not answer") as caught:
        model_source.find("owner/model", weights=False)
    assert "HF_HUB_OFFLINE" in caught.value.failure.detail


def test_a_cached_model_needs_no_answer(silent_hub: str, tmp_path: Path) -> None:
    cached = tmp_path / "cache" / "models--owner--model"
    shutil.copytree(model_source.BUILTIN["builtin:tiny-lm"], cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert model_source.find("owner/model").directory == cached / "snapshots" / "abc"


def test_the_person_who_waits_reads_why(silent_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backends.hugging_face.ANNOUNCED_AFTER_S", 0.1)
    said: list[str] = []
    notices.listen(said.append)
    try:
        assert why_unavailable("dataset", "owner/pairs", 0.5) == "the hub did not answer within 0.5 s"
    finally:
        notices.listen(lambda text: None)
    assert said == [f"waiting for {silent_hub} (owner/pairs)"]


def test_offline_mode_is_a_reason(silent_hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert why_unavailable("model", "owner/model", 5.0) == "the Hugging Face libraries are set to offline mode"
