"""Packaging: copying a kept model, with everything it needs, into a self-contained folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from backends.local import model_source
from backends.local.failures import library_errors_translated
from backends.local.model_source import user_error
from backends.local.options import LocalOptions
from backends.local.prediction import CARD_FILE, base_of
from backends.model_packages import chat_text, local_predictor, text_generation
from backends.model_packages.package import ModelPackage, local_package

TEXT_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
"""The patterns of a model's configuration and tokenizer files."""


def package(name: str, options: LocalOptions, folder: Path) -> ModelPackage:
    """Copy a kept model into `folder`, an adapter together with its base model.

    Raises BackendError (user) if `name` is not a kept model.
    """
    kept = Path(name)
    if not (kept / CARD_FILE).is_file():
        raise user_error(f"{name} is not a model that a run has kept", "run the sweep again")
    with library_errors_translated(f"reading {kept / CARD_FILE}"):
        card = json.loads((kept / CARD_FILE).read_text(encoding="utf-8"))
    is_adapter = (kept / "adapter_config.json").is_file()
    weights = base_of(card) if is_adapter else model_source.find(name)
    with library_errors_translated(f"copying the model {name}"):
        texts = (path for pattern in TEXT_FILES for path in weights.directory.glob(pattern) if path.name != CARD_FILE)
        copy_files([*texts, *weights.weight_files], folder / "model")
        if is_adapter:
            copy_files([kept / "adapter_config.json", *kept.glob("adapter_model*")], folder / "adapter")
        shutil.copy(text_generation.__file__, folder / local_predictor.GENERATION_CODE)
        shutil.copy(chat_text.__file__, folder / local_predictor.CHAT_CODE)
    settings = {key: card[key] for key in ("task", "layout", "labels", "stop", "max_length")}
    # absent in the card of a model that an earlier version has kept
    settings["generation"] = card.get("generation")
    return local_package({**settings, "adapter": is_adapter, "device": options.device, "dtype": options.dtype})


def copy_files(files: Iterable[Path], folder: Path) -> None:
    """Copy files into a folder, which is created if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        # this follows links: a hub model's files are links into the cache
        shutil.copy(path, folder / path.name)
