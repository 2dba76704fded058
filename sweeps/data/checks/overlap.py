"""Structural check for examples of one part in another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sweeps.data.checks.cases import Cases, record
from sweeps.data.checks.digests import position, text_digests
from sweeps.data.examples import Example
from sweeps.data.findings import MAX_PER_KIND, Finding, error


def check_overlap(parts: Mapping[str, Sequence[Example]], published: bool) -> Iterator[Finding]:
    """Look for examples of one part in another, which would make a model look better than it is.

    An identical example is an error; in a `published` split, which the user cannot change, it is a
    warning. The same prompt with another completion is a warning. Only the first errors of two
    parts have findings of their own; one more counts the rest.
    """
    import numpy as np

    names = list(parts)
    digests = {part: text_digests(examples) for part, examples in parts.items()}
    for number, later in enumerate(names[1:], 1):
        for earlier in names[:number]:
            examples, others = parts[later], parts[earlier]
            asked, known = digests[later], digests[earlier]
            is_same = np.isin(asked.examples, known.examples)
            same = np.flatnonzero(is_same).tolist()
            if same and published:
                first = others[position(known.examples, asked.examples[same[0]])].place
                message = f"{len(same)} {later} examples are also in {earlier}, first {first}"
                yield Cases.of(examples, same).warning("overlap", message, "scores on them are too high")
            else:
                record("overlap", examples, same)
                hint = "remove it from one of them; its scores would be too high"
                for index in same[:MAX_PER_KIND]:
                    place = others[position(known.examples, asked.examples[index])].place
                    message = f"this {later} example is also in {earlier}, at {place}"
                    yield error("overlap", examples[index].place, message, hint)
                if rest := len(same[MAX_PER_KIND:]):
                    message = f"{rest} more {later} examples are also in {earlier}"
                    yield error("overlap", examples[same[MAX_PER_KIND]].place, message, hint, rest)
            leaked = np.flatnonzero(np.isin(asked.prompts, known.prompts) & ~is_same).tolist()
            if leaked:
                first = others[position(known.prompts, asked.prompts[leaked[0]])].place
                message = f"{len(leaked)} {later} prompts are also in {earlier} with another completion, first {first}"
                yield Cases.of(examples, leaked).warning("prompt-overlap", message)
