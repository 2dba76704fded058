"""Load, check, template, split, write: what a sweep does with data before it spends anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from backends.contract import DataFile, Dataset
from sweeps.data import checks
from sweeps.data.examples import Example, Pairs, Recipe, build, recipe
from sweeps.data.findings import Finding, capped, error, problems, warning
from sweeps.data.formats import Read, Record, read
from sweeps.data.hub import Absent
from sweeps.data.sources import Source, locate
from sweeps.data.spec import DataSpec
from sweeps.data.split import split, take
from sweeps.data.store import write
from sweeps.errors import Problem, UserInputError

DEFAULT_FRACTION = 0.1
"""Share of the training examples that is held out where the source has no part of its own."""

_SAMPLE = 100
"""So many first records decide the layout, and which separator and stop sequence they already have."""


@dataclass(frozen=True)
class Lengths:
    """Characters of a part's examples: prompts and completions with separator and stop sequence."""

    prompt_mean: float
    prompt_max: int
    completion_mean: float
    completion_max: int


@dataclass(frozen=True)
class PreparedData:
    """Data that are ready to train on, and what is worth knowing about them. All maps are by part: train, valid, test.

    `source` is what was truly used, `name` the same in short; `fallback_from` is what was asked for where that is not
    it. `origins` says where each part comes from. `findings` are the warnings: errors never get here. `fingerprint`
    (hex) changes with any byte of the prepared files, the labels or the stop sequence, and with nothing else. `prompt`
    is the template of the prompts, without the separator; None where the examples are conversations.
    """

    dataset: Dataset
    test: DataFile | None
    source: str
    fallback_from: str | None
    name: str
    task: Literal["classification", "generation"]
    separator: str
    origins: Mapping[str, str]
    label_counts: Mapping[str, Mapping[str, int]]
    lengths: Mapping[str, Lengths]
    findings: tuple[Finding, ...]
    digests: Mapping[str, str]
    fingerprint: str
    prompt: str | None = None


def prepare(spec: DataSpec, workspace: Path, located: Path | None = None) -> PreparedData:
    """Prepare the data below `workspace/data/<fingerprint>/`; the same input gives the same bytes.

    `located` is where the source is, in place of what the specification says. Raises UserInputError with all errors
    that the data have, each with its line.
    """
    source, fallback_from, findings = _source(spec, located)
    planned, fractions, origins = _plan(spec, source)
    pools, how = _load(spec, source, planned, findings)
    task, labels = _task(spec, pools["train"], how)
    parts = _divide(pools, task, fractions, spec.seed)
    if not any(each.severity == "error" for each in findings):
        findings += [_empty(part, origins[part], part in fractions) for part, examples in parts.items() if not examples]
    findings += _checked(pools, how, labels, spec.labels is not None)
    findings += checks.check_overlap(parts, source.kind != "own")
    if found := problems(capped(findings)):
        raise UserInputError(found)
    chosen: dict[str, Sequence[Example]] = {}
    for part, examples in parts.items():
        limit = getattr(spec, f"{part}_examples")
        if limit is not None and limit < len(examples):
            prompts, strata = _columns(examples, task)
            chosen[part] = [examples[index] for index in take(prompts, strata, limit, spec.seed)]
            origins[part] += f", {limit:,} of {len(examples):,}, stratified, seed {spec.seed}"
        else:
            chosen[part] = examples
    findings += checks.check_size(chosen["train"])
    files, fingerprint = write(chosen, how, labels, workspace / "data")
    return PreparedData(
        dataset=Dataset(files["train"], files["valid"], how.layout, labels, how.stop),
        test=files.get("test"),
        source=source.description,
        fallback_from=fallback_from,
        name=source.name,
        task=task,
        separator=how.separator,
        origins=origins,
        label_counts={part: _label_counts(examples, labels) for part, examples in chosen.items()},
        lengths={part: _lengths(examples) for part, examples in chosen.items()},
        findings=capped(findings),
        digests={part: file.sha256 for part, file in files.items()},
        fingerprint=fingerprint,
        prompt=how.prompt.text if isinstance(how, Pairs) else None,
    )


def _source(spec: DataSpec, located: Path | None) -> tuple[Source, str | None, list[Finding]]:
    try:
        return locate(spec.source, spec, located), None, []
    except Absent as absent:
        reason = absent.reason
    if spec.fallback is None:
        hint = "give the place of the data by --data, or name a fallback, as fallback: builtin:nli"
        raise UserInputError([Problem("data.source", f"{spec.source} is not there: {reason}", hint)])
    try:
        source = locate(spec.fallback, spec)
    except Absent as absent:
        raise UserInputError(
            [
                Problem("data.source", f"{spec.source} is not there: {reason}"),
                Problem("data.fallback", f"{spec.fallback} is not there either: {absent.reason}"),
            ]
        ) from None
    message = f"{spec.source} is not there ({reason}): {source.name} is used, and no result is one on {spec.source}"
    return source, spec.source, [warning("fallback", "data.source", message)]


