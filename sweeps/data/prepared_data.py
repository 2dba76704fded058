"""Data that is ready to train on, and what is known about it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from backends.chat_lines import TrainOn
from backends.contract import DataFile, Dataset, OwnData
from sweeps.data.baselines import Baselines
from sweeps.data.conversations import LayoutName
from sweeps.data.examination import Examination
from sweeps.data.examples import ChatRecipe, Example, Recipe
from sweeps.data.findings import Finding
from sweeps.data.places import Places


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


def conversations_of(recipe: Recipe, examples: Sequence[Example], train_on: TrainOn) -> Conversations | None:
    """Describe the training part of chat data; None if it is none."""
    if not isinstance(recipe, ChatRecipe):
        return None
    answers = sum(example.answers for example in examples)
    trained = sum(example.trained_answers(train_on) for example in examples)
    return Conversations(recipe.source.name, len(examples), answers, trained)


def label_counts(examples: Sequence[Example], labels: Sequence[str]) -> dict[str, int]:
    """Return how often each label occurs in a part."""
    counts = Counter(example.completion for example in examples)
    return {label: counts[label] for label in labels}


def lengths_of(examples: Sequence[Example]) -> Lengths:
    """Return the lengths of a part that has examples."""
    prompts, completions = array("Q"), array("Q")
    for example in examples:
        prompts.append(len(example.prompt))
        completions.append(len(example.completion))
    total = len(examples)
    return Lengths(sum(prompts) / total, max(prompts), sum(completions) / total, max(completions))
