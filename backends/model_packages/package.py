"""The package of a trained model, and the protocol of backends that can make one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from backends.contract import Dataset

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class ModelPackage:
    """A model that predicts by itself.

    `code` is a predictor module, as `backends.model_packages` describes it. `settings` are passed
    to its `load`; they are JSON-able and never hold a secret. `requirements` are the distributions
    that the module needs.
    """

    code: Path
    settings: Mapping[str, Any]
    requirements: tuple[str, ...]


@runtime_checkable
class SupportsPackaging(Protocol):
    """A backend that can package its models. The contract does not demand it."""

    def package(self, model: str, dataset: Dataset, folder: Path) -> ModelPackage:
        """Put all files that prediction needs into the existing `folder`.

        `dataset` is the model's training data.

        Raises BackendError if the model does not exist.
        """
        ...


def local_package(settings: Mapping[str, Any]) -> ModelPackage:
    """Return the package of a model in the transformers layout.

    `local_predictor` lists the settings.
    """
    peft = ("peft",) if settings["adapter"] else ()
    jinja2 = ("jinja2",) if settings["layout"] == "chat" else ()
    return ModelPackage(_HERE / "local_predictor.py", settings, ("torch", "transformers", *peft, *jinja2))


@dataclass(frozen=True)
class HostedPredictorSettings:
    """How a predictor reaches and asks one model at a host that speaks the OpenAI protocol.

    `key_name` names the environment variable with the API key, which the predictor reads at every
    call; the settings never hold the key. `alternatives` is the most log-probabilities that the
    host reports per token; 0 if it reports none. `hosted_predictor` describes the other settings.
    """

    base_url: str
    model: str
    key_name: str
    chat: bool = True
    needs_key: bool = True
    system_message: str | None = None
    alternatives: int = 20
    token_limit_field: str = "max_completion_tokens"
    generation: Mapping[str, Any] | None = None
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    extra_body: Mapping[str, Any] = field(default_factory=dict)


def hosted_package(settings: HostedPredictorSettings, dataset: Dataset) -> ModelPackage:
    """Return the package of a model at a host that was trained on this data set."""
    of_dataset = {"labels": list(dataset.labels), "stop": dataset.stop}
    return ModelPackage(_HERE / "hosted_predictor.py", {**asdict(settings), **of_dataset}, ("openai",))
