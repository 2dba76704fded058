"""Reads training logs of many programs into learning curves.

The content of a log reveals its format.
"""

from __future__ import annotations

from pathlib import Path

from backends.file_kind import is_shell_stream, kind_of
from backends.training_logs import delimited_text, json_formats, sweep_output
from backends.training_logs.curve_assembly import assemble_curve
from backends.training_logs.errors import TrainingLogError
from backends.training_logs.imported_curve import ImportedCurve, RunDetails

__all__ = ["ImportedCurve", "RunDetails", "TrainingLogError", "read"]


def read(source: Path | bytes, details: RunDetails | None = None, name: str | None = None) -> tuple[ImportedCurve, ...]:
    """Return the curves in a file, or in its bytes: one curve, or one for each trial of a sweep.

    `name` stands for the source in messages; default: the path. Raises TrainingLogError, with the
    place and the remedy, for a source that is not a training log.
    """
    details = details or RunDetails()
    name = name or (str(source) if isinstance(source, Path) else "history")
    text = _text(source, name)
    if text.lstrip()[:1] not in ("{", "["):
        return (assemble_curve(delimited_text.read(text, name), details),)
    value, is_lines = json_formats.parse(text, name)
    sweep_curves = sweep_output.read(value, name, details)
    if sweep_curves is not None:
        return sweep_curves
    return (assemble_curve(json_formats.read(value, name, is_lines=is_lines), details),)


def _could_block(path: Path) -> bool:
    return not is_shell_stream(path) and kind_of(path) in ("a pipe", "a socket", "a device")


def _text(source: Path | bytes, name: str) -> str:
    try:
        if isinstance(source, Path) and _could_block(source):
            raise TrainingLogError(name, "this is a pipe or a device, not a file", "give a CSV or JSON file")
        content = source if isinstance(source, bytes) else source.read_bytes()
    except FileNotFoundError:
        raise TrainingLogError(name, "no such file", "give a CSV or JSON file, or mlflow:RUN_ID") from None
    except OSError as error:
        message = f"the file cannot be read: {error.strerror}"
        raise TrainingLogError(name, message, "give a file that you may read") from None
    if not content.strip():
        raise TrainingLogError(name, "the file is empty")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        message = "the file is neither CSV nor JSON in UTF-8"
        raise TrainingLogError(name, message, "give the log as text; models and images cannot be read")
    return text
