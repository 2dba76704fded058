"""What a person writes about the champion: the `champion:` part of the YAML."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")


class ChampionSpec(BaseModel):
    """The winner is registered and challenges the champion of a registered model (default: the sweep's name).

    `max_latency_ms`: the median time of one answer, measured. `max_cost_usd`: what its training cost. `min_recall`: the
    share of each class's test examples that it must get right. Whoever breaks one of these is never promoted.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="the name of the registered model")
    max_latency_ms: float | None = Field(None, gt=0, allow_inf_nan=False)
    max_cost_usd: float | None = Field(None, ge=0, allow_inf_nan=False)
    min_recall: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)

    @field_validator("model")
    @classmethod
    def _is_name(cls, name: str | None) -> str | None:
        if name is not None and not _NAME.match(name):
            raise ValueError("a registered model is named by letters, digits, `.`, `_` and `-`, up to 100")
        return name
