"""Load the data of a sweep: its source, where each part comes from, and the examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from sweeps.data.example_store import ExampleStore
from sweeps.data.examples import Example, Recipe, build_examples, choose_recipe
from sweeps.data.findings import FaultyDataError, Finding, capped, warning
from sweeps.data.hub import SourceUnavailableError
from sweeps.data.left_out import without_unreadable
from sweeps.data.readers.record import Record, RecordStream
from sweeps.data.sources import Source, locate, named_part
from sweeps.data.spec import DataSpec
from sweeps.errors import Problem, UserInputError

DEFAULT_FRACTION = 0.1
"""Fraction of the training examples to hold out if the source has no such part."""

SAMPLE = 100
"""First records that decide the layout, the separator and the stop sequence."""


@dataclass(frozen=True)
class LoadedData:
    """The examples of the parts that were read, and the recipe that made them.

    `fractions` are to be taken from the training examples, by part. `origins` says where each part
    comes from. `fallback_from` is the requested source if the fallback took its place.
    """

    source: Source
    fallback_from: str | None
    pools: Mapping[str, Sequence[Example]]
    recipe: Recipe
    fractions: Mapping[str, float]
    origins: Mapping[str, str]
    findings: Sequence[Finding]


@dataclass
class _PartPlan:
    """How to get each part: `readers` read it, `fractions` take it from the training examples."""

    readers: dict[str, Callable[[], RecordStream]]
    origins: dict[str, str]
    fractions: dict[str, float] = field(default_factory=dict)


def load(spec: DataSpec, folder: Path, data_path: Path | None = None, *, keep_rows: bool = False) -> LoadedData:
    """Load all parts that have a file or a source; examples beyond memory lie below `folder`.

    `data_path` replaces the place of the source. Raises UserInputError if a source is unavailable,
    if the training part has no record, or if no recipe fits its records. The faults of single
    records are findings.
    """
    source, fallback_from, findings = _locate_source(spec, data_path)
    plan = _plan_parts(spec, source)
    pools, recipe = _load_examples(spec, source, plan.readers, findings, keep_rows, folder)
    return LoadedData(source, fallback_from, pools, recipe, plan.fractions, plan.origins, findings)


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
    head: list[Record | Finding] = list(islice(stream, SAMPLE))
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


def _no_examples(place: str) -> Problem:
    hint = "name a file with one example per line; in CSV and TSV the first line names the columns"
    return Problem(place, "the train part has no examples", hint)
