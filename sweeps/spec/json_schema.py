"""The JSON Schema (draft 2020-12) of the sweep file, for editors. `sweep schema` prints it.

It is made from the pydantic models of the sections and of the built-in backends' options. Where
pydantic knows less than the loader does (the forms of `space:`, the options per backend type, rules
across sections), this module adds the rule. The schema accepts every file that the loader accepts,
except numbers and truth values in quotes, which the loader converts. The loader finds more
mistakes: those that need the backend, the data, or a comparison of two values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from backends import registry
from backends.contract import Backend, Capabilities
from sweeps.spec.objective import SPEND_METRICS
from sweeps.spec.space_schema import Schema, space_definitions
from sweeps.spec.sweep_file import SweepFile

DIALECT = "https://json-schema.org/draft/2020-12/schema"

FILE_NAME = "sweep.schema.json"
"""The name of the schema beside a sweep file, where `sweep init` writes it."""

_TITLE = "finesweep sweep file"

_BUILT_IN_PACKAGE = "backends."


def is_schema_of_a_version(text: str) -> bool:
    """Return whether a text is the schema of some version of this software."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("title") == _TITLE


def schema_text() -> str:
    """Return the schema as the text of a JSON file."""
    return json.dumps(sweep_file_schema(), indent=2, ensure_ascii=False) + "\n"


def sweep_file_schema() -> Schema:
    """Return the schema. It depends only on this version of the package, not on installed plugins.

    Built-in backends have their options checked; a backend of another type may have any options.
    Imports no library that trains, runs or tracks.
    """
    backend_classes = _built_in_backends()
    models: list[type[BaseModel]] = [SweepFile, *(backend.options_model for backend in backend_classes.values())]
    references, combined = models_json_schema(
        [(model, "validation") for model in models], schema_generator=_UntitledSchema
    )
    definitions: dict[str, Schema] = _without_titles(combined["$defs"])
    for name, backend_class in backend_classes.items():
        options = definitions[_definition_name(references[(backend_class.options_model, "validation")])]
        options["properties"] = {"type": {"const": name}, **options["properties"]}
        options["required"] = ["type", *options.get("required", [])]
    option_references = {
        name: references[(backend_class.options_model, "validation")] for name, backend_class in backend_classes.items()
    }
    definitions["BackendSpec"] = _backend_definition(definitions["BackendSpec"], option_references)
    definitions.update(space_definitions(_hyperparameters(backend_classes)))
    root = definitions.pop(_definition_name(references[(SweepFile, "validation")]))
    root["properties"]["space"] = {"$ref": "#/$defs/Space"}
    return {
        "$schema": DIALECT,
        "title": _TITLE,
        **root,
        "allOf": [_data_rule(backend_classes), *_rules_across_sections()],
        "$defs": dict(sorted(definitions.items())),
    }


class _UntitledSchema(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes from field names; they repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _without_titles(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_titles(item) for key, item in value.items() if key != "title" or not isinstance(item, str)
        }
    return [_without_titles(item) for item in value] if isinstance(value, list) else value


def _definition_name(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).removeprefix("#/$defs/")


def _built_in_backends() -> dict[str, type[Backend]]:
    """Return the backends that this package brings, by their name in the file."""
    return {
        registration.name: registry.load(registration.name)
        for registration in registry.registrations()
        if registration.target.startswith(_BUILT_IN_PACKAGE)
    }


def _backend_definition(written: Schema, option_references: Mapping[str, Schema]) -> Schema:
    """Let `type` decide which options apply."""
    backend_type = written["properties"]["type"]
    return {
        **written,
        "properties": {
            "type": {
                "description": backend_type["description"],
                "anyOf": [{"enum": list(option_references)}, {"type": "string"}],
            }
        },
        "allOf": [
            {"if": {"required": ["type"], "properties": {"type": {"const": name}}}, "then": reference}
            for name, reference in option_references.items()
        ],
    }


def _hyperparameters(backend_classes: Mapping[str, type[Backend]]) -> dict[str, str]:
    """Return the hyperparameters of built-in backends with default options, and descriptions."""
    described: dict[str, str] = {}
    for name in sorted(backend_classes, reverse=True):
        capabilities = _capabilities(backend_classes[name])
        for hyperparameter in () if capabilities is None else capabilities.hyperparameters:
            described.setdefault(hyperparameter.name, hyperparameter.description)
    return dict(sorted(described.items()))


def _capabilities(backend_class: type[Backend]) -> Capabilities | None:
    """Return the capabilities under default options; None if it requires more than a model."""
    try:
        options = backend_class.options_model.model_validate({"model": "any"} if _requires_model(backend_class) else {})
    except ValidationError:
        return None
    return backend_class.describe(options)


def _data_rule(backend_classes: Mapping[str, type[Backend]]) -> Schema:
    capabilities = {name: _capabilities(backend_class) for name, backend_class in backend_classes.items()}
    needing = [name for name, known in capabilities.items() if known is None or known.own_data is None]
    return {
        "$comment": "Only a backend that brings its own data and declares its own space needs neither.",
        "if": {"properties": {"backend": {"required": ["type"], "properties": {"type": {"enum": needing}}}}},
        "then": {"required": ["data", "space"]},
    }


def _requires_model(backend_class: type[Backend]) -> bool:
    field = backend_class.options_model.model_fields.get("model")
    return field is not None and field.is_required()


def _rules_across_sections() -> list[Schema]:
    no_early_stopping = {
        "anyOf": [
            {"const": "none"},
            {"type": "object", "properties": {"type": {"const": "none"}}, "required": ["type"]},
        ]
    }
    measured: Schema = {
        "properties": {
            "maximize": {"not": {"enum": list(SPEND_METRICS)}},
            "minimize": {"not": {"enum": list(SPEND_METRICS)}},
        }
    }
    return [
        {
            "$comment": "Several objectives: no early stopping, and no sampler for one objective only.",
            "if": {"required": ["objective"], "properties": {"objective": {"type": "array", "minItems": 2}}},
            "then": {
                "required": ["search"],
                "properties": {
                    "search": {
                        "required": ["scheduler"],
                        "properties": {"scheduler": no_early_stopping, "sampler": {"not": {"enum": ["gp", "cmaes"]}}},
                    }
                },
            },
        },
        {
            "$comment": "The first objective ranks the trials, so it is a measured metric.",
            "properties": {
                "objective": {"if": {"type": "array"}, "then": {"prefixItems": [measured]}, "else": measured}
            },
        },
        {
            "$comment": "A grid is fixed, so steering cannot move its ranges.",
            "if": {
                "required": ["search"],
                "properties": {"search": {"required": ["sampler"], "properties": {"sampler": {"const": "grid"}}}},
            },
            "then": {"properties": {"steering": {"not": {"const": "act"}}}},
        },
    ]
