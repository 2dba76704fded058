"""Checks of the examples before anything is spent on them: pure functions, examples -> findings.

Add new data checks here. A check looks at one part or at all of them, and never opens a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sweeps.data.examples import STOPS, ChatRecipe, Example, Recipe
from sweeps.data.findings import Finding, error, nearest_hint, quoted, warning
from sweeps.data.readers.files import is_utf8

MAX_LABELS = 50
"""The most different completions that count as labels.

These must also occur three times each on average (the rule of OpenAI's retired preparation tool,
openai 0.28), be on one line, and have at most `MAX_LABEL_CHARACTERS` characters.
"""

MAX_LABEL_CHARACTERS = 50

IMBALANCE_RATIO = 4
"""The most frequent label over the rarest one; a higher ratio is reported (our choice: 80/20)."""

FEW_EXAMPLES = 100
"""Below this number the same tool advised to collect more: "a few hundred"."""

HOSTED_MIN_EXAMPLES = 10
"""Hosted services refuse training files with fewer examples."""

LONG_EXAMPLE_CHARACTERS = 10_000
"""Characters of prompt and completion above which the same tool proposed to drop an example."""


def is_classification(completions: Iterable[str]) -> bool:
    """Return whether the completions look like labels: the rule of `task: auto`.

    See `MAX_LABELS`.
    """
    counts: Counter[str] = Counter()
    for completion in completions:
        counts[completion] += 1
        if len(counts) > MAX_LABELS:
            return False
    return 3 * len(counts) <= counts.total() and all(
        len(text) <= MAX_LABEL_CHARACTERS and "\n" not in text.strip() for text in counts
    )


def check_texts(examples: Sequence[Example], recipe: Recipe) -> Iterator[Finding]:
    """Check each example by itself: empty, very long, and unencodable texts."""
    blank = (
        "" if isinstance(recipe, ChatRecipe) else recipe.completion_text([""] * len(recipe.completion.fields)).strip()
    )
    long: list[Example] = []
    for example in examples:
        prompt, completion = example.prompt, example.completion
        if not any(map(str.strip, example.segments)):
            yield error("empty-prompt", example.place, "the prompt is empty")
        if completion.strip() == blank:
            yield error("empty-completion", example.place, "the completion is empty")
        if not (prompt.isascii() and completion.isascii()) and not is_utf8(prompt + completion):
            message = "the text has half a character (an unpaired surrogate escape), which UTF-8 cannot encode"
            yield error("surrogate", example.place, message)
        if len(prompt) + len(completion) > LONG_EXAMPLE_CHARACTERS:
            long.append(example)
    if long:
        message = (
            f"more than {LONG_EXAMPLE_CHARACTERS:,} characters in {_examples(long)}; models cut text that is too long"
        )
        yield _first("long-example", long, message)


def check_delimiters(examples: Sequence[Example], recipe: Recipe) -> Iterator[Finding]:
    """Look for the separator and the stop sequence inside texts."""
    if isinstance(recipe, ChatRecipe):
        return
    stop, separator = recipe.stop, recipe.separator
    if stop and (cut := [example for example in examples if stop in example.completion[: -len(stop)]]):
        unused = [
            candidate
            for candidate in STOPS
            if candidate not in separator and not any(candidate in example.completion for example in examples)
        ]
        hint = f"set stop: {_yaml(unused[0])}, which no completion has" if unused else "set stop: to another text"
        message = f"the stop sequence {stop!r} would cut the completion of {_examples(cut)}"
        yield error("stop-inside", cut[0].place, message, hint, len(cut))
    # Prompts may have line breaks and spaces: the stop sequence cuts generated text only.
    in_prompt: list[Example] = []
    if stop.strip():
        in_prompt = [example for example in examples if any(stop in text for text in example.segments)]
    if in_prompt:
        message = f"the stop sequence {stop!r} is inside the prompt of {_examples(in_prompt)}"
        yield _first("stop-in-prompt", in_prompt, message, "set stop: to a text that the data does not have")
    separated = [
        example
        for example in examples
        if separator in example.completion.removesuffix(stop) or any(separator in text for text in example.segments)
    ]
    if separated:
        message = f"the separator {separator!r} is inside {_examples(separated)}"
        yield _first("separator-inside", separated, message, "set separator: to a text that the data does not have")


def check_conversations(examples: Sequence[Example]) -> Iterator[Finding]:
    """Report messages after the last answer, which cannot be trained."""
    if unanswered := [example for example in examples if example.unanswered]:
        count = sum(example.unanswered for example in unanswered)
        message = f"{count} message{'s' if count != 1 else ''} after the last answer left out: {_examples(unanswered)}"
        yield _first("unanswered", unanswered, message)


def check_training(examples: Sequence[Example], classification: bool) -> Iterator[Finding]:
    """Check the training examples together: variety, repetitions, contradictions, balance."""
    first_indices: dict[str, int] = {}
    answers: dict[str, set[str]] = {}
    repeated: list[Example] = []
    contradicted: list[Example] = []
    for index, example in enumerate(examples):
        first_index = first_indices.setdefault(example.prompt, index)
        if first_index == index:
            continue
        known = answers.setdefault(example.prompt, {examples[first_index].completion})
        if example.completion in known:
            repeated.append(example)
        else:
            known.add(example.completion)
            contradicted.append(example)
    if repeated:
        origin = examples[first_indices[repeated[0].prompt]].place
        message = f"repeated: {_examples(repeated)}; the first is the same as {origin}"
        hint = "repeated examples weigh more in training; remove them unless you mean it"
        yield _first("duplicate", repeated, message, hint)
    if contradicted and classification:
        origin = examples[first_indices[contradicted[0].prompt]].place
        message = f"identical prompts with different labels: {_examples(contradicted)}; the first contradicts {origin}"
        yield _first("conflicting-labels", contradicted, message, "no model can learn both; correct the wrong labels")
    counts = Counter(example.completion for example in examples)
    has_one_answer = all(example.answers == 1 for example in examples)
    if len(examples) > 1 and len(counts) == 1 and has_one_answer:
        message = f"all {len(examples)} completions are {quoted(examples[0].completion)}: there is nothing to learn"
        yield error("one-class", examples[0].file, message, "check the completion template")
    if len(examples) > 1 and len(first_indices) == 1:
        message = f"all {len(examples)} prompts are identical: {quoted(examples[0].prompt)}"
        yield error("one-prompt", examples[0].file, message, "check the prompt template")
    if classification and len(counts) > 1:
        (commonest, highest), *_, (rarest, lowest) = counts.most_common()
        if highest > IMBALANCE_RATIO * lowest:
            message = f"{quoted(commonest.strip())} occurs {highest} times, {quoted(rarest.strip())} {lowest} times"
            share = f"{highest / len(examples):.0%}"
            hint = f"always answering {quoted(commonest.strip())} has an accuracy of {share}; watch macro-F1 too"
            yield warning("imbalance", examples[0].file, message, hint)


def check_size(examples: Sequence[Example]) -> Iterator[Finding]:
    """Check whether there are enough training examples. Other checks report an empty part."""
    if 0 < len(examples) < FEW_EXAMPLES:
        hint = "fine-tuning becomes useful with a few hundred"
        if len(examples) < HOSTED_MIN_EXAMPLES:
            hint += f"; hosted services refuse fewer than {HOSTED_MIN_EXAMPLES}"
        yield warning("few-examples", examples[0].file, f"only {len(examples)} training examples", hint)


def check_labels(
    parts: Mapping[str, Sequence[Example]], labels: Sequence[str], allowed: bool, stop: str = ""
) -> Iterator[Finding]:
    """Check the labels of a classification task.

    `labels` come from the sweep file if `allowed` is true, otherwise from the training examples.
    """
    known = set(labels)
    for part, examples in parts.items():
        for example in examples:
            if example.completion in known:
                continue
            label = example.completion.removesuffix(stop)
            hint = nearest_hint(label, [known_label.removesuffix(stop) for known_label in labels])
            if allowed:
                yield error("unknown-label", example.place, f"{quoted(label)} is not among the labels", hint)
            else:
                message = f"no training example has the label {quoted(label)} of this {part} example"
                yield error("label-unseen", example.place, message, hint)
    spellings: dict[str, list[str]] = {}
    for label in labels:
        spellings.setdefault(" ".join(label.casefold().split()), []).append(label)
    for variants in spellings.values():
        if len(variants) > 1:
            counts = Counter(example.completion for examples in parts.values() for example in examples)
            rarest = min(variants, key=lambda label: (counts[label], label))
            affected = [example for examples in parts.values() for example in examples if example.completion == rarest]
            names = " and ".join(quoted(label.removesuffix(stop)) for label in sorted(variants))
            message = f"{names} differ only in spaces or case, but are separate labels ({_examples(affected)})"
            hint = "write each label in one way"
            yield (
                _first("label-spelling", affected, message, hint)
                if affected
                else warning("label-spelling", "", message, hint)
            )
    if not allowed:
        return
    if unused := known - {example.completion for examples in parts.values() for example in examples}:
        names = ", ".join(quoted(label.removesuffix(stop)) for label in sorted(unused))
        yield warning("label-unused", "", f"no example has the label {names}", "check its spelling against the data")


def check_overlap(parts: Mapping[str, Sequence[Example]], published: bool) -> Iterator[Finding]:
    """Look for examples of one part in another, which would make a model look better than it is.

    An identical example is an error; in a `published` split, which the user cannot change, it is a
    warning. The same prompt with another completion is a warning.
    """
    names = list(parts)
    for number, later in enumerate(names[1:], 1):
        prompts: dict[str, list[Example]] = {}
        for example in parts[later]:
            prompts.setdefault(example.prompt, []).append(example)
        for earlier in names[:number]:
            same: dict[int, tuple[Example, Example]] = {}
            same_prompt: dict[int, tuple[Example, Example]] = {}
            for other in parts[earlier]:
                for example in prompts.get(other.prompt, ()):
                    matches = same if other.completion == example.completion else same_prompt
                    matches.setdefault(id(example), (example, other))
            yield from _overlaps(list(same.values()), later, earlier, published)
            leaked = [pair for key, pair in same_prompt.items() if key not in same]
            if leaked:
                message = (
                    f"{len(leaked)} {later} prompts are also in {earlier} with another completion, "
                    f"first {leaked[0][1].place}"
                )
                yield warning("prompt-overlap", leaked[0][0].place, message, count=len(leaked))


def _overlaps(pairs: Sequence[tuple[Example, Example]], later: str, earlier: str, published: bool) -> Iterator[Finding]:
    if pairs and published:
        message = f"{len(pairs)} {later} examples are also in {earlier}, first {pairs[0][1].place}"
        yield warning("overlap", pairs[0][0].place, message, "scores on them are too high", len(pairs))
        return
    for example, other in pairs:
        message = f"this {later} example is also in {earlier}, at {other.place}"
        yield error("overlap", example.place, message, "remove it from one of them; its scores would be too high")


def _first(code: str, examples: Sequence[Example], message: str, hint: str = "") -> Finding:
    return warning(code, examples[0].place, message, hint, len(examples))


def _examples(examples: Sequence[Example]) -> str:
    """Return text such as `3 examples (lines 4, 9, 12)`.

    It lists the first few lines, in the file of the first example.
    """
    lines = [str(example.line) for example in examples if example.file == examples[0].file][:5]
    if len(examples) == 1:
        return f"1 example (line {lines[0]})"
    return f"{len(examples)} examples (lines {', '.join(lines)}{', ...' if len(examples) > len(lines) else ''})"


def _yaml(text: str) -> str:
    return '"' + text.replace("\n", "\\n") + '"'