def _plan(spec: DataSpec, source: Source) -> tuple[dict[str, Callable[[], Read]], dict[str, float], dict[str, str]]:
    """Decide for each part whether it is read or taken from the training examples."""
    planned = {"train": source.parts["train"]}
    fractions: dict[str, float] = {}
    origins = {"train": source.description}
    missing: list[Problem] = []
    for part, key, wanted in (("valid", "validation", spec.validation), ("test", "test", spec.test)):
        if isinstance(wanted, str):
            path = Path(wanted).expanduser()
            if not path.is_file():
                hint = f"give a file, or a fraction of the training examples, as {key}: {DEFAULT_FRACTION}"
                missing.append(Problem(f"data.{key}", f"the file {path} does not exist", hint))
            planned[part], origins[part] = partial(read, path, spec.encoding), str(path)
        elif wanted == 0:
            continue
        elif part in source.parts and (wanted is None or source.kind == "generated"):
            planned[part], origins[part] = source.parts[part], source.description
        else:
            fractions[part] = DEFAULT_FRACTION if wanted is None else wanted
            share = f"{fractions[part]:.3g}"
            origins[part] = f"{share} of the training examples of {source.name}, stratified, seed {spec.seed}"
    if missing:
        raise UserInputError(missing)
    return planned, fractions, origins


def _load(
    spec: DataSpec, source: Source, planned: Mapping[str, Callable[[], Read]], findings: list[Finding]
) -> tuple[dict[str, list[Example]], Recipe]:
    """Read all parts; errors go to the findings, unless not even the form of an example is known."""
    stream = planned["train"]()
    head: list[Record | Finding] = list(islice(stream, _SAMPLE))
    sample = [each for each in head if isinstance(each, Record)]
    if not sample:
        rest = [each for each in chain(head, stream) if isinstance(each, Finding)]
        raise UserInputError(problems(capped([*findings, *rest])) or [_nothing(source.description)])
    how = recipe(sample, spec.prompt or source.prompt, spec.completion or source.completion, spec.separator, spec.stop)
    if isinstance(how, Finding):
        broken = [each for each in head if isinstance(each, Finding)]
        raise UserInputError(problems(capped([*broken, how])))
    pools: dict[str, list[Example]] = {}
    for part, opened in planned.items():
        examples: list[Example] = []
        for each in build(chain(head, stream) if part == "train" else opened(), how):
            if isinstance(each, Example):
                examples.append(each)
            else:
                findings.append(each)
        pools[part] = examples
    return pools, how


def _task(
    spec: DataSpec, examples: Sequence[Example], how: Recipe
) -> tuple[Literal["classification", "generation"], tuple[str, ...]]:
    """Return the task and the labels as they stand in the files, in the user's order or in that of the alphabet."""
    completions = {example.completion for example in examples}
    if spec.labels is not None:
        if isinstance(how, Pairs) and len(how.completion.fields) == 1:
            written = [how.answer([label]) for label in spec.labels]
            # a completion that is a column of its own begins with the space that separates words, or does not
            spaced = [how.answer([f" {label}"]) for label in spec.labels]
            if not completions & set(written) and completions & set(spaced):
                written = spaced
        else:
            written = [label + how.stop for label in spec.labels]
        return "classification", tuple(written)
    plain = (example.completion.removesuffix(how.stop) for example in examples)
    if spec.task == "classification" or (spec.task == "auto" and checks.is_classification(plain)):
        return "classification", tuple(sorted(completions))
    return "generation", ()


def _divide(
    pools: Mapping[str, list[Example]], task: str, fractions: Mapping[str, float], seed: int
) -> dict[str, Sequence[Example]]:
    parts: dict[str, Sequence[Example]] = {"train": pools["train"]}
    if fractions:
        prompts, strata = _columns(pools["train"], task)
        divided = split(prompts, strata, fractions, seed)
        parts = {part: [pools["train"][index] for index in indices] for part, indices in divided.items()}
    parts |= {part: pools[part] for part in ("valid", "test") if part in pools}
    return {part: parts[part] for part in ("train", "valid", "test") if part in parts}


def _checked(
    pools: Mapping[str, Sequence[Example]], how: Recipe, labels: Sequence[str], allowed: bool
) -> Iterator[Finding]:
    for examples in pools.values():
        yield from checks.check_texts(examples, how)
        yield from checks.check_delimiters(examples, how)
    yield from checks.check_training(pools["train"], bool(labels))
    if labels:
        yield from checks.check_labels(pools, labels, allowed, how.stop)


def _columns(examples: Sequence[Example], task: str) -> tuple[list[str], list[str]]:
    """Return prompts and strata: labels where there are some."""
    strata = [example.completion if task == "classification" else "" for example in examples]
    return [example.prompt for example in examples], strata


def _label_counts(examples: Sequence[Example], labels: Sequence[str]) -> dict[str, int]:
    counts = Counter(example.completion for example in examples)
    return {label: counts[label] for label in labels}


def _lengths(examples: Sequence[Example]) -> Lengths:
    prompts = [len(example.prompt) for example in examples]
    completions = [len(example.completion) for example in examples]
    total = len(examples)
    return Lengths(sum(prompts) / total, max(prompts), sum(completions) / total, max(completions))


def _nothing(place: str) -> Problem:
    hint = "give a file with examples: a line each, in CSV and TSV below a line that names the columns"
    return Problem(place, "there are no examples in the train part", hint)


def _empty(part: str, place: str, held_out: bool) -> Finding:
    if held_out:
        message = f"there are too few examples to hold some out as the {part} part"
        return error("too-few", place, message, "give more examples, or a file of its own")
    return error("empty-set", place, f"there are no examples in the {part} part")
