"""The options of the hosted backend: the keys of the YAML's `backend:` mapping.

No option holds a secret; an option only names the environment variable that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from backends.contract import Scalar
from backends.hosted import profile
from backends.hosted.profile import Profile
from backends.local_paths import MayBePath


class AzureDeployment(BaseModel):
    """Where and how to deploy a fine-tuned model at Azure, in the terms of its control plane.

    The SKU name of a developer deployment follows Azure's documents; nobody verified it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    subscription: str
    resource_group: str
    account: str
    sku: str = Field(default="DeveloperTier", description="DeveloperTier has no hourly fee and ends after a day")
    capacity: int = Field(
        default=100, ge=1, description="thousands of tokens per minute; 1 is about one request per minute"
    )
    control_plane: str = "https://management.azure.com"
    api_version: str = "2024-10-01"
    timeout_s: float = Field(default=1800.0, gt=0)


class HostedOptions(BaseModel):
    """Options of the hosted backend.

    Unknown keys are errors. The host's profile fills in the rest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    host: str = Field(default="openai", description="a profile: openai, azure, azure-legacy, nebius, local, compatible")
    model: str = Field(description="the base model to fine-tune, by the host's name for it")
    base_url: str | None = Field(default=None, description="the address of the API, if the host has no fixed one")
    api_version: str | None = Field(default=None, description="Azure's api-version, for host azure-legacy")
    api_key: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="the NAME of the environment variable that holds the key; NAME_FILE may name a file instead",
    )
    organization: str | None = None
    project: str | None = None
    format: Literal["auto", "chat", "completion"] = Field(
        default="auto", description="auto: completion for the host's completion models, chat for all others"
    )
    system_message: str | None = Field(
        default=None, description="the system message of every chat example that is made from a prompt"
    )
    extra_body: Mapping[str, Scalar] = Field(default_factory=dict, description="additional job fields for this host")
    price_per_million_tokens: float | None = Field(
        default=None, ge=0, description="in USD", json_schema_extra={"price": True}
    )
    tokenizer: Annotated[str | None, MayBePath()] = Field(
        default=None, description="path of a tokenizer.json that counts tokens as the host does"
    )
    max_concurrent: int | None = Field(default=None, ge=1)
    jobs_per_day: int | None = Field(default=None, ge=1, description="maximum number of jobs created in 24 hours")
    poll_s: float | None = Field(default=None, ge=0)
    stop: Literal["cancel", "pause"] | None = None
    stall_s: float | None = Field(default=None, gt=0, description="a job without any progress for this long is lost")
    create_grace_s: float | None = Field(
        default=None,
        ge=0,
        description="how long to look for a job before creating it again, if the outcome of a creation is unknown",
    )
    patience_s: float = Field(
        default=3600.0, ge=0, description="how long a host may be unreachable before a trial without a job fails"
    )
    requests_per_minute: float | None = Field(default=None, gt=0, description="limit for prediction requests")
    ask_labels: bool = Field(
        default=True,
        description="if the host does not score labels, query each trained model with the validation set, which costs "
        "tokens at the host's price of inference; it is queried for task metrics (`evaluation.metrics`) in any case",
    )
    epoch_ladder: bool = Field(
        default=False, description="on or off: reuse the earlier epochs of a job as results of runs with fewer epochs"
    )
    deployment: AzureDeployment | None = None

    @field_validator("host")
    @classmethod
    def _known_host(cls, value: str) -> str:
        profile.load(value)
        return value

    @field_validator("base_url")
    @classmethod
    def _address_without_secret(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ValueError("the address must begin with http:// or https://")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "remove user, password and query from the address: API keys come from environment variables"
            )
        return value

    @model_validator(mode="after")
    def _has_address(self) -> Self:
        if not self.address:
            raise ValueError(f"host {self.host} needs a base_url")
        return self

    @property
    def profile(self) -> Profile:
        """The host's profile."""
        return profile.load(self.host)

    @property
    def address(self) -> str:
        """The address of the API."""
        return self.base_url or self.profile.base_url or ""

    @property
    def account(self) -> str:
        """An identifier of the account, as far as it is known without the key."""
        return " ".join(filter(None, (self.address.rstrip("/"), self.organization, self.project)))

    @property
    def key_name(self) -> str:
        """The name of the environment variable that holds the API key."""
        return self.api_key or self.profile.api_key

    def is_chat(self, base_model: str) -> bool:
        """Return whether a base model trains on messages."""
        return self.format == "chat" if self.format != "auto" else not self.profile.is_completion_model(base_model)

    def usd_per_million_tokens(self, base_model: str) -> float | None:
        """Return the price of training, or None where neither options nor profile have one."""
        if self.price_per_million_tokens is not None:
            return self.price_per_million_tokens
        price = self.profile.price(base_model)
        return None if price is None else price.usd_per_million_tokens
