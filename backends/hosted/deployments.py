"""Deploy fine-tuned models at hosts where a model answers only while it is deployed.

`NoDeployments` serves hosts where a model answers at once. `AzureDeployments` talks to Azure's
control plane, which has another address and another secret than the API.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import httpx2

from backends.contract import BackendError, Failure, FailureKind
from backends.hosted.failures import HostError, retry_after_s
from backends.hosted.journal import Journal
from backends.hosted.options import AzureDeployment
from backends.hosted.rate_limiter import RateLimiter

POLL_S = 10.0
TIMEOUT_S = 60.0
NAME_PREFIX = "sweep-"
SHOWN_CHARACTERS = 300
"""The length to which an error message of the control plane is cut."""


class Deployments(Protocol):
    """Deploys models, where that is necessary."""

    def ensure(self, model: str) -> str:
        """Return the name under which the model answers. Deploys it if necessary. Idempotent."""
        ...

    def remove(self, model: str) -> None:
        """Delete the model's deployment. Idempotent."""
        ...

    def remove_own(self) -> None:
        """Delete the deployments that this instance has created."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class NoDeployments:
    """For hosts where a model answers under its own name."""

    def ensure(self, model: str) -> str:
        """Return the model's name."""
        return model

    def remove(self, model: str) -> None:
        """Do nothing."""

    def remove_own(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class AzureDeployments:
    """Deployments of an Azure account.

    The name of a deployment follows from the model, so a repeated request changes nothing.
    """

    def __init__(
        self,
        settings: AzureDeployment,
        token: str,
        journal: Journal,
        rate_limiter: RateLimiter,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._settings, self._token, self._models = settings, token, journal.models
        self._rate_limiter, self._clock, self._sleep = rate_limiter, clock, sleep
        self._own_models: set[str] = set()
        self._http = httpx2.Client(
            base_url=settings.control_plane,
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_S,
            transport=transport,
        )

    def ensure(self, model: str) -> str:
        """Return the deployment's name once it is ready.

        Raises BackendError if it fails or takes too long.
        """
        name = f"{NAME_PREFIX}{hashlib.sha256(model.encode()).hexdigest()[:16]}"
        self._own_models.add(model)
        self._models.set_deployment(model, name)  # before it exists, because a forgotten deployment costs money
        deployment = self._call("GET", name, None)
        if deployment is None:
            deployment = self._call("PUT", name, self._definition(model))
        deadline = self._clock() + self._settings.timeout_s
        while (state := _state(deployment)) != "Succeeded":
            if state in {"Failed", "Canceled", "Deleting"}:
                raise _not_ready(f"the deployment of {model} ended in state {state}")
            if self._clock() > deadline:
                raise _not_ready(f"the deployment of {model} was not ready after {self._settings.timeout_s:g} s")
            self._sleep(POLL_S)
            deployment = self._call("GET", name, None)
        return name

    def remove(self, model: str) -> None:
        """Delete the model's deployment. Does nothing if it has none."""
        name = self._models.deployments().get(model)
        if name is not None:
            self._call("DELETE", name, None)
            self._models.set_deployment(model, None)
        self._own_models.discard(model)

    def remove_own(self) -> None:
        """Delete the deployments that this instance has created.

        `sweep clean` finds those of a killed process.
        """
        for model in sorted(self._own_models):
            self.remove(model)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _definition(self, model: str) -> dict[str, Any]:
        return {
            "sku": {"name": self._settings.sku, "capacity": self._settings.capacity},
            "properties": {"model": {"format": "OpenAI", "name": model, "version": "1"}},
        }

    def _call(self, method: str, name: str, body: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the JSON answer, or None if there is no such deployment.

        Repeats the call after temporary failures.
        """
        path = (
            f"/subscriptions/{self._settings.subscription}/resourceGroups/{self._settings.resource_group}"
            f"/providers/Microsoft.CognitiveServices/accounts/{self._settings.account}/deployments/{name}"
        )
        return self._rate_limiter.with_retries(lambda: self._call_once(method, path, body))

    def _call_once(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any] | None:
        action = f"{method} of a deployment"
        try:
            answer = self._http.request(method, path, params={"api-version": self._settings.api_version}, json=body)
        except httpx2.HTTPError as error:
            failure = Failure(FailureKind.TRANSIENT, f"{action}: the control plane cannot be reached")
            raise HostError(failure, ambiguous=True, wait_s=None, status=None) from error
        status = answer.status_code
        if status == 404:
            return None
        if status < 300:
            return dict(answer.json()) if answer.content else {}
        kind, remedy = _kind_and_remedy(status)
        text = answer.text.replace(self._token, "<token>")[:SHOWN_CHARACTERS]
        failure = Failure(kind, f"{action}: {text} (HTTP {status})", remedy)
        raise HostError(failure, ambiguous=False, wait_s=retry_after_s(answer.headers), status=status)


def _not_ready(message: str) -> BackendError:
    return BackendError(Failure(FailureKind.TRANSIENT, message, "Look at the deployments of the Azure resource."))


def _kind_and_remedy(status: int) -> tuple[FailureKind, str]:
    if status == 429:
        return FailureKind.QUOTA, ""
    if status in {408, 409} or status >= 500:
        return FailureKind.TRANSIENT, ""
    if status in {401, 403}:
        remedy = "Renew the management token, and check that its owner may deploy on this resource."
        return FailureKind.USER, remedy
    return FailureKind.USER, "Check subscription, resource group, account, sku and capacity."


def _state(deployment: dict[str, Any] | None) -> str:
    return str(((deployment or {}).get("properties") or {}).get("provisioningState") or "")
