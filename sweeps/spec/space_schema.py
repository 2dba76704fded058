"""JSON Schema of the `space:` section: every way to write a hyperparameter.

The parser in `search_spaces` decides what is valid; pydantic sees only a mapping. These schemas
repeat the parser's rules as far as JSON Schema can express them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces import library

Schema = dict[str, Any]

LARGEST_NUMBER = 2**53
"""The largest number that `search_spaces` reads; larger whole numbers are not exact as floats."""

_SHARE = r"(0*100\.?0*|0*[0-9]{1,2}(\.[0-9]*)?|\.[0-9]+)\s*%"
_ANY_PERCENTAGE = r"^\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*%\s*$"
_NUMBER_TEXT = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"

_DEFINITIONS: Mapping[str, Schema] = {
    "Value": {
        "description": "One value; a percentage is a share of the training set.",
        "anyOf": [
            {"type": "boolean"},
            {"type": "number"},
            {"type": "string", "not": {"pattern": _ANY_PERCENTAGE}},
            {"type": "string", "pattern": rf"^\s*{_SHARE}\s*$"},
        ],
    },
    "Values": {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": {"$ref": "#/$defs/Value", "not": {"const": "recommended"}},
    },
    "RangeEnd": {
        "description": "A number, or a percentage: a share of the training set.",
        "anyOf": [
            {"type": "number", "minimum": -LARGEST_NUMBER, "maximum": LARGEST_NUMBER},
            {"type": "string", "pattern": rf"^\s*({_NUMBER_TEXT}|{_SHARE})\s*$"},
        ],
    },
    "Condition": {
        "description": "Use this hyperparameter only if each named one has this value, or one of these values.",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {
            "anyOf": [
                {"type": ["boolean", "number", "string"]},
                {"type": "array", "minItems": 1, "items": {"type": ["boolean", "number", "string"]}},
            ]
        },
    },
    "Optional": {
        "description": "true: leave the hyperparameter out, with a note, if the backend does not have it.",
        "type": "boolean",
    },
}


def _mapping(required: list[str], **properties: Schema) -> Schema:
    shared = {"when": {"$ref": "#/$defs/Condition"}, "optional": {"$ref": "#/$defs/Optional"}}
    return {
        "type": "object",
        "required": required,
        "properties": {**properties, **shared},
        "additionalProperties": False,
    }


_RANGE: Schema = {
    **_mapping(
        ["low", "high"],
        low={"$ref": "#/$defs/RangeEnd"},
        high={"$ref": "#/$defs/RangeEnd"},
        log={"type": "boolean", "description": "true: search on a logarithmic scale."},
        step={
            "description": "Search only low, low + step, low + 2 step and so on.",
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": rf"^\s*{_NUMBER_TEXT}\s*$"},
            ],
        },
    ),
    "description": "A range, both ends included.",
    "if": {"properties": {"log": {"const": True}}, "required": ["log"]},
    "then": {
        "properties": {"step": False, "low": {"anyOf": [{"type": "string"}, {"exclusiveMinimum": 0}]}},
    },
}

_PARAMETER: Schema = {
    "anyOf": [
        {"const": "recommended", "description": "The recommended range; `sweep spaces --scope SCOPE` lists them."},
        {"$ref": "#/$defs/Value"},
        {"$ref": "#/$defs/Values", "description": "A choice between these values."},
        _RANGE,
        {**_mapping(["choices"], choices={"$ref": "#/$defs/Values"}), "description": "A choice between these values."},
        {**_mapping(["value"], value={"$ref": "#/$defs/Value"}), "description": "One value."},
        {**_mapping(["recommended"], recommended={"const": True}), "description": "The recommended range."},
    ]
}


def space_definitions(hyperparameters: Mapping[str, str]) -> dict[str, Schema]:
    """Return the definitions of the `space:` section, which `#/$defs/Space` combines.

    `hyperparameters` maps known names to descriptions, for editors. Other names stay valid: what a
    backend accepts depends on its options and its model.
    """
    space: Schema = {
        "description": "The hyperparameters to try.",
        "type": "object",
        "properties": {
            "use": {
                "enum": list(library.names()),
                "description": "Begin with this named space; `sweep spaces` lists them. Other keys replace or add "
                "hyperparameters, and null removes one.",
            },
            **{name: {"description": description} for name, description in hyperparameters.items()},
        },
        "if": {"required": ["use"]},
        "then": {
            "properties": {"use": True},
            "additionalProperties": {"anyOf": [{"$ref": "#/$defs/Parameter"}, {"type": "null"}]},
        },
        "else": {"additionalProperties": {"$ref": "#/$defs/Parameter"}},
    }
    return {**_DEFINITIONS, "Parameter": _PARAMETER, "Space": space}
