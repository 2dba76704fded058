"""The schemas of models."""

from __future__ import annotations

from typing import Literal

from sweeps.server.schemas.base import ResponseModel


class ModelObject(ResponseModel):
    """A model that answers prompts."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(ResponseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(ResponseModel):
    """The server has deleted a model."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool
