"""The base classes of all schemas, and the schemas that every route shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict


def whole_number(value: object) -> object:
    """Return a float without a fraction as an int, and any other value unchanged.

    JSON has only one kind of number.
    """
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


WholeNumber = Annotated[int, BeforeValidator(whole_number)]


class ResponseModel(BaseModel):
    """The base class of what the server sends: it has exactly the declared fields."""

    model_config = ConfigDict(extra="forbid")


class RequestModel(BaseModel):
    """The base class of what a client sends.

    An unknown field is an error, and no value is converted to another type.
    """

    model_config = ConfigDict(extra="forbid", strict=True)


class ErrorDetail(ResponseModel):
    """Why a request failed."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(ResponseModel):
    """The body of every response that is not a success."""

    error: ErrorDetail


class Health(ResponseModel):
    """The server is up."""

    status: Literal["ok"] = "ok"
