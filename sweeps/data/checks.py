"""What is wrong with examples, before anything is spent on them: pure functions, examples -> findings.

This is the place for a data gate. A check looks at one part or at all of them, and knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sweeps.data.examples import STOPS, Chat, Example, Recipe
from sweeps.data.findings import Finding, error, nearest, quoted, warning
from sweeps.data.formats import is_text

MANY_LABELS = 50
"""At most so many different completions are labels, each on average three times or more (the third is the rule of
OpenAI's retired preparation tool, openai 0.28), of one line and at most `LONG_LABEL` characters."""

LONG_LABEL = 50

IMBALANCE = 4
"""The most frequent label may be so many times as frequent as the rarest before it is said (our choice: 80/20)."""

FEW_EXAMPLES = 100
"""Below this the same tool advised to collect more: "a few hundred"."""

HOSTED_MINIMUM = 10
"""Hosted services refuse training files with fewer examples."""

LONG_EXAMPLE = 10_000
"""Characters of prompt and completion together, above which the same tool proposed to drop an example."""


def is_classification(completions: Iterable[str]) -> bool:
    """True where the completions look like labels: the rule of `task: auto` (see `MANY_LABELS`)."""
    counts = Counter(completions)
    return (
        len(counts) <= MANY_LABELS
        and 3 * len(counts) <= counts.total()
        and all(len(text) <= LONG_LABEL and "\n" not in text.strip() for text in counts)
    )


def check_texts(examples: Sequence[Example], how: Recipe) -> Iterator[Finding]:
    """Check each example of any part by itself: is there a text at all, can it be written, is it very long?"""
    blank = "" if isinstance(how, Chat) else how.answer([""] * len(how.completion.fields)).strip()
    long: list[Example] = []
    for example in examples:
        prompt, completion = example.prompt, example.completion
        if not any(map(str.strip, example.segments)):
            yield error("empty-prompt", example.place, "the prompt is empty")
        if completion.strip() == blank:
            yield error("empty-completion", example.place, "the completion is empty")
        if not (prompt.isascii() and completion.isascii()) and not is_text(prompt + completion):
            message = "half a character (an unpaired surrogate escape) is in the text, which cannot be written as UTF-8"
            yield error("surrogate", example.place, message)
        if len(prompt) + len(completion) > LONG_EXAMPLE:
            long.append(example)
    if long:
        message = f"more than {LONG_EXAMPLE:,} characters in {_examples(long)}; models cut what is too long"
        yield _first("long-example", long, message)


def check_delimiters(examples: Sequence[Example], how: Recipe) -> Iterator[Finding]:
    """Look for the separator and the stop sequence where they do not belong."""
    if isinstance(how, Chat):
        return
    stop, separator = how.stop, how.separator
    if stop and (stopped := [each for each in examples if stop in each.completion[: -len(stop)]]):
        free = [each for each in STOPS if each not in separator and not any(each in it.completion for it in examples)]
        hint = f"set stop: {_yaml(free[0])}, which no completion holds" if free else "set stop: to another text"
        message = f"the stop sequence {stop!r} would cut the completion of {_examples(stopped)}"
        yield error("stop-inside", stopped[0].place, message, hint, len(stopped))
    # prompts may hold line breaks and spaces: what is generated is cut, not what was asked
    asked = [each for each in examples if any(stop in text for text in each.segments)] if stop.strip() else []
    if asked:
        message = f"the stop sequence {stop!r} is inside the prompt of {_examples(asked)}"
        yield _first("stop-in-prompt", asked, message, "set stop: to a text that the data does not hold")
    separated = [
        example
        for example in examples
        if separator in example.completion.removesuffix(stop) or any(separator in text for text in example.segments)
    ]
    if separated:
        message = f"the separator {separator!r} is inside {_examples(separated)}"
        yield _first("separator-inside", separated, message, "set separator: to a text that the data does not hold")


def check_training(examples: Sequence[Example], classification: bool) -> Iterator[Finding]:
    """Check what the training examples are together: variety, repetitions, contradictions, size."""
    first: dict[str, int] = {}
    answers: dict[str, set[str]] = {}
    repeated: list[Example] = []
    contradicted: list[Example] = []
    for index, example in enumerate(examples):
        before = first.setdefault(example.prompt, index)
        if before == index:
            continue
        known = answers.setdefault(example.prompt, {examples[before].completion})
        if example.completion in known:
            repeated.append(example)
        else:
            known.add(example.completion)
            contradicted.append(example)
    if repeated:
        origin = examples[first[repeated[0].prompt]].place
        message = f"repeated: {_examples(repeated)}; the first is the same as {origin}"
        yield _first("duplicate", repeated, message, "they weigh more in training; remove them unless meant")
    if contradicted and classification:
        origin = examples[first[contradicted[0].prompt]].place
        message = f"another label than an identical prompt: {_examples(contradicted)}; the first contradicts {origin}"
        yield _first("conflicting-labels", contradicted, message, "no model can learn both; correct the wrong ones")
    counts = Counter(example.completion for example in examples)
    if len(examples) > 1 and len(counts) == 1:
        message = f"all {len(examples)} completions are {quoted(examples[0].completion)}: there is nothing to learn"
        yield error("one-class", examples[0].file, message, "is the completion template right?")
    if len(examples) > 1 and len(first) == 1:
        message = f"all {len(examples)} prompts are identical: {quoted(examples[0].prompt)}"
        yield error("one-prompt", examples[0].file, message, "is the prompt template right?")
    if classification and len(counts) > 1:
        (most, many), *_, (least, few) = counts.most_common()
        if many > IMBALANCE * few:
            message = f"{quoted(most.strip())} is there {many} times, {quoted(least.strip())} {few} times"
            hint = f"always {quoted(most.strip())} is right in {many / len(examples):.0%}: watch macro-F1 too"
            yield warning("imbalance", examples[0].file, message, hint)


def check_size(examples: Sequence[Example]) -> Iterator[Finding]:
    """Check whether there is enough to train on; none at all is not a matter of size."""
    if 0 < len(examples) < FEW_EXAMPLES:
        hint = "a few hundred is where it becomes useful"
        if len(examples) < HOSTED_MINIMUM:
            hint += f"; hosted services refuse fewer than {HOSTED_MINIMUM}"
        yield warning("few-examples", examples[0].file, f"only {len(examples)} training examples", hint)


def check_labels(
    parts: Mapping[str, Sequence[Example]], labels: Sequence[str], allowed: bool, stop: str = ""
) -> Iterator[Finding]:
    """Check the completions of a classification task: `labels` are `allowed` by the user, or those of training."""
    known = set(labels)
    for part, examples in parts.items():
        for example in examples:
            if example.completion in known:
                continue
            shown = example.completion.removesuffix(stop)
            hint = nearest(shown, [label.removesuffix(stop) for label in labels])
            if allowed:
                yield error("unknown-label", example.place, f"{quoted(shown)} is not among the labels", hint)
            else:
                message = f"the label {quoted(shown)} of this {part} example is never there in training"
                yield error("label-unseen", example.place, message, hint)
    spellings: dict[str, list[str]] = {}
    for label in labels:
        spellings.setdefault(" ".join(label.casefold().split()), []).append(label)
    for variants in spellings.values():
        if len(variants) > 1:
            counts = Counter(each.completion for examples in parts.values() for each in examples)
            rarest = min(variants, key=lambda label: (counts[label], label))
            places = [each for examples in parts.values() for each in examples if each.completion == rarest]
            shown = " and ".join(quoted(each.removesuffix(stop)) for each in sorted(variants))
            message = f"{shown} differ in spaces or case only, and are separate labels ({_examples(places)})"
            yield (
                _first("label-spelling", places, message, "write each label in one way")
                if places
                else warning("label-spelling", "", message, "write each label in one way")
            )
    if allowed and (unused := known - {each.completion for examples in parts.values() for each in examples}):
        shown = ", ".join(quoted(each.removesuffix(stop)) for each in sorted(unused))
        yield warning("label-unused", "", f"no example has the label {shown}", "is it spelled as in the data?")


def check_overlap(parts: Mapping[str, Sequence[Example]], published: bool) -> Iterator[Finding]:
    """Look for examples of one part in another, where they would make a model look better than it is.

    An identical example is an error; in a `published` division, which its user cannot change, a warning. The same
    prompt with another completion is a warning.
    """
    names = list(parts)
    for number, later in enumerate(names[1:], 1):
        prompts: dict[str, list[Example]] = {}
        for example in parts[later]:
            prompts.setdefault(example.prompt, []).append(example)
        for earlier in names[:number]:
            same: dict[int, tuple[Example, Example]] = {}
            near: dict[int, tuple[Example, Example]] = {}
            for other in parts[earlier]:
                for example in prompts.get(other.prompt, ()):
                    met = same if other.completion == example.completion else near
                    met.setdefault(id(example), (example, other))
            yield from _overlaps(list(same.values()), later, earlier, published)
            leaked = [pair for key, pair in near.items() if key not in same]
            if leaked:
                there = f"{earlier} with another completion, first {leaked[0][1].place}"
                message = f"{len(leaked)} {later} prompts are in {there}"
                yield warning("prompt-overlap", leaked[0][0].place, message, count=len(leaked))


def _overlaps(pairs: Sequence[tuple[Example, Example]], later: str, earlier: str, published: bool) -> Iterator[Finding]:
    if pairs and published:
        message = f"{len(pairs)} {later} examples are in {earlier} too, first {pairs[0][1].place}"
        yield warning("overlap", pairs[0][0].place, message, "scores on them are too good", len(pairs))
        return
    for example, other in pairs:
        message = f"this {later} example is in {earlier} too, at {other.place}"
        yield error("overlap", example.place, message, "remove it from one of them: scores on it would be too good")


def _first(code: str, examples: Sequence[Example], message: str, hint: str = "") -> Finding:
    return warning(code, examples[0].place, message, hint, len(examples))


def _examples(examples: Sequence[Example]) -> str:
    """`3 examples (lines 4, 9, 12)`: the first few lines, of the first one's file."""
    lines = [str(each.line) for each in examples if each.file == examples[0].file][:5]
    if len(examples) == 1:
        return f"1 example (line {lines[0]})"
    return f"{len(examples)} examples (lines {', '.join(lines)}{', ...' if len(examples) > len(lines) else ''})"


def _yaml(text: str) -> str:
    return '"' + text.replace("\n", "\\n") + '"'
