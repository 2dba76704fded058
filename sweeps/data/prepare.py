"""Prepare the data of a sweep: load, check, apply the templates, split, and write the parts."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from backends.chat_lines import TrainOn
from backends.contract import DataFile, Dataset, MetricRequest, OwnData
from sweeps.data import checks
from sweeps.data.baselines import Baselines
from sweeps.data.checks import catalogue
from sweeps.data.checks.view import DataView
from sweeps.data.conversations import LayoutName
from sweeps.data.examination import Examination, examine
from sweeps.data.example_store import ExampleStore, Selection
from sweeps.data.examples import ChatRecipe, Example, PairRecipe, Recipe, build_examples, choose_recipe
from sweeps.data.findings import FaultyDataError, Finding, capped, error, warning
from sweeps.data.hub import SourceUnavailableError
from sweeps.data.left_out import without_faulty, without_unreadable
from sweeps.data.nested_selection import nested_sample
from sweeps.data.places import Places
from sweeps.data.readers.record import Record, RecordStream
from sweeps.data.sources import Source, locate, named_part
from sweeps.data.spec import DataSpec
from sweeps.data.split import split, stratified_sample
from sweeps.data.store import write_parts
from sweeps.errors import Problem, UserInputError

DEFAULT_FRACTION = 0.1
"""Fraction of the training examples to hold out if the source has no such part."""

_SAMPLE = 100
"""First records that decide the layout, the separator and the stop sequence."""


@dataclass(frozen=True)
class Lengths:
    """Character counts of a part: prompts and completions with separator and stop sequence."""

    prompt_mean: float
    prompt_max: int
    completion_mean: float
    completion_max: int


@dataclass(frozen=True)
class Conversations:
    """The layout of chat data, and how many answers its training part has and trains."""

    layout: LayoutName
    examples: int
    answers: int
    trained_answers: int

    def in_words(self) -> str:
        """Return these facts in one line."""
        answers = f"{self.trained_answers:,} answer{'s are' if self.trained_answers != 1 else ' is'} trained"
        others = f" of {self.answers:,}" if self.answers > self.trained_answers else ""
        return f"layout: {self.layout}, {self.examples:,} conversations, {answers}{others}"


@dataclass(frozen=True)
class PreparedData:
    """Data that is ready to train on. All mappings are by part: train, valid, test.

    `source` describes the source that was used, `name` is its short name. `fallback_from` is the
    requested source if the fallback took its place. `origins` says where each part comes from.
    `findings` are warnings only. `fingerprint` (hex) changes with any byte of the prepared files,
    the labels or the stop sequence, and with nothing else. `prompt` is the template of the prompts,
    without the separator; None if the examples are conversations. `conversations` describes them.
    `examination` is None with `checks: quick`. `places` says where the lines of each prepared file
    come from, by the path of the file.
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
    conversations: Conversations | None = None
    examination: Examination | None = None
    places: Mapping[str, Places] = field(default_factory=dict, compare=False, repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples by part."""
        parts = {"train": self.dataset.train, "valid": self.dataset.valid, "test": self.test}
        return {part: file.examples for part, file in parts.items() if file is not None}

    @property
    def baselines(self) -> Baselines | None:
        """What the task gives away; None if it was not measured."""
        return None if self.examination is None else self.examination.baselines


@dataclass
class _PartPlan:
    """How to get each part: `readers` read it, `fractions` take it from the training examples."""

    readers: dict[str, Callable[[], RecordStream]]
    origins: dict[str, str]
    fractions: dict[str, float] = field(default_factory=dict)


def prepare(
    spec: DataSpec,
    workspace: Path,
    data_path: Path | None = None,
    *,
    keep_rows: bool = False,
    metrics: Sequence[MetricRequest] = (),
) -> PreparedData:
    """Prepare the data below `workspace/data/<fingerprint>/`. The same input gives the same bytes.

    `data_path` replaces the place of the source in `spec`. With `keep_rows`, the lines of
    validation and test have the columns of their records, as `row`. `metrics` score the baselines
    of free text. Raises UserInputError with all errors of the data, each with its line.
    """
    source, fallback_from, findings = _locate_source(spec, data_path)
    plan = _plan_parts(spec, source)
    pools, recipe = _load_examples(spec, source, plan.readers, findings, keep_rows, workspace / "data")
    pools, left_out = without_faulty(pools, [_check_texts(pools, recipe)], spec.drop)
    findings += left_out
    task, labels = _task_and_labels(spec, pools["train"], recipe)
    has_labels = spec.labels is not None
    pools, left_out = without_faulty(pools, [_check_examples(pools, recipe, labels, has_labels)], spec.drop)
    findings += left_out
    parts = _split_parts(pools, task, plan.fractions, spec.seed)
    parts, left_out = _without_faults_between_parts(parts, recipe, labels, source, spec)
    findings += left_out
    if left_out:
        task, labels = _task_and_labels(spec, parts["train"], recipe)
    if not any(finding.severity == "error" for finding in findings):
        findings += [
            _empty_part(part, plan.origins[part], part in plan.fractions)
            for part, examples in parts.items()
            if not examples
        ]
    findings += _check_examples(parts if left_out else pools, recipe, labels, has_labels)
    findings += checks.check_overlap(parts, source.kind != "own")
    if any(finding.severity == "error" for finding in findings):
        raise FaultyDataError(capped(findings))
    chosen: dict[str, Sequence[Example]] = {}
    for part, examples in parts.items():
        limit = getattr(spec, f"{part}_examples")
        if limit is not None and limit < len(examples):
            prompts, strata = _prompts_and_strata(examples, task)
            is_nested = part == "train" and spec.selection == "nested"
            select = nested_sample if is_nested else stratified_sample
            chosen[part] = Selection(examples, select(prompts, strata, limit, spec.seed))
            how = spec.selection if part == "train" else "stratified"
            plan.origins[part] += f", {limit:,} of {len(examples):,}, {how}, seed {spec.seed}"
        else:
            chosen[part] = examples
    findings += checks.check_size(chosen["train"])
    train_on = _train_on(spec, chain(chosen["train"], chosen["valid"]), labels)
    files, fingerprint = write_parts(
        chosen, recipe, labels, workspace / "data", train_on, parts_with_rows=("valid", "test") if keep_rows else ()
    )
    examination = None
    if spec.checks == "full":
        view = DataView(chosen, recipe, labels, source.kind != "own", spec.seed)
        examination = examine(view, Path(files["train"].path).parent, metrics)
        findings += examination.findings
        if any(finding.severity == "error" for finding in findings):
            raise FaultyDataError(capped(findings))
    return PreparedData(
        dataset=Dataset(files["train"], files["valid"], recipe.layout, labels, recipe.stop, train_on),
        test=files.get("test"),
        source=source.description,
        fallback_from=fallback_from,
        name=source.name,
        task=task,
        separator=recipe.separator,
        origins=plan.origins,
        label_counts={part: _label_counts(examples, labels) for part, examples in chosen.items()},
        lengths={part: _lengths(examples) for part, examples in chosen.items()},
        findings=capped(findings),
        digests={part: file.sha256 for part, file in files.items()},
        fingerprint=fingerprint,
        prompt=recipe.prompt.text if isinstance(recipe, PairRecipe) else None,
        conversations=_conversations(recipe, chosen["train"], train_on),
        examination=examination,
        places={files[part].path: Places.of(examples) for part, examples in chosen.items()},
    )


def data_of_the_backend(own: OwnData) -> PreparedData:
    """Return what is known of the data of a backend that brings its own: at most their numbers."""
    train, valid = DataFile("", own.train_examples, ""), DataFile("", own.valid_examples, "")
    return PreparedData(
        dataset=Dataset(train, valid, "completion"),
        test=None,
        source="the backend's own data",
        fallback_from=None,
        name="own data",
        task="generation",
        separator="",
        origins={},
        label_counts={},
        lengths={},
        findings=(),
        digests={},
        fingerprint="",
    )


def _locate_source(spec: DataSpec, data_path: Path | None) -> tuple[Source, str | None, list[Finding]]:
    """Return the source, and the requested one with a warning if the fallback takes its place."""
    try:
        return locate(spec.source, spec, data_path), None, []
    except SourceUnavailableError as unavailable:
        reason = unavailable.reason
    if spec.fallback is None:
        hint = "pass the place of the data with --data, or add a fallback, e.g. fallback: builtin:nli"
        raise UserInputError([Problem("data.source", f"{_shown(spec.source)} is unavailable: {reason}", hint)])
    try:
        source = locate(spec.fallback, spec)
    except SourceUnavailableError as unavailable:
        raise UserInputError(
            [
                Problem("data.source", f"{_shown(spec.source)} is unavailable: {reason}"),
                Problem("data.fallback", f"{_shown(spec.fallback)} is unavailable, too: {unavailable.reason}"),
            ]
        ) from None
    requested = _shown(spec.source)
    message = (
        f"{requested} is unavailable ({reason}). Using {source.name} instead; results are not {requested} results."
    )
    return source, spec.source, [warning("fallback", "data.source", message)]


def _shown(source: str) -> str:
    return "SNLI" if source == "snli" else source


def _plan_parts(spec: DataSpec, source: Source) -> _PartPlan:
    """Decide for each part whether to read it or to take it from the training examples.

    Raises UserInputError if a file for a part does not exist.
    """
    plan = _PartPlan({"train": source.parts["train"]}, {"train": source.description})
    missing: list[Problem] = []
    for part, key, requested in (("valid", "validation", spec.validation), ("test", "test", spec.test)):
        if isinstance(requested, str):
            try:
                plan.readers[part], plan.origins[part] = named_part(requested, spec.encoding)
            except SourceUnavailableError as fault:
                hint = f"name a file, or a fraction of the training examples, e.g. {key}: {DEFAULT_FRACTION}"
                missing.append(Problem(f"data.{key}", fault.reason, hint))
        elif requested == 0:
            continue
        elif part in source.parts and (requested is None or source.kind == "generated"):
            plan.readers[part], plan.origins[part] = source.parts[part], source.description
        else:
            fraction = DEFAULT_FRACTION if requested is None else requested
            plan.fractions[part] = fraction
            plan.origins[part] = (
                f"{fraction:.3g} of the training examples of {source.name}, stratified, seed {spec.seed}"
            )
    if missing:
        raise UserInputError(missing)
    return plan


def _load_examples(
    spec: DataSpec,
    source: Source,
    readers: Mapping[str, Callable[[], RecordStream]],
    findings: list[Finding],
    keep_rows: bool,
    folder: Path,
) -> tuple[Mapping[str, Sequence[Example]], Recipe]:
    """Read all parts, large ones into files below `folder`; append what is wrong to `findings`.

    Raises UserInputError if the training part has no record or no recipe fits its records.
    """
    stream = readers["train"]()
    head: list[Record | Finding] = list(islice(stream, _SAMPLE))
    sample = [record for record in head if isinstance(record, Record)]
    if not sample:
        others = [item for item in chain(head, stream) if isinstance(item, Finding)]
        if any(finding.severity == "error" for finding in others):
            raise FaultyDataError(capped([*findings, *others]))
        raise UserInputError([_no_examples(source.description)])
    prompt, completion = spec.prompt or source.prompt, spec.completion or source.completion
    separator, stop = spec.separator or source.separator, source.stop if spec.stop is None else spec.stop
    recipe = choose_recipe(sample, prompt, completion, separator, stop, spec.train_on)
    if isinstance(recipe, Finding):
        unreadable = [item for item in head if isinstance(item, Finding)]
        raise FaultyDataError(capped([*unreadable, recipe]))
    pools: dict[str, ExampleStore] = {}
    for part, read_part in readers.items():
        pools[part] = ExampleStore(folder)
        records = chain(head, stream) if part == "train" else read_part()
        faults: list[Finding] = []
        for item in build_examples(records, recipe, keep_rows, spec.group_by):
            if isinstance(item, Example):
                pools[part].append(item)
            else:
                faults.append(item)
        for found in without_unreadable(faults, part, spec.drop):
            findings += found
    return pools, recipe


def _task_and_labels(
    spec: DataSpec, examples: Sequence[Example], recipe: Recipe
) -> tuple[Literal["classification", "generation"], tuple[str, ...]]:
    """Return the task and the labels as they stand in the prepared files.

    Labels are in the order of the sweep file, else in alphabetical order.
    """
    if spec.labels is not None:
        if isinstance(recipe, PairRecipe) and len(recipe.completion.fields) == 1:
            labels = [recipe.completion_text([label]) for label in spec.labels]
            # A column of completions may already begin with the space that separates words.
            with_space = [recipe.completion_text([f" {label}"]) for label in spec.labels]
            known = set(labels) | set(with_space)
            found = {example.completion for example in examples if example.completion in known}
            if found and not found & set(labels):
                labels = with_space
        else:
            labels = [label + recipe.stop for label in spec.labels]
        return "classification", tuple(labels)
    is_classification = spec.task == "classification"
    if spec.task == "auto" and _train_on(spec, examples, ()) == "last":
        is_classification = checks.is_classification(
            example.completion.removesuffix(recipe.stop) for example in examples
        )
    if not is_classification:
        return "generation", ()
    return "classification", tuple(sorted({example.completion for example in examples}))


def _train_on(spec: DataSpec, examples: Iterable[Example], labels: Sequence[str]) -> TrainOn:
    """Return which answers to train: `last` wherever all trained answers are last messages anyway.

    So a data set with one answer per example is the same, whatever the sweep file says.
    """
    if labels or spec.train_on == "last":
        return "last"
    has_others = any(example.trained_answers("all") != example.trained_answers("last") for example in examples)
    return "all" if has_others else "last"


def _conversations(recipe: Recipe, examples: Sequence[Example], train_on: TrainOn) -> Conversations | None:
    if not isinstance(recipe, ChatRecipe):
        return None
    answers = sum(example.answers for example in examples)
    trained = sum(example.trained_answers(train_on) for example in examples)
    return Conversations(recipe.source.name, len(examples), answers, trained)


def _split_parts(
    pools: Mapping[str, Sequence[Example]], task: str, fractions: Mapping[str, float], seed: int
) -> dict[str, Sequence[Example]]:
    """Return all parts: those that were read, and those taken from the training examples."""
    parts: dict[str, Sequence[Example]] = {"train": pools["train"]}
    if fractions:
        prompts, strata = _prompts_and_strata(pools["train"], task)
        groups = [example.group for example in pools["train"]]
        indices_by_part = split(prompts, strata, fractions, seed, groups=groups)
        parts = {part: Selection(pools["train"], indices) for part, indices in indices_by_part.items()}
    parts |= {part: pools[part] for part in ("valid", "test") if part in pools}
    return {part: parts[part] for part in ("train", "valid", "test") if part in parts}


def _check_texts(pools: Mapping[str, Sequence[Example]], recipe: Recipe) -> Iterator[Finding]:
    for examples in pools.values():
        yield from checks.check_texts(examples, recipe)


def _without_faults_between_parts(
    parts: Mapping[str, Sequence[Example]], recipe: Recipe, labels: Sequence[str], source: Source, spec: DataSpec
) -> tuple[dict[str, Sequence[Example]], list[Finding]]:
    """Leave out what only a comparison of the parts finds, or a check that takes longer."""
    is_published = source.kind != "own"
    calls = [checks.check_overlap(parts, is_published)]
    if {check.code for check in catalogue.THOROUGH} & set(spec.drop):
        view = DataView(parts, recipe, tuple(labels), is_published, spec.seed)
        calls += [check(view) for check in checks.THOROUGH]
    return without_faulty(parts, calls, spec.drop)


def _check_examples(
    pools: Mapping[str, Sequence[Example]], recipe: Recipe, labels: Sequence[str], allowed: bool
) -> Iterator[Finding]:
    yield from _check_texts(pools, recipe)
    for examples in pools.values():
        yield from checks.check_delimiters(examples, recipe)
        yield from checks.check_conversations(examples)
    yield from checks.check_training(pools["train"], bool(labels))
    if labels:
        yield from checks.check_labels(pools, labels, allowed, recipe.stop)


def _prompts_and_strata(examples: Sequence[Example], task: str) -> tuple[list[str], list[str]]:
    """Return the prompts and the strata, which are the labels for classification."""
    strata = [example.completion if task == "classification" else "" for example in examples]
    return [example.prompt for example in examples], strata


def _label_counts(examples: Sequence[Example], labels: Sequence[str]) -> dict[str, int]:
    counts = Counter(example.completion for example in examples)
    return {label: counts[label] for label in labels}


def _lengths(examples: Sequence[Example]) -> Lengths:
    prompts, completions = array("Q"), array("Q")
    for example in examples:
        prompts.append(len(example.prompt))
        completions.append(len(example.completion))
    total = len(examples)
    return Lengths(sum(prompts) / total, max(prompts), sum(completions) / total, max(completions))


def _no_examples(place: str) -> Problem:
    hint = "name a file with one example per line; in CSV and TSV the first line names the columns"
    return Problem(place, "the train part has no examples", hint)


def _empty_part(part: str, place: str, held_out: bool) -> Finding:
    if held_out:
        message = f"too few examples to hold some out as the {part} part"
        return error("too-few", place, message, "add examples, or give the part a file of its own")
    return error("empty-set", place, f"the {part} part has no examples")
