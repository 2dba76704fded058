"""From the hyperparameters of a request to the backend's, and back to the job object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.contract import Capabilities, Scalar
from backends.hyperparameter_checks import check_hyperparameters
from sweeps.server.errors import ApiError, failure_text
from sweeps.server.records import Job

AUTO = "auto"
PROTOCOL_NAMES = ("n_epochs", "batch_size", "learning_rate_multiplier")
"""The hyperparameters of the protocol.

The server also accepts those that only the backend declares.
"""

_BASE_MODEL = "base_model"
"""A hyperparameter that clients must not set. They choose a model by its name, never by a path."""


def requested_values(
    method: Mapping[str, Any] | None, deprecated: Mapping[str, Any] | None, capabilities: Capabilities
) -> dict[str, Scalar]:
    """Return the values in a request, without those that are "auto".

    `method` and `deprecated` are the request's `method` and `hyperparameters`. Raises ApiError
    (400) for a method other than supervised fine-tuning, for values in both places, and for values
    that the backend does not accept.
    """
    place, given = "hyperparameters", dict(deprecated or {})
    if method is not None:
        if method["type"] != "supervised":
            message = f"The method {method['type']!r} is not supported by this server; use supervised."
            raise ApiError(400, message, code="unsupported_method", param="method.type")
        supervised = (method.get("supervised") or {}).get("hyperparameters") or {}
        if deprecated and supervised:
            message = "Give `hyperparameters` or `method.supervised.hyperparameters`, not both."
            raise ApiError(400, message, param="hyperparameters")
        if supervised:
            place, given = "method.supervised.hyperparameters", dict(supervised)
    values = {name: value for name, value in given.items() if value != AUTO and value is not None}
    if _BASE_MODEL in values:
        message = f"Unknown hyperparameter: {_BASE_MODEL}. Choose the model by the parameter `model`."
        raise ApiError(400, message, code="unknown_parameter", param=f"{place}.{_BASE_MODEL}")
    for name in given:
        if capabilities.hyperparameter(name) is None and name not in PROTOCOL_NAMES:
            accepted = {hyperparameter.name for hyperparameter in capabilities.hyperparameters} - {_BASE_MODEL}
            message = f"Unknown hyperparameter: {name[:64]}. This server accepts {', '.join(sorted(accepted))}."
            raise ApiError(400, message, code="unknown_parameter", param=f"{place}.{name[:64]}")
    for name, value in values.items():
        declared = capabilities.hyperparameter(name)
        if declared is not None and declared.kind == "int" and isinstance(value, float) and value.is_integer():
            values[name] = int(value)  # JSON has only one kind of number
    for failure in check_hyperparameters(values, capabilities):
        name = failure.message.split()[0].rstrip(":")  # every such message begins with the name
        raise ApiError(400, failure_text(failure), code="invalid_hyperparameter", param=f"{place}.{name}")
    return values


def shown_values(job: Job, capabilities: Capabilities) -> dict[str, Any]:
    """Return a job's hyperparameters as the job object shows them.

    Once the run has started they are the values that it uses, otherwise the given values, the
    defaults, or "auto".
    """
    names = dict.fromkeys([*PROTOCOL_NAMES, *job.hyperparameters])
    values: dict[str, Any] = {}
    for name in names:
        declared = capabilities.hyperparameter(name)
        default = declared.default if declared is not None and not job.resolved else None
        value = job.resolved.get(name, job.hyperparameters.get(name, default))
        values[name] = AUTO if value is None and not job.resolved else value
    return values
