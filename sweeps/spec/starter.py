"""`sweep init`: a first sweep file with comments, adapted to the columns of a data file."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path

from backends.file_kind import kind_of
from sweeps.data.conversations import has_conversations
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.spec.json_schema import FILE_NAME, schema_text
from sweeps.spec.starter_from_program import starter_from

PROMPT_NAMES = ("prompt", "question", "instruction", "input", "text", "sentence", "premise", "v2")
COMPLETION_NAMES = ("completion", "answer", "output", "json", "sql", "response", "label", "target", "class", "v1")

EDITOR_LINE = "# yaml-language-server: $schema=./{schema}"
"""The comment from which an editor with a YAML language server takes the schema of the file."""

_TEMPLATE = (
    EDITOR_LINE
    + """
# A sweep file. `sweep plan {file}` shows what each line means, `sweep run {file}` runs it.
name: {name}

data:
  source: {source}
{templates}  # validation: 0.1            # a file or a fraction; default: the source's own part, else 0.1
  # train_examples: 2000        # use at most this many

backend:
  type: local                   # `sweep backends` lists the installed backends
  model: builtin:tiny-lm        # a local transformers model directory, or a hub id

space:                          # `sweep spaces` lists named spaces: {{use: lora}}
  n_epochs: recommended
  batch_size: recommended       # the effective batch size, as a share of the training set
  learning_rate_multiplier: recommended
  prompt_loss_weight: [0.01, 0.1, 1.0]

search:
  sampler: tpe                  # tpe, gp, cmaes, random, grid, qmc, nsga2
  scheduler: asha               # asha, median, none: the rule that stops weak trials early
  trials: 16
  seed: 7

{objective}
budget: {{hours: 1}}
"""
)


_FREE_TEXT = """evaluation:
  metrics: [chrf, exact_match]  # measured on texts that the model writes; `sweep metrics` lists them
  generate: {examples: 100, max_tokens: 64}

objective: {maximize: valid_chrf}   # or valid_exact_match, or valid_accuracy if there are few different completions"""


def write_starter(file: Path, data_file: Path | None, program: Path | None = None, *, overwrite: bool) -> None:
    """Write a first sweep file and, beside it, the JSON Schema that its first line names.

    It is for a data file, or for a training program (`starter_from_program`), or an example.

    Nothing is written if the sweep file exists, or a different schema file, unless `overwrite`.
    Raises UserInputError with all reasons, SweepError if the disk refuses.
    """
    schema_file, schema = file.parent / FILE_NAME, schema_text()
    problems = []
    if file.exists() and not overwrite:
        problems.append(Problem(str(file), "exists already", "choose another name, or --force to overwrite it"))
    if schema_file.exists() and not overwrite and schema_file.read_bytes() != schema.encode():
        hint = "move the file away, or --force to overwrite it"
        problems.append(Problem(str(schema_file), "exists already, with other content", hint))
    if problems:
        raise UserInputError(problems)
    text = starter(file.stem, data_file) if program is None else starter_from(program, sweep_name(file.stem))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        schema_file.write_bytes(schema.encode())
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        hint = "choose a folder in which you may write"
        raise SweepError(f"cannot write {error.filename or file}: {error.strerror}", hint) from error


def starter(name: str, data_file: Path | None) -> str:
    """Return the text of a first sweep file.

    Raises UserInputError if the data file's columns cannot be read.
    """
    source, objective = "builtin:nli", "objective: {maximize: valid_accuracy}"
    templates: tuple[str, str] | None = ("{premise}\n{hypothesis}", " {label}")
    if data_file is not None:
        source = str(data_file)
        columns = _columns(data_file)
        completion, templates = "", None
        if not has_conversations(columns):
            prompt = _choose_column(columns, PROMPT_NAMES, data_file)
            completion = _choose_column(columns, COMPLETION_NAMES, data_file)
            templates = (f"{{{prompt}}}", f" {{{completion}}}")
        if completion not in ("label", "class", "target", "v1"):
            objective = _FREE_TEXT
    lines = ""
    if templates is not None:
        prompt_text = json.dumps(templates[0] + "\n\n###\n\n")
        lines = f"  prompt: {prompt_text}   # a separator ends every prompt\n  completion: {json.dumps(templates[1])}\n"
    return _TEMPLATE.format(
        schema=FILE_NAME,
        name=sweep_name(name),
        file=f"{name}.yaml",
        source=source,
        templates=lines,
        objective=objective,
    )


def sweep_name(name: str) -> str:
    """Return a text as the name of a sweep."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "sweep"


def _columns(path: Path) -> list[str]:
    """Return the column names of a CSV or TSV file, or the keys of the first JSON line."""
    opener = gzip.open if path.suffix == ".gz" else open
    suffix = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    try:
        if (kind := kind_of(path)) != "a file":
            raise UserInputError([Problem(str(path), f"is {kind}, not a file", "name a .jsonl, .csv or .tsv file")])
        with opener(path, "rt", encoding="utf-8", errors="replace", newline="") as file:
            if suffix in (".csv", ".tsv"):
                header = next(csv.reader(file, delimiter="\t" if suffix == ".tsv" else ","), [])
                return [column for column in header if column]
            first = json.loads(file.readline())
    except OSError as error:
        raise UserInputError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    except json.JSONDecodeError:
        raise UserInputError(
            [Problem(f"{path}:1", "is not a JSON object", "use a .jsonl, .csv or .tsv file")]
        ) from None
    return list(first) if isinstance(first, dict) else []


def _choose_column(columns: Sequence[str], preferred: Sequence[str], path: Path) -> str:
    """Return the first preferred column that exists.

    Without one it is the first column for prompts, the last one for completions.
    """
    by_name = {column.casefold(): column for column in columns}
    for name in preferred:
        if name in by_name:
            return by_name[name]
    if len(columns) < 2:
        raise UserInputError(
            [Problem(f"{path}:1", "has fewer than two columns", "add columns for a prompt and a completion")]
        )
    return columns[0] if preferred is PROMPT_NAMES else columns[-1]
