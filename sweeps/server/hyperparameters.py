"""What a client asks for -> hyperparameters of the backend, and back into the job object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.contract import Capabilities, Scalar
from backends.hyperparameter_checks import check_hyperparameters
from sweeps.server.errors import ApiError, failure_text
from sweeps.server.records import Job

AUTO = "auto"
STANDARD = ("n_epochs", "batch_size", "learning_rate_multiplier")
"""What the protocol itself knows; everything else is handed to the backend under its own name."""

_CHOSEN_BY_MODEL = "base_model"
"""A client names a model by `model`, never by a path of this machine."""


def requested(
    method: Mapping[str, Any] | None, deprecated: Mapping[str, Any] | None, capabilities: Capabilities
) -> dict[str, Scalar]:
    """Return the values that were given, "auto" left out.

    Raises ApiError (400) for another method than supervised fine-tuning, for both ways at once, and for what the
    backend does not accept.
    """
    place, given = "hyperparameters", dict(deprecated or {})
    if method is not None:
        if method["type"] != "supervised":
            message = f"The method {method['type']!r} is not supported by this server; use supervised."
            raise ApiError(400, message, code="unsupported_method", param="method.type")
        inner = (method.get("supervised") or {}).get("hyperparameters") or {}
        if deprecated and inner:
            message = "Give `hyperparameters` or `method.supervised.hyperparameters`, not both."
            raise ApiError(400, message, param="hyperparameters")
        if inner:
            place, given = "method.supervised.hyperparameters", dict(inner)
    values = {name: value for name, value in given.items() if value != AUTO and value is not None}
    if _CHOSEN_BY_MODEL in values:
        message = f"Unknown hyperparameter: {_CHOSEN_BY_MODEL}. The parameter `model` names the model."
        raise ApiError(400, message, code="unknown_parameter", param=f"{place}.{_CHOSEN_BY_MODEL}")
    for name in given:
        if capabilities.hyperparameter(name) is None and name not in STANDARD:
            known = ", ".join(sorted(e.name for e in capabilities.hyperparameters if e.name != _CHOSEN_BY_MODEL))
            message = f"Unknown hyperparameter: {name[:64]}. Known are: {known}."
            raise ApiError(400, message, code="unknown_parameter", param=f"{place}.{name[:64]}")
    for name, value in values.items():
        declared = capabilities.hyperparameter(name)
        if declared is not None and declared.kind == "int" and isinstance(value, float) and value.is_integer():
            values[name] = int(value)  # JSON knows one kind of number
    for failure in check_hyperparameters(values, capabilities):
        name = failure.message.split(":")[0].split(" ")[0]
        raise ApiError(400, failure_text(failure), code="invalid_hyperparameter", param=f"{place}.{name}")
    return values


def shown(job: Job, capabilities: Capabilities) -> dict[str, Any]:
    """Return a job's hyperparameters: resolved as soon as the run has started, defaults or "auto" before."""
    names = dict.fromkeys([*STANDARD, *job.hyperparameters])
    values: dict[str, Any] = {}
    for name in names:
        declared = capabilities.hyperparameter(name)
        default = declared.default if declared is not None and not job.resolved else None
        found = job.resolved.get(name, job.hyperparameters.get(name, default))
        values[name] = found if found is not None else (None if job.resolved else AUTO)
    return values
