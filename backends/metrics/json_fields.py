"""How many fields of a predicted JSON object are right."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from backends.metrics.built_in import BuiltInMetric, mean
from backends.metrics.contract import Answers, MetricDeclaration, Scores
from backends.metrics.failures import user_error
from backends.metrics.json_texts import JsonOptions, NotJsonError, parsed
from backends.metrics.normalization import Difference, normalized
from backends.metrics.text_overlap import f1

MAX_FIELD_SCORES = 50
"""Only this many fields have a number of their own: the most frequent ones."""

_UNSAFE_CHARACTER = re.compile(r"[^\w. :/-]")


class JsonFieldsOptions(JsonOptions):
    """Options of `json_fields`."""

    fields: Annotated[
        tuple[str, ...] | None,
        Field(
            description="The fields that count, such as `name` or `address.city`; a field stands for all below it. "
            "Without this option all count."
        ),
    ] = None
    ignore: Annotated[
        tuple[Difference, ...], Field(description="Differences between texts to ignore, as in `exact_match`.")
    ] = ()
    average: Annotated[
        Literal["fields", "examples"],
        Field(
            description="`fields`: the F1 over all fields of all examples together. `examples`: the mean of the F1 of "
            "the examples, which has an interval over examples."
        ),
    ] = "fields"


_Values: TypeAlias = dict[str, Counter[str]]
"""The values at each path, as JSON texts."""


@dataclass(frozen=True)
class _Counts:
    """How many values are common, predicted and expected."""

    common: int = 0
    predicted: int = 0
    expected: int = 0

    @property
    def f1(self) -> float:
        """The F1; 1 if there is nothing to predict and nothing was predicted."""
        return f1(self.common, self.predicted, self.expected) if self.predicted + self.expected else 1.0


class JsonFields(BuiltInMetric[JsonFieldsOptions]):
    """The F1 of the values of a JSON object, compared with those of the reference, over all fields.

    Each number, text, truth value or null is a value at a path, such as `address.city`. The items
    of a list share the path of the list, and their order does not matter. An empty object or list
    is a value, too. A value counts as common if the reference has an equal one at the same path;
    1 and 1.0 are equal, and "1" is another value. A prediction that is not JSON has no values. With
    several references the one with the best F1 counts. This is the F1 of information extraction
    (Chinchor 1992, aclanthology M92-1002), without partial credit.

    The further numbers are the F1 of each field that the references have, at most 50.
    """

    options_model = JsonFieldsOptions

    @classmethod
    def describe(cls, options: BaseModel) -> MetricDeclaration:
        """Return the declaration; only the mean over examples has an interval."""
        assert isinstance(options, JsonFieldsOptions)
        return MetricDeclaration("maximize", is_mean=options.average == "examples")

    def problems(self, answers: Answers) -> Sequence[str]:
        """Report references that are not JSON, or have none of the fields."""
        found = []
        for number, references in enumerate(answers.references, start=1):
            for reference in references:
                try:
                    leaves = self._leaves(reference)
                except NotJsonError as error:
                    found.append(f"the reference of example {number} is not JSON: {error}")
                else:
                    if not leaves:
                        found.append(f"the reference of example {number} has none of the `fields`")
        return found

    def score(self, answers: Answers) -> Scores:
        """Score the answers. Raises BackendError (user) for a reference that is not JSON."""
        by_field: dict[str, _Counts] = {}
        values = []
        for number, (prediction, references) in enumerate(
            zip(answers.predictions, answers.references, strict=True), start=1
        ):
            predicted = self._predicted(prediction)
            expected = max(
                (self._expected(reference, number) for reference in references),
                key=lambda texts: _total(_compared(predicted, texts).values()).f1,
            )
            compared = _compared(predicted, expected)
            values.append(_total(compared.values()).f1)
            for path, counts in compared.items():
                by_field[path] = _total((by_field.get(path, _Counts()), counts))
        value = _total(by_field.values()).f1 if self.options.average == "fields" else mean(values)
        return Scores(value, tuple(values), _field_scores(by_field))

    def _predicted(self, text: str) -> _Values:
        try:
            return self._leaves(text)
        except NotJsonError:
            return {}

    def _expected(self, text: str, number: int) -> _Values:
        try:
            return self._leaves(text)
        except NotJsonError as error:
            raise user_error(f"the reference of example {number} is not JSON: {error}") from None

    def _leaves(self, text: str) -> _Values:
        """Return the values of a JSON text that count. Raises NotJsonError."""
        value = parsed(text, self.options)
        try:
            leaves = list(_leaves(value, ""))
        except RecursionError:
            raise NotJsonError("it is nested too deep") from None
        values: _Values = {}
        for path, leaf in leaves:
            if self._matters(path):
                values.setdefault(path, Counter())[self._as_text(leaf)] += 1
        return values

    def _matters(self, path: str) -> bool:
        fields = self.options.fields
        return fields is None or any(path == name or path.startswith(f"{name}.") for name in fields)

    def _as_text(self, leaf: Any) -> str:
        if isinstance(leaf, str):
            return json.dumps(normalized(leaf, self.options.ignore))
        is_whole = isinstance(leaf, float) and leaf.is_integer()
        return json.dumps(int(leaf) if is_whole else leaf)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for item in value:
            yield from _leaves(item, path)
    else:
        yield path, value


def _compared(predicted: _Values, expected: _Values) -> dict[str, _Counts]:
    """Return the counts of each path."""
    nothing: Counter[str] = Counter()
    pairs = {path: (predicted.get(path, nothing), expected.get(path, nothing)) for path in {**predicted, **expected}}
    return {path: _Counts((left & right).total(), left.total(), right.total()) for path, (left, right) in pairs.items()}


def _total(counts: Iterable[_Counts]) -> _Counts:
    listed = list(counts)
    return _Counts(
        sum(one.common for one in listed), sum(one.predicted for one in listed), sum(one.expected for one in listed)
    )


def _field_scores(by_field: Mapping[str, _Counts]) -> dict[str, float]:
    """Return the F1 of the most frequent fields of the references, by names fit for metrics."""
    expected = sorted(
        (path for path, counts in by_field.items() if counts.expected),
        key=lambda path: (-by_field[path].expected, path),
    )
    named: dict[str, _Counts] = {}
    for path in expected[:MAX_FIELD_SCORES]:
        name = _UNSAFE_CHARACTER.sub("_", path) or "value"
        named[name] = _total((named.get(name, _Counts()), by_field[path]))
    return {name: counts.f1 for name, counts in sorted(named.items())}
