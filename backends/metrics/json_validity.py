"""Metrics of predictions that must be JSON: it parses, and it fits a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, model_validator

from backends.metrics.built_in import BuiltInMetric, MeanMetric, mean
from backends.metrics.contract import Answers, Scores
from backends.metrics.failures import user_error
from backends.metrics.json_texts import JsonOptions, NotJsonError, parsed


class JsonValid(MeanMetric[JsonOptions]):
    """The share of predictions that are JSON as a whole (RFC 8259), whatever the reference is."""

    options_model = JsonOptions

    def value(self, prediction: str, reference: str) -> float:
        """Return 1 if the prediction is JSON."""
        try:
            parsed(prediction, self.options)
        except NotJsonError:
            return 0.0
        return 1.0


class JsonSchemaOptions(JsonOptions):
    """Options of `json_schema`: one of `file`, `definition` and `column`."""

    short_form: ClassVar[str | None] = "file"

    file: Annotated[str | None, Field(description="A JSON file with the schema.")] = None
    definition: Annotated[dict[str, Any] | None, Field(description="The schema itself.")] = None
    column: Annotated[
        str | None, Field(description="A column with the schema of each example, as an object or as JSON text.")
    ] = None

    @model_validator(mode="after")
    def _names_one_schema(self) -> JsonSchemaOptions:
        if sum(source is not None for source in (self.file, self.definition, self.column)) != 1:
            raise ValueError("give one of `file`, `definition` and `column`")
        return self


class JsonSchema(BuiltInMetric[JsonSchemaOptions]):
    """The share of predictions that are JSON and fit the schema, whatever the reference is.

    jsonschema validates, by the draft that `$schema` names, else by the newest (2020-12). `format`
    is an annotation, as the standard says. A `$ref` into the network is an error and is not
    followed. The further number `valid_json` is the share of predictions that are JSON.
    """

    options_model = JsonSchemaOptions
    libraries: ClassVar = {"jsonschema": "pip install jsonschema"}

    @classmethod
    def prepare(cls, options: BaseModel, folder: Path) -> BaseModel:
        """Read the file into the options. Raises BackendError (user) if it holds no schema."""
        assert isinstance(options, JsonSchemaOptions)
        if options.file is None:
            return options
        path = folder / Path(options.file).expanduser()
        try:
            definition = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise user_error(f"the schema {path} cannot be read: {error}", "Name a JSON file.") from error
        if not isinstance(definition, dict):
            raise user_error(f"{path} holds no JSON object", "A schema is a JSON object.")
        return JsonSchemaOptions(definition=definition, code_fence=options.code_fence)

    def problems(self, answers: Answers) -> Sequence[str]:
        """Report what is not a schema, or examples without one."""
        if self.options.column is None:
            try:
                self._validator(self.options.definition)
            except _SchemaError as error:
                return [str(error)]
            return ()
        found = []
        for number, row in enumerate(answers.rows, start=1):
            try:
                self._validator(self._schema_of(row))
            except _SchemaError as error:
                found.append(f"example {number}: {error}")
        return found

    def score(self, answers: Answers) -> Scores:
        """Score the answers. Raises BackendError (user) for a bad schema."""
        validators: dict[str, Any] = {}
        values, valid_json = [], []
        for number, (prediction, row) in enumerate(zip(answers.predictions, answers.rows, strict=True), start=1):
            try:
                schema = self._schema_of(row)
                key = json.dumps(schema, sort_keys=True)
                if key not in validators:
                    validators[key] = self._validator(schema)
                value = parsed(prediction, self.options)
                fits = _fits(validators[key], value)
            except NotJsonError:
                values.append(0.0)
                valid_json.append(0.0)
                continue
            except _SchemaError as error:
                raise user_error(f"example {number}: {error}", "Correct the schema.") from None
            values.append(float(fits))
            valid_json.append(1.0)
        return Scores(mean(values), tuple(values), {"valid_json": mean(valid_json)})

    def _schema_of(self, row: Mapping[str, Any]) -> Any:
        """Return the schema of an example. Raises _SchemaError."""
        if self.options.column is None:
            return self.options.definition
        schema = row.get(self.options.column)
        if schema is None:
            raise _SchemaError(f"it has no value in the column {self.options.column!r}")
        if isinstance(schema, str):
            try:
                schema = json.loads(schema)
            except ValueError as error:
                raise _SchemaError(f"the column {self.options.column!r} is not JSON: {error}") from None
        return schema

    @staticmethod
    def _validator(schema: Any) -> Any:
        """Return the validator of a schema. Raises _SchemaError."""
        import referencing
        from jsonschema import exceptions, validators

        try:
            validator_class = validators.validator_for(schema, default=validators.Draft202012Validator)
            validator_class.check_schema(schema)
        except exceptions.SchemaError as error:
            raise _SchemaError(f"the schema is not valid at {error.json_path}: {error.message}") from None
        except (TypeError, AttributeError):
            raise _SchemaError("the schema is not a JSON object") from None
        return validator_class(schema, registry=referencing.Registry())


class _SchemaError(Exception):
    """There is no usable schema."""


def _fits(validator: Any, value: Any) -> bool:
    """Return whether the value fits. Raises _SchemaError for a reference that leads nowhere."""
    from referencing.exceptions import Unresolvable

    try:
        return bool(validator.is_valid(value))
    except Unresolvable as error:
        raise _SchemaError(f"the schema refers to {error.ref!r}, which it does not contain") from None
    except RecursionError:
        return False
