"""The metadata filter of the list of jobs: `metadata[key]=value`, or `metadata=null`."""

from __future__ import annotations

import re

from fastapi import Request

from sweeps.server.errors import ApiError
from sweeps.server.storage import Condition

METADATA_PARAMETER = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "required": False,
            "style": "deepObject",
            "explode": True,
            "description": "metadata[k]=v: only jobs with this pair; the literal metadata=null: only jobs without any",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
        }
    ]
}
"""The filter in the OpenAPI description."""

MAX_CONDITIONS = 16
"""As many as a job can have metadata. The database would refuse some thousand."""

_METADATA_OF_JOB = "SELECT 1 FROM job_metadata WHERE job_id = jobs.id"
_PAIR = re.compile(r"metadata\[(.+)\]")


def metadata_conditions(request: Request) -> list[Condition]:
    """Return the conditions that the query of a request puts on jobs.

    Raises ApiError (400) for another form, and for more than `MAX_CONDITIONS`.
    """
    conditions: list[Condition] = []
    for name, value in request.query_params.multi_items():
        if name == "metadata" and value == "null":
            conditions.append(Condition(f"NOT EXISTS ({_METADATA_OF_JOB})"))
        elif match := _PAIR.fullmatch(name):
            condition = f"EXISTS ({_METADATA_OF_JOB} AND name = ? AND value = ?)"
            conditions.append(Condition(condition, (match[1], value)))
        elif name.startswith("metadata"):
            message = "Filter by metadata[key]=value, or by the literal metadata=null."
            raise ApiError(400, message, param="metadata")
    if len(conditions) > MAX_CONDITIONS:
        raise ApiError(400, f"At most {MAX_CONDITIONS} conditions on metadata are possible.", param="metadata")
    return conditions
