"""`sweep init`: a first sweep file with comments, fitted to a data set, or for an example."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from sweeps.data.inspection import Inspection, inspect
from sweeps.errors import Problem, SweepError, UserInputError
from sweeps.spec.json_schema import FILE_NAME, is_schema_of_a_version, schema_text
from sweeps.spec.starter_from_program import starter_from
from sweeps.spec.starter_model import DEMONSTRATION, ENCODER, Machine, SuggestedModel, suggest, this_machine

EDITOR_LINE = "# yaml-language-server: $schema=./{schema}"
"""The comment from which an editor with a YAML language server takes the schema of the file."""

UNEQUAL_CLASSES = 1.5
"""The most frequent label over the rarest one, from which on macro-F1 is the objective (ours)."""

SEARCH_EXAMPLES = 2000
"""With how many examples an encoder or a demonstration is searched on a machine without a GPU."""

CHARACTERS_PER_TOKEN = 3
"""For the room of generated answers. English text has about four; a token too many costs little."""

LONG_ANSWER_CHARACTERS = 400
"""An answer of so many characters may exceed a model that reads few tokens."""

_TEMPLATE = (
    EDITOR_LINE
    + """
# A sweep file. `sweep plan {file}` shows what each line means, `sweep run {file}` runs it.
name: {name}

data:
  source: {source}
{data}  # validation: 0.1            # a file or a fraction; default: the source's own part, else 0.1
{examples}

backend:
  type: local                   # `sweep backends` lists the installed backends
  model: {model}
{options}
space:                          # `sweep spaces` lists named spaces: {{use: lora}}
{space}

search:
  sampler: tpe                  # tpe, gp, cmaes, random, grid, qmc, nsga2
  scheduler: asha               # asha, median, none: the rule that stops weak trials early
  trials: {trials}
  seed: 7

{objective}
budget: {{hours: 1}}
"""
)

_RELATIVE_RATE = """  n_epochs: recommended
  batch_size: recommended       # the effective batch size, as a share of the training set
  learning_rate_multiplier: recommended
  prompt_loss_weight: [0.01, 0.1, 1.0]"""

_ENCODER_SPACE = """  method: full
  n_epochs: {low: 2, high: 5}
  batch_size: [16, 32]
  learning_rate: recommended
  warmup_ratio: [0.0, 0.1]"""

_SMALL_ENCODER_RATE = "{low: 3e-5, high: 2e-4, log: true}   # more than recommended: the encoder is small"

_LANGUAGE_MODEL_SPACE = "  use: lora                     # adapters: their weights alone are trained and kept"


@dataclass(frozen=True)
class Starter:
    """The text of a sweep file, and what to tell about it: sentences, and warnings."""

    text: str
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def write_starter(file: Path, data: str | None, program: Path | None = None, *, overwrite: bool) -> Starter:
    """Write a first sweep file and, beside it, the JSON Schema that its first line names.

    It is for a data set, or for a training program (`starter_from_program`), or an example.

    Nothing is written if the sweep file exists, or a schema file that is none of ours, unless
    `overwrite`.
    Raises UserInputError with all reasons, SweepError if the disk refuses.
    """
    schema_file, schema = file.parent / FILE_NAME, schema_text()
    problems = []
    if file.exists() and not overwrite:
        problems.append(Problem(str(file), "exists already", "choose another name, or --force to overwrite it"))
    if schema_file.exists() and not overwrite and not _may_be_replaced(schema_file):
        hint = "move the file away, or --force to overwrite it"
        problems.append(Problem(str(schema_file), "exists already, with other content", hint))
    if problems:
        raise UserInputError(problems)
    if program is not None:
        starter = Starter(starter_from(program, sweep_name(file.stem)))
    elif data is not None:
        starter = starter_for(file.stem, data, inspect(data), this_machine())
    else:
        starter = example_starter(file.stem)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        schema_file.write_bytes(schema.encode())
        file.write_text(starter.text, encoding="utf-8")
    except OSError as error:
        hint = "choose a folder in which you may write"
        raise SweepError(f"cannot write {error.filename or file}: {error.strerror}", hint) from error
    return starter


def _may_be_replaced(schema_file: Path) -> bool:
    """Return whether a file is the schema of this or another version."""
    try:
        return is_schema_of_a_version(schema_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError):
        return False


def example_starter(name: str) -> Starter:
    """Return a sweep file for generated data."""
    return Starter(
        _TEMPLATE.format(
            schema=FILE_NAME,
            name=sweep_name(name),
            file=f"{name}.yaml",
            source="builtin:nli",
            data=_templates("{premise}\n{hypothesis}", " {label}", separated=False),
            examples="  # train_examples: 2000        # use at most this many",
            model=f"{DEMONSTRATION}        # a local transformers model directory, or a hub id",
            options="",
            space=_RELATIVE_RATE,
            trials=16,
            objective="objective: {maximize: valid_accuracy}",
        )
    )


def starter_for(name: str, source: str, found: Inspection, machine: Machine) -> Starter:
    """Return a sweep file for a data set of which this was found out."""
    is_label = found.answer_kind == "label"
    model = suggest(machine, classifies=is_label, foreign_share=found.other_script)
    text = _TEMPLATE.format(
        schema=FILE_NAME,
        name=sweep_name(name),
        file=f"{name}.yaml",
        source=json.dumps(source, ensure_ascii=False) if re.search(r"[^\w./-]", source) else source,
        data=_data_lines(found),
        examples=_examples_line(found, machine),
        model=f"{model.name}   # {model.remark}",
        options=_options(found),
        space=_space(model),
        trials=8 if model.kind != "demonstration" else 16,
        objective=_objective(found),
    )
    warnings = (model.warning,) if model.warning else ()
    return Starter(text, tuple(_facts(found, model)), warnings)


def sweep_name(name: str) -> str:
    """Return a text as the name of a sweep."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "sweep"


