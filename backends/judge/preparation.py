"""Reads the files that the options of `judge` name: the rubric, and the labels of a person."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from backends.judge.options import HumanLabel, JudgeOptions
from backends.metrics.failures import user_error

MAX_RUBRIC_CHARACTERS = 50_000
MAX_HUMAN_LABELS = 2_000
"""The labels are part of the sweep, and the judge grades each of them."""

SHOWN_LINES = 3
TEXT_SUFFIXES = (".md", ".markdown", ".txt", ".rst")


def with_files(options: JudgeOptions, folder: Path) -> JudgeOptions:
    """Return the options with the contents of their files. Raises BackendError (user)."""
    if options.files_read:
        return options
    labels = () if options.human is None else _labels(options.human, folder, options)
    contents = {"rubric": _rubric(options.rubric, folder), "human_labels": labels, "files_read": True}
    return options.model_copy(update=contents)


def _rubric(text: str, folder: Path) -> str:
    """Return the rubric: the content of the file that `text` names, or `text` itself."""
    path = _path(text, folder)
    if path is not None and (path.is_file() or text.strip().lower().endswith(TEXT_SUFFIXES)):
        text = _content(path, "the rubric")
    if not text.strip():
        raise user_error("the rubric is empty", "Say what makes an answer good.")
    if len(text) > MAX_RUBRIC_CHARACTERS:
        message = f"the rubric has {len(text):,} characters, and the judge would read it for every answer"
        raise user_error(message, f"Shorten it to at most {MAX_RUBRIC_CHARACTERS:,}.")
    return text.strip()


def _path(text: str, folder: Path) -> Path | None:
    """Return the path that a text can be, or None for a text of several lines or words."""
    name = text.strip()
    if not name or len(name) > 255 or any(character in name for character in "\n\0"):
        return None
    path = folder / Path(name).expanduser()
    return path if " " not in name or path.is_file() else None


def _content(path: Path, noun: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        message = f"{noun} {path} does not exist"
        raise user_error(message, "The name counts from the folder of the sweep file.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise user_error(f"{noun} {path} cannot be read: {reason}", "Name a text file.") from error


def _labels(name: str, folder: Path, options: JudgeOptions) -> tuple[HumanLabel, ...]:
    path = folder / Path(name).expanduser()
    lines = [
        (number, line)
        for number, line in enumerate(_content(path, "the file `human`").splitlines(), start=1)
        if line.strip()
    ]
    if not lines:
        raise user_error(f"the file `human` {path} is empty", "Give at least two answers that a person graded.")
    if len(lines) > MAX_HUMAN_LABELS:
        message = f"{path} has {len(lines):,} lines, and the judge would grade each of them"
        raise user_error(message, f"Keep at most {MAX_HUMAN_LABELS:,}; some hundred are enough.")
    labels: list[HumanLabel] = []
    problems: list[str] = []
    for number, line in lines:
        try:
            value = json.loads(line)
            label = HumanLabel.model_validate(value if isinstance(value, dict) else {}, strict=True)
            wrong = list(_problems_of(label, options))
        except json.JSONDecodeError:
            wrong = ["it is no JSON"]
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            wrong = [f"it has no `{field}`" if first["type"] == "missing" else f"`{field}`: {first['msg']}"]
        else:
            labels.append(label)
        problems += [f"{path.name}:{number}: {text}" for text in wrong[:1]]
    if problems:
        more = f"; and {len(problems) - SHOWN_LINES} more lines" if len(problems) > SHOWN_LINES else ""
        fields = "`prompt`, `answer`, `other`, `preferred`" if options.pairwise else "`prompt`, `answer`, `grade`"
        raise user_error("; ".join(problems[:SHOWN_LINES]) + more, f"Each line of {path} needs {fields}.")
    if len({label.preferred if options.pairwise else label.grade for label in labels}) < 2:
        message = f"all labels in {path} are the same, so that agreement with them says nothing"
        raise user_error(message, "Add answers that the person rated differently.")
    return tuple(labels)


def _problems_of(label: HumanLabel, options: JudgeOptions) -> Iterator[str]:
    if options.pairwise is not None:
        if label.other is None:
            yield "it has no `other`, the text that the answer was compared with"
        if label.preferred is None:
            yield "it has no `preferred`: answer, other or tie"
        return
    low, high = options.grades
    if label.grade is None:
        yield "it has no `grade`"
    elif not low <= label.grade <= high:
        yield f"the grade {label.grade} is not on the scale from {low} to {high}"
