"""Putting a kept model with all that it needs into a folder, so that it answers without this package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from backends.local import model_source
from backends.local.failures import translated
from backends.local.model_source import user_error
from backends.local.options import LocalOptions
from backends.local.prediction import CARD
from backends.served.package import Package, local_package

_FILES = ("*.json", "*.txt", "*.model", "*.jinja")


def package(name: str, options: LocalOptions, folder: Path) -> Package:
    """Copy a kept model into `folder`, an adapter with its base model. Raises BackendError where there is none."""
    kept = Path(name)
    if not (kept / CARD).is_file():
        raise user_error(f"{name} is no model that a run has kept", "run the sweep again")
    with translated(f"reading {kept / CARD}"):
        card = json.loads((kept / CARD).read_text(encoding="utf-8"))
    adapter = (kept / "adapter_config.json").is_file()
    weights = model_source.find(card["base_model"]) if adapter else model_source.find(name)
    with translated(f"copying the model {name}"):
        texts = (each for pattern in _FILES for each in weights.directory.glob(pattern) if each.name != CARD)
        _copy([*texts, *weights.weight_files], folder / "model")
        if adapter:
            _copy([kept / "adapter_config.json", *kept.glob("adapter_model*")], folder / "adapter")
    facts = {each: card[each] for each in ("task", "layout", "labels", "stop", "max_length")}
    return local_package({**facts, "adapter": adapter, "device": options.device, "dtype": options.dtype})


def _copy(files: Iterable[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for each in files:
        shutil.copy(each, folder / each.name)  # the files of a hub model are links into its cache
