"""A metric that the user writes: a function in a Python file."""

from __future__ import annotations

import ast
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator

from backends.contract import BackendError
from backends.metrics.built_in import BuiltInMetric, MetricOptions, mean
from backends.metrics.contract import Answers, MetricDeclaration, Scores
from backends.metrics.failures import user_error
from backends.metrics.scorer_client import Code, ScorerError, ScorerProcess

MAX_SOURCE_CHARACTERS = 1_000_000
"""The sources are part of the sweep, so they must be small."""


class PythonOptions(MetricOptions):
    """Options of `python`. A worker needs neither the file nor its folder."""

    short_form: ClassVar[str | None] = "function"

    function: Annotated[
        str,
        Field(
            description="The file and its function: `scoring.py:score`. The function receives "
            "the predictions, the references and the rows, and returns one number for each row, or one number."
        ),
    ]
    references: Annotated[
        Literal["text", "list"],
        Field(
            description="What a reference is: the one acceptable text of a row, or the list of its acceptable texts."
        ),
    ] = "text"
    direction: Annotated[Literal["maximize", "minimize"], Field(description="Which numbers are better.")] = "maximize"
    low: Annotated[float | None, Field(description="The lowest possible number, if there is one.")] = None
    high: Annotated[float | None, Field(description="The highest possible number, if there is one.")] = None
    timeout_s: Annotated[
        float, Field(gt=0, description="The most seconds that a call may take. Loading the file may take a minute.")
    ] = 60.0
    sources: Annotated[
        dict[str, str],
        Field(
            default_factory=dict,
            description="Not for the sweep file: the text of the Python file and of those that it imports.",
        ),
    ]
    folder: Annotated[Path | None, Field(description="Not for the sweep file: where the Python file was found.")] = None

    @field_validator("function")
    @classmethod
    def _names_file_and_function(cls, text: str) -> str:
        file, _, name = text.rpartition(":")
        if not file.endswith(".py") or not name.isidentifier():
            raise ValueError(f"{text!r} must name a file and a function: `scoring.py:score`")
        return text

    @property
    def file(self) -> Path:
        """The file as the user names it."""
        return Path(self.function.rpartition(":")[0])

    @property
    def function_name(self) -> str:
        """The name of the function."""
        return self.function.rpartition(":")[2]


class PythonFunction(BuiltInMetric[PythonOptions]):
    """The number that a function of the user returns, or the mean of its numbers for the rows.

    The function runs in a process of its own, in the folder of its file where that exists, with a
    time limit for each call. It receives three lists of equal length: `predictions` (texts),
    `references` (a text each; with `references: list` a list of texts each), and `rows` (the
    columns of each example). A single number has no interval over examples.

    `prepare` reads the file, and every file and package beside it that it imports. So the code is
    part of the options, and thereby of the fingerprint of the sweep.
    """

    options_model = PythonOptions

    def __init__(self, options: PythonOptions) -> None:
        super().__init__(options)
        if not options.sources or options.folder is None:
            raise user_error(f"{options.function} has not been read", "Call `prepare` first.")
        code = Code(str(options.folder), options.file.name, options.function_name, options.sources, parameters=3)
        self._process = ScorerProcess(code, options.timeout_s)

    @classmethod
    def prepare(cls, options: BaseModel, folder: Path) -> BaseModel:
        """Read the sources into the options. Raises BackendError (user) if a file is unreadable."""
        assert isinstance(options, PythonOptions)
        if options.sources:
            return options
        path = Path(os.path.abspath(folder / options.file.expanduser()))
        return options.model_copy(update={"sources": sources_of(path), "folder": path.parent})

    @classmethod
    def describe(cls, options: BaseModel) -> MetricDeclaration:
        """Return the declaration that the user gives."""
        assert isinstance(options, PythonOptions)
        return MetricDeclaration(options.direction, options.low, options.high)

    def problems(self, answers: Answers) -> Sequence[str]:
        """Report rows with several texts, if the function receives one."""
        several = [n for n, texts in enumerate(answers.references, start=1) if len(texts) > 1]
        if self.options.references == "list" or not several:
            return ()
        return [
            f"example {several[0]} has several acceptable texts, but {self.options.function} receives one a row; set "
            "`references: list` and take a list"
        ]

    def score(self, answers: Answers) -> Scores:
        """Score the answers. Raises BackendError (user) if the function fails in any way."""
        if problems := self.problems(answers):
            raise user_error(problems[0])
        references = [texts[0] if self.options.references == "text" else list(texts) for texts in answers.references]
        try:
            result = self._process.call(list(answers.predictions), references, [dict(row) for row in answers.rows])
        except ScorerError as error:
            raise user_error(error.message, error.detail) from None
        if not isinstance(result, list):
            self._check(result, "")
            return Scores(result)
        if len(result) != len(answers.predictions):
            raise self._wrong(f"{len(result)} numbers for {len(answers.predictions)} rows")
        for number, value in enumerate(result, start=1):
            self._check(value, f" for row {number}")
        return Scores(mean(result), tuple(result))

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _check(self, value: float, place: str) -> None:
        options = self.options
        if not math.isfinite(value):
            raise self._wrong(f"{value}{place}; a score must be finite")
        if (options.low is not None and value < options.low) or (options.high is not None and value > options.high):
            raise self._wrong(f"{value:g}{place}, outside the declared range from {options.low} to {options.high}")

    def _wrong(self, what: str) -> BackendError:
        name, file = self.options.function_name, self.options.file.name
        return user_error(f"{name}() of {file} returned {what}", "Return a number, or one number for each row.")


def sources_of(path: Path) -> dict[str, str]:
    """Return the text of a Python file and of all modules beside it that it imports.

    The names are relative to its folder. Packages count if they have an `__init__.py`; all of their
    files are included. Raises BackendError (user) for a file that is missing, unreadable or no
    Python, or if the texts are too long together.
    """
    folder = path.parent
    sources: dict[str, str] = {}
    unread = [path]
    while unread:
        file = unread.pop()
        name = file.relative_to(folder).as_posix()
        if name not in sources:
            sources[name] = _text_of(file)
            unread += _imported(file, sources[name], folder)
        if sum(map(len, sources.values())) > MAX_SOURCE_CHARACTERS:
            raise user_error(
                f"{path.name} imports more than {MAX_SOURCE_CHARACTERS:,} characters of Python from {folder}",
                "Move the scoring function to a folder of its own.",
            )
    return dict(sorted(sources.items()))


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise user_error(f"there is no file {file}", "The name counts from the folder of the sweep file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise user_error(f"{file} cannot be read: {error}") from error


def _imported(file: Path, source: str, folder: Path) -> list[Path]:
    try:
        tree = ast.parse(source, filename=str(file))
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise user_error(f"{file}{line} is no Python: {getattr(error, 'msg', error)}") from None
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    found: list[Path] = []
    for name in sorted(names):
        package = folder / name
        if (package / "__init__.py").is_file():
            found += sorted(package.rglob("*.py"))
        elif (folder / f"{name}.py").is_file():
            found.append(folder / f"{name}.py")
    return found
