"""What a backend gives away so that a model of it answers without the backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from backends.contract import Dataset

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Package:
    """A model that answers by itself: `code` is a module as the package `backends.served` says, `facts` what it is
    told (JSON-able, never a secret), `requirements` the distributions that it needs."""

    code: Path
    facts: Mapping[str, Any]
    requirements: tuple[str, ...]


@runtime_checkable
class Packager(Protocol):
    """A backend whose models can be packaged. Not every backend can: the contract does not ask for it."""

    def package(self, model: str, dataset: Dataset, folder: Path) -> Package:
        """Put into `folder`, which exists, all files that answering takes. `dataset` is what the model was trained on.

        Raises BackendError where there is no such model.
        """
        ...


def local_package(facts: Mapping[str, Any]) -> Package:
    """Return the package of a model in the transformers layout; `local_predictor.load` says which facts it takes."""
    peft = ("peft",) if facts["adapter"] else ()
    return Package(_HERE / "local_predictor.py", facts, ("torch", "transformers", *peft))


def hosted_package(
    base_url: str,
    model: str,
    key_name: str,
    dataset: Dataset,
    *,
    chat: bool = True,
    needs_key: bool = True,
    system_message: str | None = None,
    alternatives: int = 20,
    token_limit_field: str = "max_completion_tokens",
    extra_headers: Mapping[str, str] | None = None,
    extra_body: Mapping[str, Any] | None = None,
) -> Package:
    """Return the package of a model at a host that speaks the OpenAI protocol: its name, address and form.

    `key_name` names the environment variable that the API key is read from whenever the model answers; the key itself
    is nowhere. `alternatives`: so many of the most probable tokens the host tells at most; 0 where it tells none.
    """
    facts = {
        "base_url": base_url,
        "model": model,
        "chat": chat,
        "key_name": key_name,
        "needs_key": needs_key,
        "labels": list(dataset.labels),
        "stop": dataset.stop,
        "system_message": system_message,
        "alternatives": alternatives,
        "token_limit_field": token_limit_field,
        "extra_headers": dict(extra_headers or {}),
        "extra_body": dict(extra_body or {}),
    }
    return Package(_HERE / "hosted_predictor.py", facts, ("openai",))
