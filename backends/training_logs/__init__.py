"""Training histories, ours and other people's -> learning curves. The format is told from the content."""

from __future__ import annotations

from pathlib import Path

from backends.training_logs import delimited, documents, own
from backends.training_logs.assembly import assemble
from backends.training_logs.table import Context, NamedCurve, TrainingLogError

__all__ = ["Context", "NamedCurve", "read"]


def read(source: Path | bytes, context: Context | None = None, name: str | None = None) -> tuple[NamedCurve, ...]:
    """Read the curves of a file, or of its bytes: one, or one for each trial.

    Raises TrainingLogError, which names the place and the remedy, for what is no history.
    """
    context = context or Context()
    name = name or (str(source) if isinstance(source, Path) else "history")
    text = _text(source, name)
    if text.lstrip()[:1] not in ("{", "["):
        return (assemble(delimited.read(text, name), context),)
    value, by_lines = documents.parse(text, name)
    ours = own.read(value, name, context)
    return ours if ours is not None else (assemble(documents.read(value, name, by_lines=by_lines), context),)


def _text(source: Path | bytes, name: str) -> str:
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except FileNotFoundError:
        raise TrainingLogError(name, "no such file", "give a CSV or JSON file, or mlflow:RUN_ID") from None
    except OSError as error:
        raise TrainingLogError(name, f"cannot be read: {error.strerror}", "give a file that you may read") from None
    if not content.strip():
        raise TrainingLogError(name, "is empty")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise TrainingLogError(
            name, "is neither CSV nor JSON in UTF-8", "give the history as text, not as a model or an image"
        )
    return text
