"""One typed codec for every value that crosses a process boundary or survives a restart.

`to_json` and `from_json` serve frozen dataclasses, pydantic models and unions of them. A field that a
stored value lacks takes its default, and an unknown field is ignored, so that records of an earlier
version still load.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


def to_json(value: object, declared_type: Any = None) -> Any:
    """Return `value` as plain JSON values: dicts, lists, strings, numbers, booleans and None.

    `declared_type` is needed only where `type(value)` does not say everything, as for a list of
    dataclasses. Non-finite floats stay floats: write and read them with the defaults of `json`.
    """
    return _adapter(declared_type or type(value)).dump_python(value, mode="json")


def from_json(declared_type: type[T], value: Any) -> T:
    """Rebuild a value of `declared_type`, which may be a union, from what `to_json` returned.

    Raises pydantic.ValidationError, a ValueError, for a value that does not fit the type.
    """
    result: T = _adapter(declared_type).validate_python(value)
    return result


@cache
def _adapter(declared_type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(declared_type)
