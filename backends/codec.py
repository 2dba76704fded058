"""The one typed JSON codec for values that cross a process boundary or outlive their process.

`to_json` and `from_json` work for frozen dataclasses, pydantic models, and unions and containers of
them. A field that a stored value lacks takes its default, and an unknown field is ignored, so that
a record from an earlier version still loads. A field with a pydantic alias is written and read
under the alias.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import SchemaSerializer

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")


def to_json(value: object, declared_type: Any = None) -> Any:
    """Return `value` as plain JSON values: dicts, lists, strings, numbers, booleans and None.

    Pass `declared_type` only if `type(value)` does not say everything, as for a list of
    dataclasses. Non-finite floats stay floats: write and read them with the defaults of `json`.
    """
    type_: Any = type(value) if declared_type is None else declared_type
    return _serializer(type_).to_python(value, mode="json", by_alias=True)


def from_json(declared_type: TypeForm[T], value: Any) -> T:
    """Rebuild a value of `declared_type`, which may be a union, from the result of `to_json`.

    Raises pydantic.ValidationError, a ValueError, for a value that does not fit the type.
    """
    type_: Any = declared_type
    result: T = _adapter(type_).validate_python(value)
    return result


@cache
def _adapter(declared_type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(declared_type)


@cache
def _serializer(declared_type: Any) -> SchemaSerializer:
    # The adapter's own serializer turns a non-finite float inside an `Any` field into null.
    return SchemaSerializer(_adapter(declared_type).core_schema, {"ser_json_inf_nan": "constants"})
