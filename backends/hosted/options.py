"""What the YAML's `backend:` mapping may say for a hosted backend. No secret is among it: only where to find one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from backends.contract import Scalar
from backends.hosted import profile
from backends.hosted.profile import Profile


class AzureDeployment(BaseModel):
    """Where fine-tuned models are deployed so that they answer: the control plane's names, and what a deployment is.

    The sku's name for a deployment of the developer type is as the documents spell it; it was not verified.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    subscription: str
    resource_group: str
    account: str
    sku: str = Field(default="DeveloperTier", description="DeveloperTier has no hourly fee and ends after a day")
    capacity: int = Field(
        default=100, ge=1, description="thousands of tokens a minute; 1 is about one request a minute"
    )
    control_plane: str = "https://management.azure.com"
    api_version: str = "2024-10-01"
    timeout_s: float = Field(default=1800.0, gt=0)


class HostedOptions(BaseModel):
    """Options of the hosted backend; unknown keys are errors. The host's profile says what is not given here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="openai", description="a profile: openai, azure, azure-legacy, nebius, local, compatible")
    model: str = Field(description="the base model to fine-tune, as the host names it")
    base_url: str | None = Field(default=None, description="the address of the API, where the host has no fixed one")
    api_version: str | None = Field(default=None, description="Azure's api-version, for host azure-legacy")
    api_key: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="the NAME of the environment variable that holds the key; NAME_FILE may name a file instead",
    )
    organization: str | None = None
    project: str | None = None
    format: Literal["auto", "chat", "completion"] = Field(
        default="auto", description="auto: completion for the host's completion models, else chat"
    )
    system_message: str | None = Field(default=None, description="put before each chat example made of a prompt")
    extra_body: Mapping[str, Scalar] = Field(default_factory=dict, description="more fields of a job, for this host")
    price_per_million_tokens: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="in USD", json_schema_extra={"price": True}
    )
    tokenizer: str | None = Field(default=None, description="path of a tokenizer.json that counts as the host does")
    max_concurrent: int | None = Field(default=None, ge=1)
    jobs_per_day: int | None = Field(default=None, ge=1, description="no more creations than that within 24 hours")
    poll_s: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    stop: Literal["cancel", "pause"] | None = None
    stall_s: float | None = Field(default=None, gt=0, description="a job without a sign of life for so long is lost")
    create_grace_s: float | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="see `Jobs.create_grace_s` of the host's profile"
    )
    patience_s: float = Field(default=3600.0, ge=0, description="how long a host may be out of reach before a job")
    requests_per_minute: float | None = Field(default=None, gt=0, description="of predictions")
    ask_labels: bool = Field(
        default=True, description="ask each trained model the validation set, where the host does not score labels"
    )
    epoch_ladder: bool = Field(
        default=False, description="on or off: the earlier epochs of a job serve as results of runs with fewer epochs"
    )
    deployment: AzureDeployment | None = None

    @field_validator("host")
    @classmethod
    def _known_host(cls, value: str) -> str:
        profile.load(value)
        return value

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ValueError("an address begins with http:// or https://")
        if parts.username or parts.password or parts.query:
            raise ValueError("no user, password or query belongs into the address: keys come from the environment")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.address:
            raise ValueError(f"host {self.host} needs a base_url")
        return self

    @property
    def profile(self) -> Profile:
        """The host's profile."""
        return profile.load(self.host)

    @property
    def address(self) -> str:
        """The API's address."""
        return self.base_url or self.profile.base_url or ""

    @property
    def account(self) -> str:
        """What files and jobs belong to, as far as it can be said without the key."""
        return " ".join(filter(None, (self.address.rstrip("/"), self.organization, self.project)))

    @property
    def key_name(self) -> str:
        """The name under which the API key is asked for."""
        return self.api_key or self.profile.api_key

    def is_chat(self, base_model: str) -> bool:
        """Return whether a base model is trained on messages."""
        return self.format == "chat" if self.format != "auto" else not self.profile.takes_text(base_model)

    def usd_per_million_tokens(self, base_model: str) -> float | None:
        """Return what a million training tokens cost, or None where nobody said."""
        if self.price_per_million_tokens is not None:
            return self.price_per_million_tokens
        price = self.profile.price(base_model)
        return None if price is None else price.usd_per_million_tokens
