"""Texts that must be JSON, as JSON metrics read them."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import Field

from backends.metrics.built_in import MetricOptions

_FENCE = re.compile(r"\A```[\w-]*\s*\n(.*?)\n?```\Z", re.DOTALL)


class JsonOptions(MetricOptions):
    """Options of each metric that parses predictions."""

    code_fence: Annotated[
        bool, Field(description="Accept a Markdown code fence (three backticks) around the whole text.")
    ] = False


class NotJsonError(ValueError):
    """A text is not JSON."""


def parsed(text: str, options: JsonOptions) -> Any:
    """Return the JSON value of a whole text.

    Raises NotJsonError, also for `NaN` and `Infinity`, which Python accepts and RFC 8259 does not,
    and for a value that is nested too deep to read.
    """
    if options.code_fence and (fenced := _FENCE.match(text.strip())):
        text = fenced.group(1)
    try:
        return json.loads(text, parse_constant=_refuse, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise NotJsonError(str(error)) from None


def _refuse(constant: str) -> Any:
    raise NotJsonError(f"{constant} is not JSON")


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:  # Python reads no integer of more than 4,300 digits
        return float(digits)
