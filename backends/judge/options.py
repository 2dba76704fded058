"""The options of the metric `judge`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from backends.contract import Scalar
from backends.hosted.options import HostedOptions
from backends.metrics.built_in import MetricOptions

ANY_HOST = "compatible"
"""The profile of a host that is given by its address alone."""

REFERENCE = "reference"
"""The value of `pairwise` for a comparison with the reference."""

DEFAULT_SCALE = (1, 5)


class JudgePrice(BaseModel):
    """What a judge costs, in USD per million tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    input: Annotated[float, Field(ge=0, description="USD per million tokens that the judge reads.")]
    output: Annotated[float, Field(ge=0, description="USD per million tokens that the judge writes.")]

    def usd(self, input_tokens: int, output_tokens: int) -> float:
        """Return the price of so many tokens."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


class HumanLabel(BaseModel):
    """A person's opinion of one answer: a line of the file `human`.

    `grade` is on the scale of the judge. For a pairwise judge, `preferred` says which of `answer`
    and `other` is better.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: str
    answer: str
    reference: str | None = None
    grade: int | None = None
    other: str | None = None
    preferred: Literal["answer", "other", "tie"] | None = None


class JudgeOptions(MetricOptions):
    """Options of `judge`. A worker needs no file of the user."""

    model_config = ConfigDict(allow_inf_nan=False)

    host: Annotated[
        str,
        Field(
            description="Where the judge answers: a profile of the hosted backend (openai, azure, local, ...), or the "
            "address of any API with the OpenAI protocol."
        ),
    ] = "openai"
    base_url: Annotated[str | None, Field(description="The address of the API, if the profile has none.")] = None
    api_version: Annotated[str | None, Field(description="Azure's api-version, for host azure-legacy.")] = None
    api_key: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
            description="The NAME of the environment variable with the key; NAME_FILE may name a file instead. "
            "Default: that of the profile; an address without `api_key` gets no key.",
        ),
    ] = None
    model: Annotated[str, Field(min_length=1, description="The model that judges, by the host's name for it.")]
    rubric: Annotated[
        str,
        Field(min_length=1, description="What makes an answer good, as text, or the path of a text file."),
    ]
    scale: Annotated[
        tuple[int, int] | None,
        Field(description="The lowest and the highest grade, whole numbers. Default: [1, 5]."),
    ] = None
    pairwise: Annotated[
        str | None,
        Field(
            min_length=1,
            description="Instead of grades: compare each answer with another text, in both orders. `reference`, or the "
            "column with the other text, such as answers of the base model.",
        ),
    ] = None
    show_reference: Annotated[
        bool, Field(description="Whether the judge sees the reference, as an example of a good answer.")
    ] = True
    human: Annotated[
        str | None,
        Field(
            description="A JSON-lines file with answers that a person graded: `prompt`, `answer` "
            "and `grade`, for a pairwise judge `other` and `preferred` (answer, other or tie). The metric then reports "
            "how well the judge agrees with the person (Cohen's kappa)."
        ),
    ] = None
    price_per_million_tokens: Annotated[
        JudgePrice | None,
        Field(
            description="What the judge costs, in USD: {input: ..., output: ...}.", json_schema_extra={"price": True}
        ),
    ] = None
    max_usd: Annotated[
        float | None, Field(gt=0, description="The most that one measurement may cost; it stops before it costs more.")
    ] = None
    max_tokens: Annotated[
        int, Field(ge=1, description="The longest reply of the judge; a model that thinks first needs more.")
    ] = 256
    token_limit_field: Annotated[
        Literal["max_tokens", "max_completion_tokens"] | None,
        Field(description="The request field for `max_tokens`. Default: that of the profile."),
    ] = None
    max_answer_characters: Annotated[
        int, Field(ge=100, description="The judge reads no more of an answer, and is told that the rest is missing.")
    ] = 8000
    extra_body: Annotated[
        Mapping[str, Scalar], Field(description="Further request fields for this host, e.g. {reasoning_effort: low}.")
    ] = {}
    concurrency: Annotated[int | None, Field(ge=1, description="Requests at once. Default: that of the profile.")] = (
        None
    )
    requests_per_minute: Annotated[
        float | None, Field(gt=0, description="The most requests in a minute, of each process that measures.")
    ] = None
    timeout_s: Annotated[float, Field(gt=0, description="How long to wait for one reply.")] = 60.0
    patience_s: Annotated[
        float, Field(ge=0, description="How long the judge may be unreachable before the measurement fails.")
    ] = 3600.0
    files_read: Annotated[
        bool, Field(description="Not for the sweep file: whether the contents of the files are in the options.")
    ] = False
    human_labels: Annotated[
        tuple[HumanLabel, ...], Field(description="Not for the sweep file: the lines of the file `human`.")
    ] = ()

    @field_validator("scale")
    @classmethod
    def _ascends(cls, scale: tuple[int, int] | None) -> tuple[int, int] | None:
        if scale is not None and scale[0] >= scale[1]:
            raise ValueError(f"the lowest grade {scale[0]} must be below the highest grade {scale[1]}")
        return scale

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.scale is not None and self.pairwise is not None:
            raise ValueError("give `scale` or `pairwise`, and not both")
        if self.max_usd is not None and self.price_per_million_tokens is None:
            raise ValueError("`max_usd` needs `price_per_million_tokens`")
        try:
            self.hosted_options()
        except ValidationError as error:
            first: Any = error.errors(include_url=False)[0]
            raise ValueError(str(first["msg"]).removeprefix("Value error, ")) from None
        return self

    @property
    def grades(self) -> tuple[int, int]:
        """The lowest and the highest grade."""
        return self.scale or DEFAULT_SCALE

    @property
    def is_address(self) -> bool:
        """Whether `host` is an address."""
        return "://" in self.host

    def hosted_options(self) -> HostedOptions:
        """Return the host in the terms of the hosted backend. Raises pydantic.ValidationError."""
        return HostedOptions(
            host=ANY_HOST if self.is_address else self.host,
            base_url=self.host if self.is_address else self.base_url,
            api_version=self.api_version,
            api_key=self.api_key,
            model=self.model,
            patience_s=self.patience_s,
            requests_per_minute=self.requests_per_minute,
        )

    def remedy(self, text: str) -> str:
        """Return a remedy of the hosted backend in the terms of these options."""
        return text.replace("`base_url`", "`host` of the judge") if self.is_address else text

    @property
    def key_name(self) -> str | None:
        """The name of the variable with the key; None if the host gets no key."""
        if self.is_address:
            return self.api_key
        hosted = self.hosted_options()
        return hosted.key_name if self.api_key or hosted.profile.needs_api_key else None
