"""Prepare the data of a sweep: load, leave out, split, check, select, and write the parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from backends.contract import Dataset, MetricRequest
from sweeps.data import checks
from sweeps.data.checks import catalogue
from sweeps.data.checks.view import DataView
from sweeps.data.examination import examine
from sweeps.data.example_store import Selection
from sweeps.data.examples import Example, PairRecipe, Recipe
from sweeps.data.findings import FaultyDataError, Finding, capped, error
from sweeps.data.left_out import without_faulty
from sweeps.data.loading import load
from sweeps.data.nested_selection import nested_sample
from sweeps.data.places import Places
from sweeps.data.prepared_data import PreparedData, conversations_of, label_counts, lengths_of
from sweeps.data.spec import DataSpec
from sweeps.data.split import split, stratified_sample
from sweeps.data.store import write_parts
from sweeps.data.task import answers_to_train, task_and_labels


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
    loaded = load(spec, workspace / "data", data_path, keep_rows=keep_rows)
    recipe, findings, origins = loaded.recipe, list(loaded.findings), dict(loaded.origins)
    published, has_labels = loaded.source.kind != "own", spec.labels is not None

    pools, left_out = without_faulty(loaded.pools, [_check_texts(loaded.pools, recipe)], spec.drop)
    findings += left_out
    task, labels = task_and_labels(spec, pools["train"], recipe)
    pools, left_out = without_faulty(pools, [_check_examples(pools, recipe, labels, has_labels)], spec.drop)
    findings += left_out
    if left_out:  # perhaps all examples of a label
        task, labels = task_and_labels(spec, pools["train"], recipe)
    parts = _split_parts(pools, task, loaded.fractions, spec.seed)
    parts, left_out = _without_faults_between_parts(parts, recipe, labels, published, spec)
    findings += left_out
    if left_out:  # perhaps all examples of a label
        task, labels = task_and_labels(spec, parts["train"], recipe)
    if not any(finding.severity == "error" for finding in findings):
        findings += [
            _empty_part(part, origins[part], part in loaded.fractions)
            for part, examples in parts.items()
            if not examples
        ]
    findings += _check_examples(parts if left_out else pools, recipe, labels, has_labels)
    findings += checks.check_overlap(parts, published)
    _raise_errors(findings)

    chosen: dict[str, Sequence[Example]] = {}
    for part, examples in parts.items():
        chosen[part], how = _select(spec, part, examples, task)
        origins[part] += how
    findings += checks.check_size(chosen["train"])
    train_on = answers_to_train(spec, chain(chosen["train"], chosen["valid"]), labels)
    files, fingerprint = write_parts(
        chosen, recipe, labels, workspace / "data", train_on, parts_with_rows=("valid", "test") if keep_rows else ()
    )
    examination = None
    if spec.checks == "full":
        view = DataView(chosen, recipe, labels, published, spec.seed)
        examination = examine(view, Path(files["train"].path).parent, metrics)
        findings += examination.findings
        _raise_errors(findings)
    return PreparedData(
        dataset=Dataset(files["train"], files["valid"], recipe.layout, labels, recipe.stop, train_on),
        test=files.get("test"),
        source=loaded.source.description,
        fallback_from=loaded.fallback_from,
        name=loaded.source.name,
        task=task,
        separator=recipe.separator,
        origins=origins,
        label_counts={part: label_counts(examples, labels) for part, examples in chosen.items()},
        lengths={part: lengths_of(examples) for part, examples in chosen.items()},
        findings=capped(findings),
        digests={part: file.sha256 for part, file in files.items()},
        fingerprint=fingerprint,
        prompt=recipe.prompt.text if isinstance(recipe, PairRecipe) else None,
        conversations=conversations_of(recipe, chosen["train"], train_on),
        examination=examination,
        places={files[part].path: Places.of(examples) for part, examples in chosen.items()},
    )


def _raise_errors(findings: Sequence[Finding]) -> None:
    if any(finding.severity == "error" for finding in findings):
        raise FaultyDataError(capped(findings))


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


def _select(spec: DataSpec, part: str, examples: Sequence[Example], task: str) -> tuple[Sequence[Example], str]:
    """Return at most as many examples as the file wants of a part, and how they were selected."""
    limit = getattr(spec, f"{part}_examples")
    if limit is None or limit >= len(examples):
        return examples, ""
    prompts, strata = _prompts_and_strata(examples, task)
    how = spec.selection if part == "train" else "stratified"
    select = nested_sample if how == "nested" else stratified_sample
    chosen = Selection(examples, select(prompts, strata, limit, spec.seed))
    return chosen, f", {limit:,} of {len(examples):,}, {how}, seed {spec.seed}"


def _prompts_and_strata(examples: Sequence[Example], task: str) -> tuple[Iterable[str], list[str]]:
    """Return the prompts, to be read once, and the strata: the labels for classification."""
    known: dict[str, str] = {}  # equal labels share one text
    strata = [
        known.setdefault(example.completion, example.completion) if task == "classification" else ""
        for example in examples
    ]
    return (example.prompt for example in examples), strata


def _without_faults_between_parts(
    parts: Mapping[str, Sequence[Example]], recipe: Recipe, labels: Sequence[str], published: bool, spec: DataSpec
) -> tuple[dict[str, Sequence[Example]], list[Finding]]:
    """Leave out what only a comparison of the parts finds, or a check that takes longer."""
    calls = [checks.check_overlap(parts, published)]
    if {check.code for check in catalogue.THOROUGH} & set(spec.drop):
        view = DataView(parts, recipe, tuple(labels), published, spec.seed)
        calls += [check(view) for check in checks.THOROUGH]
    return without_faulty(parts, calls, spec.drop)


def _check_texts(pools: Mapping[str, Sequence[Example]], recipe: Recipe) -> Iterator[Finding]:
    for examples in pools.values():
        yield from checks.check_texts(examples, recipe)


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


def _empty_part(part: str, place: str, held_out: bool) -> Finding:
    if held_out:
        message = f"too few examples to hold some out as the {part} part"
        return error("too-few", place, message, "add examples, or give the part a file of its own")
    return error("empty-set", place, f"the {part} part has no examples")
