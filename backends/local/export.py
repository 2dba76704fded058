"""Writing a kept model as other programs load it: a PEFT adapter, merged weights, or GGUF."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, assert_never

import torch

from backends.contract import BackendError, Failure, FailureKind
from backends.local import prediction
from backends.local.failures import library_errors_translated
from backends.local.model import quiet
from backends.local.model_source import is_hub_id, user_error
from backends.local.options import LocalOptions
from backends.local.packaging import TEXT_FILES, copy_files
from backends.model_export import ExportFormat

GGUF_CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf", "convert_hf_to_gguf")
"""The names under which llama.cpp's converter, or a package of it, may be found on PATH."""

GGUF_FILE = "model.gguf"
_MAX_ERROR_CHARS = 400


def export(name: str, options: LocalOptions, file_format: ExportFormat, folder: Path) -> None:
    """Write a kept model into the existing, empty `folder`.

    Raises BackendError (user) if `name` is not a kept model, or has no such format.
    """
    kept = Path(name)
    if not (kept / prediction.CARD_FILE).is_file():
        raise user_error(f"{name} is not a model that a run has kept", "run the sweep again")
    match file_format:
        case "adapter":
            _export_adapter(kept, folder)
        case "merged":
            _export_merged(kept, options, folder)
        case "gguf":
            _export_gguf(kept, options, folder)
        case _ as unreachable:
            assert_never(unreachable)


def _card(kept: Path) -> Mapping[str, Any]:
    with library_errors_translated(f"reading {kept / prediction.CARD_FILE}"):
        card: Mapping[str, Any] = json.loads((kept / prediction.CARD_FILE).read_text(encoding="utf-8"))
    return card


def _export_adapter(kept: Path, folder: Path) -> None:
    """Copy the adapter and its tokenizer. Its configuration names the base model."""
    if not (kept / "adapter_config.json").is_file():
        raise user_error("this model is no adapter: all weights were trained", "export it with --format merged")
    card = _card(kept)
    with library_errors_translated(f"copying the adapter {kept}"):
        texts = [path for pattern in TEXT_FILES for path in kept.glob(pattern) if path.name != prediction.CARD_FILE]
        copy_files([*texts, *kept.glob("adapter_model*")], folder)
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        name = str(card.get("base_name") or card["base_model"])
        config["base_model_name_or_path"] = name if is_hub_id(name) else card["base_model"]
        if card.get("base_revision") is not None:
            config["revision"] = card["base_revision"]
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _export_merged(kept: Path, options: LocalOptions, folder: Path) -> None:
    """Save the model with its adapter merged in, in float32: no rounding changes its answers."""
    loaded = prediction.load(str(kept), options, torch.device("cpu"), torch.float32).model
    with quiet(), library_errors_translated(f"saving the model to {folder}"):
        loaded.module.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)


def _export_gguf(kept: Path, options: LocalOptions, folder: Path) -> None:
    converter = next((found for name in GGUF_CONVERTERS if (found := shutil.which(name))), None)
    if converter is None:
        message = f"no converter to GGUF is installed: there is no {GGUF_CONVERTERS[0]} on PATH"
        remedy = "get llama.cpp and put its folder on PATH, or export with --format merged and convert that"
        raise user_error(message, remedy)
    if _card(kept)["task"] != "causal-lm":
        raise user_error("only language models become GGUF files", "export the classifier with --format merged")
    with TemporaryDirectory(dir=folder.parent) as merged:
        _export_merged(kept, options, Path(merged))
        command = [converter, merged, "--outfile", str(folder / GGUF_FILE)]
        if converter.endswith(".py"):
            command = [sys.executable, *command]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if ended.returncode or not (folder / GGUF_FILE).is_file():
        lines = (ended.stderr or ended.stdout).strip().splitlines() or ["it printed nothing"]
        message = f"{converter} failed: {lines[-1][:_MAX_ERROR_CHARS]}"
        raise BackendError(Failure(FailureKind.USER, message, "export with --format merged, and convert that by hand"))
