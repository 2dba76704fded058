"""`sweep init`: a first sweep file, with comments, fitted to the columns of a data file where one is given."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path

from sweeps.errors import Problem, UserInputError

PROMPT_NAMES = ("prompt", "question", "instruction", "input", "text", "sentence", "premise", "v2")
COMPLETION_NAMES = ("completion", "answer", "output", "response", "label", "target", "class", "v1")

_TEMPLATE = """\
# A sweep file. `sweep plan {file}` shows what each line becomes, `sweep run {file}` runs it.
name: {name}

data:
  source: {source}
{templates}  # validation: 0.1            # a file, or a share of the examples (default: its own part, else 0.1)
  # train_examples: 2000        # use at most so many

backend:
  type: local                   # `sweep backends` lists what is installed
  model: builtin:tiny-lm        # a local transformers model directory, or a hub id

space:                          # `sweep spaces` lists named spaces: {{use: lora}}
  n_epochs: recommended
  batch_size: recommended       # the effective batch, a share of the training set
  learning_rate_multiplier: recommended
  prompt_loss_weight: [0.01, 0.1, 1.0]

search:
  sampler: tpe                  # tpe, gp, cmaes, random, grid, qmc, nsga2
  scheduler: asha               # asha, median, none: what is stopped early
  trials: 16
  seed: 7

objective: {objective}
budget: {{hours: 1}}
"""


def starter(name: str, data_file: Path | None) -> str:
    """Return the text of a first sweep file. Raises UserInputError where the data file cannot be looked into."""
    source, objective = "builtin:nli", "{maximize: valid_accuracy}"
    templates: tuple[str, str] | None = ("{premise}\n{hypothesis}", " {label}")
    if data_file is not None:
        source = str(data_file)
        columns = _columns(data_file)
        prompt, completion = _pick(columns, PROMPT_NAMES, data_file), _pick(columns, COMPLETION_NAMES, data_file)
        templates = (f"{{{prompt}}}", f" {{{completion}}}")
        if completion not in ("label", "class", "target", "v1"):
            objective = "{minimize: valid_loss}        # with few different completions also valid_accuracy"
        if "messages" in columns:
            templates = None
    lines = ""
    if templates is not None:
        prompt_text = json.dumps(templates[0] + "\n\n###\n\n")
        lines = f"  prompt: {prompt_text}   # a separator ends every prompt\n  completion: {json.dumps(templates[1])}\n"
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "sweep"
    return _TEMPLATE.format(name=safe, file=f"{name}.yaml", source=source, templates=lines, objective=objective)


def _columns(path: Path) -> list[str]:
    """Return the column names of a CSV or TSV file, or the keys of the first JSON line."""
    opener = gzip.open if path.suffix == ".gz" else open
    suffix = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    try:
        with opener(path, "rt", encoding="utf-8", errors="replace", newline="") as file:
            if suffix in (".csv", ".tsv"):
                header = next(csv.reader(file, delimiter="\t" if suffix == ".tsv" else ","), [])
                return [each for each in header if each]
            first = json.loads(file.readline())
    except OSError as error:
        raise UserInputError([Problem(str(path), f"cannot be read: {error.strerror}")]) from None
    except json.JSONDecodeError:
        raise UserInputError(
            [Problem(f"{path}:1", "is not a JSON object", "give a .jsonl, .csv or .tsv file")]
        ) from None
    return list(first) if isinstance(first, dict) else []


def _pick(columns: Sequence[str], preferred: Sequence[str], path: Path) -> str:
    if "messages" in columns:
        return "messages"
    by_name = {each.casefold(): each for each in columns}
    for name in preferred:
        if name in by_name:
            return by_name[name]
    if len(columns) < 2:
        raise UserInputError([Problem(f"{path}:1", "has no two columns", "a prompt and a completion are needed")])
    return columns[0] if preferred is PROMPT_NAMES else columns[-1]
