"""Faults at known places: what each one changes in a set, and the code that must report it."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from benchmarks.data.sets import DataSet, Parts, Row

COUNT = 10
"""Rows with the fault: as many places as a finding lists."""

Place = tuple[str, int]
"""A part, and the index of a row."""

Injected = tuple[Parts, Sequence[Place]]


class NotApplicableError(Exception):
    """A set has too few rows that could have the fault."""


@dataclass(frozen=True)
class Fault:
    """A fault. `places` are empty where the whole set has it."""

    name: str
    code: str
    inject: Callable[[DataSet, Random], Injected]
    kind: Literal["structural", "thorough"]
    needs: Literal["labels", "texts", "any"] = "any"
    structure: Literal["rows", "lines"] = "rows"

    def fits(self, data: DataSet) -> bool:
        """Return whether a set can have it."""
        return self.needs == "any" or (self.needs == "labels") == data.has_labels


def chosen(data: DataSet, random: Random, part: str = "train", count: int = COUNT) -> list[int]:
    """Return indices of rows, not the first ones, which decide the recipe."""
    return sorted(random.sample(range(100, len(data.parts[part])), count))


def changed(part: str, change: Callable[[DataSet, Row, Random], None]) -> Callable[[DataSet, Random], Injected]:
    """Return an injection that changes some rows of a part."""

    def inject(data: DataSet, random: Random) -> Injected:
        parts = data.copy()
        indices = chosen(data, random, part)
        for index in indices:
            change(data, parts[part][index], random)
        return parts, [(part, index) for index in indices]

    return inject


def prompts(change: Callable[[str, Random], str]) -> Callable[[DataSet, Row, Random], None]:
    """Return a change of the last column of the prompt."""

    def apply(data: DataSet, row: Row, random: Random) -> None:
        row[data.columns[-1]] = change(row[data.columns[-1]], random)

    return apply


def answers(change: Callable[[str, Random], str]) -> Callable[[DataSet, Row, Random], None]:
    """Return a change of the answer."""

    def apply(data: DataSet, row: Row, random: Random) -> None:
        row[data.answer] = change(row[data.answer], random)

    return apply


def copied(
    target: str,
    change: Callable[[DataSet, Row, Random], None] | None = None,
    same_answer: bool = True,
    is_suitable: Callable[[str], bool] = lambda text: True,
) -> Callable[[DataSet, Random], Injected]:
    """Return an injection that adds changed copies of training rows to a part."""

    def inject(data: DataSet, random: Random) -> Injected:
        parts = data.copy()
        places: list[Place] = []
        train = [row for row in data.parts["train"][100:] if any(is_suitable(row[name]) for name in data.columns)]
        if len(train) < COUNT:
            raise NotApplicableError
        for row in random.sample(train, COUNT):
            copy = dict(row)
            if change is not None:
                change(data, copy, random)
            if not same_answer:
                copy[data.answer] = random.choice([label for label in data.labels() if label != row[data.answer]])
            parts[target].append(copy)
            places.append((target, len(parts[target]) - 1))
        return parts, places

    return inject


def whole(change: Callable[[DataSet, Parts, Random], None]) -> Callable[[DataSet, Random], Injected]:
    """Return an injection that changes the whole set."""

    def inject(data: DataSet, random: Random) -> Injected:
        parts = data.copy()
        change(data, parts, random)
        return parts, ()

    return inject


def every(part: str, change: Callable[[DataSet, Row, Random], None]) -> Callable[[DataSet, Parts, Random], None]:
    """Return a change of all rows of a part; of all parts for `all`."""

    def apply(data: DataSet, parts: Parts, random: Random) -> None:
        for name, rows in parts.items():
            for row in rows if part in ("all", name) else ():
                change(data, row, random)

    return apply


# --------------------------------------------------------------------------------- edits of a text
def retyped(text: str, random: Random) -> str:
    """Return a text with one typing error for each sixty characters."""
    letters = list(text)
    for _ in range(max(1, len(text) // 60)):
        index = random.randrange(len(letters))
        letters[index] = random.choice(string.ascii_lowercase)
    return "".join(letters)


def reworded(text: str, random: Random) -> str:
    """Return a text with one word replaced, if it has ten or more."""
    words = text.split(" ")
    if len(words) >= 10:
        words[random.randrange(len(words))] = random.choice(["another", "green", "maybe", "house"])
    return " ".join(words)


def restyled(text: str, random: Random) -> str:
    """Return a text with other case, punctuation and spaces."""
    return random.choice([str.upper, str.lower, str.title])(text).rstrip(".!? ") + random.choice(["", " !", "..", "  "])


def extended(text: str, random: Random) -> str:
    """Return a text of 60 or more characters with a greeting."""
    return f"{random.choice(['Hi, ', 'Please: ', 'Ok - '])}{text}" if len(text) >= 60 else text + "."


def is_sentence(text: str) -> bool:
    """Return whether an edit leaves the text recognisable: of 55 characters or more."""
    return len(text) >= 55


def is_text(text: str) -> bool:
    return len(text) >= 20


EDITS: dict[str, tuple[Callable[[str, Random], str], Callable[[str], bool]]] = {
    "other case, punctuation, spaces": (restyled, is_text),
    "typing errors": (retyped, is_sentence),
    "a word replaced": (reworded, is_sentence),
    "a greeting added": (extended, is_sentence),
}


def edited(
    change: Callable[[str, Random], str], suits: Callable[[str], bool] = lambda text: True
) -> Callable[[DataSet, Row, Random], None]:
    """Return an edit of the suitable columns of the prompt."""

    def apply(data: DataSet, row: Row, random: Random) -> None:
        for name in data.columns:
            if suits(row[name]):
                row[name] = change(row[name], random)

    return apply


# ------------------------------------------------------------------------------- faults of a set
def _with_stop(data: DataSet, row: Row, random: Random) -> None:
    row[data.answer] = f"{row[data.answer]}{_stop(data)}{row[data.answer]}"


def _stop(data: DataSet) -> str:
    return next((stop for stop in ("***", " END") if data.completion.endswith(stop)), "\n")


def _second_stop(data: DataSet, row: Row, random: Random) -> None:
    row[data.answer] += " END" if _stop(data) == "***" else "***"


def _lowered(data: DataSet, random: Random) -> Injected:
    if not data.parts["train"][0][data.answer][:1].isupper():
        raise NotApplicableError
    return changed("train", answers(lambda text, _: text[:1].lower() + text[1:]))(data, random)


def _conflict(data: DataSet, random: Random) -> Injected:
    return copied("train", same_answer=False)(data, random)


def _typo(data: DataSet, random: Random) -> Injected:
    parts, label = data.copy(), random.choice([label for label in data.labels() if len(label) >= 3])
    rows = [index for index in range(100, len(parts["train"])) if parts["train"][index][data.answer] == label]
    indices = sorted(random.sample(rows, 3))
    for index in indices:
        parts["train"][index][data.answer] = random.choice(_typos(label))
    return parts, [("train", index) for index in indices]


def _typos(label: str) -> list[str]:
    doubled, stopped = label + label[-1], label + "."
    return [doubled, stopped] if len(label) < 5 else [doubled, stopped, label[:-2] + label[-1]]


def _grouped(data: DataSet, parts: Parts, random: Random) -> None:
    for part, rows in parts.items():
        for index, row in enumerate(rows):
            row["user"] = f"{part}-{index // 5}"


def _shared_groups(data: DataSet, random: Random) -> Injected:
    parts = data.copy()
    _grouped(data, parts, random)
    indices = chosen(data, random, "valid")
    for index in indices:
        parts["valid"][index]["user"] = f"train-{random.randrange(100)}"
    return parts, [("valid", index) for index in indices]


def _one_class(data: DataSet, parts: Parts, random: Random) -> None:
    for rows in parts.values():
        for row in rows:
            row[data.answer] = "yes"


def _rare(data: DataSet, parts: Parts, random: Random) -> None:
    label = data.labels()[0]
    rows = parts["train"]
    keep = [row for row in rows if row[data.answer] == label][:5]
    parts["train"] = [row for row in rows if row[data.answer] != label] + keep


def _absent(data: DataSet, parts: Parts, random: Random) -> None:
    label = data.labels()[0]
    parts["valid"] = [row for row in parts["valid"] if row[data.answer] != label]


def _short(data: DataSet, parts: Parts, random: Random) -> None:
    for row in parts["valid"]:
        for name in data.columns:
            row[name] = " ".join(row[name].split()[: max(2, len(row[name].split()) // 3)])


def _skewed(data: DataSet, parts: Parts, random: Random) -> None:
    label = data.labels()[0]
    rows = parts["valid"]
    parts["valid"] = [row for index, row in enumerate(rows) if row[data.answer] == label or index % 8 == 0]


def _foreign_words(data: DataSet, row: Row, random: Random) -> None:
    for name in data.columns:
        words = row[name].split()
        row[name] = " ".join(f"{word}oth" if random.random() < 0.2 else word for word in words)


_KEY = "sk-" + "aB3dE6gH9jK2mN5pQ8sT"
_PERSONAL = ["jo.miller@mail.org", "+44 20 7946 0018", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"]

FAULTS: Sequence[Fault] = (
    # Structure: each must always be found.
    Fault(
        "empty prompt",
        "empty-prompt",
        changed("train", lambda d, r, _: r.update(dict.fromkeys(d.columns, " "))),
        "structural",
    ),
    Fault("empty answer", "empty-completion", changed("train", answers(lambda text, _: "  ")), "structural"),
    Fault("half a character", "surrogate", changed("train", prompts(lambda text, _: text + "\ud83d")), "structural"),
    Fault("missing column", "missing-field", changed("train", lambda d, r, _: r.pop(d.answer) and None), "structural"),
    Fault("null in a column", "field", changed("train", lambda d, r, _: r.update({d.answer: None})), "structural"),
    Fault(
        "separator in a prompt",
        "separator-inside",
        changed("train", prompts(lambda text, _: f"{text[:9]}\n\n###\n\n{text[9:]}")),
        "structural",
    ),
    Fault(
        "stop sequence in a label's text",
        "stop-inside",
        changed("train", answers(lambda text, _: f"{text[:2]}\n{text[2:]}")),
        "structural",
        "labels",
    ),
    Fault(
        "stop sequence in an answer",
        "stop-inside",
        changed("train", _with_stop),
        "structural",
        "texts",
    ),
    Fault(
        "a second separator", "doubled-separator", changed("train", prompts(lambda text, _: text + " ->")), "structural"
    ),
    Fault(
        "a second stop sequence",
        "doubled-stop",
        changed("train", _second_stop),
        "structural",
        "texts",
    ),
    Fault(
        "very long row", "long-example", changed("train", prompts(lambda text, _: text + " word" * 2500)), "structural"
    ),
    Fault("row twice in train", "duplicate", copied("train"), "structural"),
    Fault("one prompt, two labels", "conflicting-labels", _conflict, "structural", "labels"),
    Fault("training row in validation", "overlap", copied("valid"), "structural"),
    Fault("training row in test", "overlap", copied("test"), "structural"),
    Fault(
        "prompt with another answer in test",
        "prompt-overlap",
        copied("test", answers(lambda text, _: text + " indeed")),
        "structural",
        "texts",
    ),
    Fault(
        "label that train has not",
        "label-unseen",
        changed("valid", answers(lambda text, _: "unheard-of")),
        "structural",
        "labels",
    ),
    Fault(
        "label in another case",
        "label-spelling",
        changed("train", answers(lambda text, _: text.upper())),
        "structural",
        "labels",
    ),
    Fault("one label only", "one-class", whole(_one_class), "structural"),
    Fault(
        "one prompt only",
        "one-prompt",
        whole(every("all", lambda d, r, _: r.update(dict.fromkeys(d.columns, "same")))),
        "structural",
    ),
    Fault("50 rows", "few-examples", whole(lambda d, parts, _: parts.update(train=parts["train"][:50])), "structural"),
    Fault("broken JSON", "json", changed("train", prompts(lambda text, _: text)), "structural", structure="lines"),
    # Thorough.
    *(
        Fault(
            f"near copy in train: {name}",
            "near-duplicate",
            copied("train", edited(change, suits), is_suitable=suits),
            "thorough",
        )
        for name, (change, suits) in EDITS.items()
    ),
    *(
        Fault(
            f"near copy in validation: {name}",
            "near-overlap",
            copied("valid", edited(change, suits), is_suitable=suits),
            "thorough",
        )
        for name, (change, suits) in EDITS.items()
    ),
    Fault("group in two parts", "group-overlap", _shared_groups, "thorough"),
    Fault(
        "prompt in another case, another label",
        "conflicting-variants",
        copied("train", edited(lambda text, _: text.swapcase()), same_answer=False),
        "thorough",
        "labels",
    ),
    Fault("typing error in a label", "label-typo", _typo, "thorough", "labels"),
    Fault("NaN as an answer", "null-value", changed("train", answers(lambda text, _: "NaN")), "thorough"),
    Fault("None as a prompt", "null-value", changed("train", prompts(lambda text, _: "None")), "thorough"),
    Fault("class missing in validation", "class-missing", whole(_absent), "thorough", "labels"),
    Fault("class with 5 training rows", "rare-class", whole(_rare), "thorough", "labels"),
    Fault("validation of short prompts", "length-drift", whole(_short), "thorough"),
    Fault("validation of other shares of labels", "label-drift", whole(_skewed), "thorough", "labels"),
    Fault(
        "a fifth of the words of validation unknown",
        "vocabulary-drift",
        whole(every("valid", _foreign_words)),
        "thorough",
    ),
    Fault(
        "validation with an instruction",
        "format-drift",
        whole(every("valid", lambda d, r, _: r.update({d.columns[0]: "Question:\n" + r[d.columns[0]]}))),
        "thorough",
    ),
    Fault(
        "prompts 40 times as long",
        "length-outlier",
        changed("train", prompts(lambda text, _: " ".join([text] * 40))),
        "thorough",
    ),
    Fault(
        "answers with a second space",
        "leading-space",
        changed("train", answers(lambda text, _: "  " + text)),
        "thorough",
        "texts",
    ),
    Fault(
        "answers in small letters",
        "first-letter",
        _lowered,
        "thorough",
        "texts",
    ),
    Fault(
        "spaces around a prompt",
        "surrounding-space",
        changed("train", prompts(lambda text, _: f" {text} ")),
        "thorough",
    ),
    Fault(
        "all prompts in capitals", "upper-case", whole(every("all", edited(lambda text, _: text.upper()))), "thorough"
    ),
    Fault(
        "Russian rows",
        "mixed-scripts",
        changed("train", edited(lambda text, _: "Сколько книг осталось на полке?")),
        "thorough",
    ),
    Fault("wrongly decoded rows", "mojibake", changed("train", prompts(lambda text, _: text + " cafÃ©")), "thorough"),
    Fault(
        "an instruction before every prompt",
        "common-prompt-prefix",
        whole(every("all", lambda d, r, _: r.update({d.columns[0]: "Decide what this is about: " + r[d.columns[0]]}))),
        "thorough",
    ),
    Fault(
        "another separator after every prompt",
        "common-prompt-suffix",
        whole(every("all", prompts(lambda text, _: text + " =>>"))),
        "thorough",
    ),
    Fault(
        "words before every answer",
        "common-completion-prefix",
        whole(every("all", answers(lambda text, _: "The answer is " + text))),
        "thorough",
        "texts",
    ),
    Fault(
        "personal data",
        "personal-data",
        changed("train", prompts(lambda text, random: f"{text} {random.choice(_PERSONAL)}")),
        "thorough",
    ),
    Fault("access key", "secret", changed("train", prompts(lambda text, _: f"{text} {_KEY}")), "thorough"),
)