# ------------------------------------------------------------------------------------- the file
def _data_lines(found: Inspection) -> str:
    lines = ""
    if found.prompt is not None and found.completion is not None:
        lines = _templates(found.prompt, found.completion, separated=found.has_separator)
    if found.stop is not None:
        lines += f"  stop: {json.dumps(found.stop)}                # ends every answer: some have several lines\n"
    if found.encoding != "utf-8":
        lines += f"  encoding: {found.encoding}              # the file is no UTF-8 text\n"
    if found.answer_kind == "label" and len(found.labels) > 50:  # `auto` takes so many for free text
        lines += "  task: classification\n"
    if found.other_columns:
        lines += f"  # other columns: {', '.join(found.other_columns[:8])}\n"
    return lines


def _templates(prompt: str, completion: str, *, separated: bool) -> str:
    """Return both templates. Texts that already end with a separator get no second one."""
    text = prompt if separated else prompt + "\n\n###\n\n"
    remark = "the texts already end with a separator" if separated else "a separator ends every prompt"
    prompt_line = f"  prompt: {json.dumps(text, ensure_ascii=False)}   # {remark}\n"
    return prompt_line + f"  completion: {json.dumps(completion, ensure_ascii=False)}\n"


def _examples_line(found: Inspection, machine: Machine) -> str:
    if machine.gpu_gib or not (found.sampled or found.examples > SEARCH_EXAMPLES):
        return "  # train_examples: 2000        # use at most this many"
    return (
        f"  train_examples: {SEARCH_EXAMPLES}          # of all, to search quickly without a GPU; remove it for the "
        "best model"
    )


def _options(found: Inspection) -> str:
    if found.answer_kind == "label" or found.max_answer_characters < LONG_ANSWER_CHARACTERS:
        return ""
    return "  long_completions: drop        # leaves out answers that alone exceed the model; error refuses the data\n"


def _space(model: SuggestedModel) -> str:
    match model.kind:
        case "encoder":
            small = model.name == ENCODER
            return (
                _ENCODER_SPACE.replace("rate: recommended", f"rate: {_SMALL_ENCODER_RATE}") if small else _ENCODER_SPACE
            )
        case "language model":
            return _LANGUAGE_MODEL_SPACE
        case "demonstration":
            return _RELATIVE_RATE


def _objective(found: Inspection) -> str:
    if found.answer_kind == "label":
        if found.imbalance < UNEQUAL_CLASSES:
            return "objective: {maximize: valid_accuracy}"
        remark = "every label counts the same, however rare"
        return f"objective: {{maximize: valid_macro_f1}}   # {remark}"
    metrics, best = {
        "number": ("[numeric, exact_match]", "valid_numeric"),
        "json": ("[json_fields, json_valid]", "valid_json_fields"),
        "short text": ("[exact_match, token_f1]", "valid_exact_match"),
        "text": ("[chrf, exact_match]", "valid_chrf"),
    }[found.answer_kind]
    tokens = _answer_tokens(found)
    return f"""evaluation:
  metrics: {metrics}   # measured on texts that the model writes; `sweep metrics` lists them
  generate: {{examples: 100, max_tokens: {tokens}}}

objective: {{maximize: {best}}}   # or valid_loss to minimize, which needs no generated texts"""


def _answer_tokens(found: Inspection) -> int:
    """Return the room of a generated answer, a power of two from 16 to 256."""
    needed = min(found.max_answer_characters, 2 * found.mean_answer_characters) / CHARACTERS_PER_TOKEN
    return next(size for size in (16, 32, 64, 128, 256) if size >= needed or size == 256)


# --------------------------------------------------------------------------------- the terminal
def _facts(found: Inspection, model: SuggestedModel) -> list[str]:
    many = f"the first {found.examples:,}" if found.sampled else f"{found.examples:,}"
    facts = [f"looked at {many} training examples"]
    if found.prompt is None:
        facts.append(f"layout: {found.layout}, which needs no templates")
    else:
        facts.append(f"text: {' and '.join(found.text_columns)}; answer: {found.answer_column}")
    if found.answer_kind == "label":
        shown = ", ".join(f"{label} {count:,}" for label, count in list(found.labels.items())[:4])
        more = f" and {len(found.labels) - 4} more" if len(found.labels) > 4 else ""
        facts.append(f"task: classification, {len(found.labels)} labels ({shown}{more})")
    else:
        facts.append(f"task: writing, answers are {_ANSWERS[found.answer_kind]}")
    facts.append(f"model: {model.name}, {model.remark}")
    return facts


_ANSWERS = {"number": "numbers", "json": "JSON", "short text": "a few words", "text": "texts"}
