"""Making a fine-tuned model answer, at hosts where it first has to be deployed.

`Deployments` is what prediction needs; `NoDeployments` is for hosts where a model just answers, `AzureDeployments` asks
Azure's control plane, which is another address with another secret than the API.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import httpx2

from backends.contract import BackendError, Failure, FailureKind
from backends.hosted.failures import ServiceError, retry_after_s
from backends.hosted.journal import Journal
from backends.hosted.options import AzureDeployment
from backends.hosted.rate_limiter import Pace

_POLL_S = 10.0
_PREFIX = "sweep-"


class Deployments(Protocol):
    """What stands between a model and its answers."""

    def ensure(self, model: str) -> str:
        """Return the name under which the model answers; deploy it where it is not. Idempotent."""
        ...

    def remove(self, model: str) -> None:
        """End the model's deployment. Idempotent."""
        ...

    def remove_own(self) -> None:
        """End the deployments that this instance has asked for."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...


class NoDeployments:
    """A model answers under its own name."""

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
    """Deployments of an Azure account. Their names follow from the models', so that asking twice changes nothing."""

    def __init__(
        self,
        where: AzureDeployment,
        token: str,
        journal: Journal,
        pace: Pace,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._where, self._token, self._journal, self._pace = where, token, journal, pace
        self._clock, self._sleep = clock, sleep
        self._own: set[str] = set()
        self._http = httpx2.Client(
            base_url=where.control_plane,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60.0,
            transport=transport,
        )

    def ensure(self, model: str) -> str:
        """Return the deployment's name once it is provisioned. Raises BackendError where it fails or takes too long."""
        name = f"{_PREFIX}{hashlib.sha256(model.encode()).hexdigest()[:16]}"
        self._own.add(model)
        self._journal.keep_deployment(model, name)  # before it exists: what costs money is never forgotten
        found = self._call("GET", name, None)
        if found is None:
            found = self._call("PUT", name, self._wanted(model))
        deadline = self._clock() + self._where.timeout_s
        while (state := _state(found)) != "Succeeded":
            if state in {"Failed", "Canceled", "Deleting"}:
                message = f"the deployment of {model} ended as {state}"
                raise BackendError(Failure(FailureKind.TRANSIENT, message, "see the resource's deployments"))
            if self._clock() > deadline:
                message = f"the deployment of {model} was not ready in {self._where.timeout_s:g} s"
                raise BackendError(Failure(FailureKind.TRANSIENT, message, "see the resource's deployments"))
            self._sleep(_POLL_S)
            found = self._call("GET", name, None)
        return name

    def remove(self, model: str) -> None:
        """End the model's deployment, unless there is none."""
        name = self._journal.deployments().get(model)
        if name is not None:
            self._call("DELETE", name, None)
            self._journal.keep_deployment(model, None)
        self._own.discard(model)

    def remove_own(self) -> None:
        """End the deployments that this instance has asked for; what a killed process left, a clean-up finds."""
        for model in sorted(self._own):
            self.remove(model)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _wanted(self, model: str) -> dict[str, Any]:
        return {
            "sku": {"name": self._where.sku, "capacity": self._where.capacity},
            "properties": {"model": {"format": "OpenAI", "name": model, "version": "1"}},
        }

    def _call(self, method: str, name: str, body: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the answer's JSON, None where there is no such deployment."""
        path = (
            f"/subscriptions/{self._where.subscription}/resourceGroups/{self._where.resource_group}"
            f"/providers/Microsoft.CognitiveServices/accounts/{self._where.account}/deployments/{name}"
        )
        return self._pace.patiently(lambda: self._once(method, path, body))

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any] | None:
        what = f"{method} of a deployment"
        try:
            answer = self._http.request(method, path, params={"api-version": self._where.api_version}, json=body)
        except httpx2.HTTPError as error:
            failure = Failure(FailureKind.TRANSIENT, f"{what}: the control plane cannot be reached")
            raise ServiceError(failure, ambiguous=True, wait_s=None, status=None) from error
        status = answer.status_code
        if status == 404:
            return None
        if status < 300:
            return dict(answer.json()) if answer.content else {}
        kind, remedy = _kind(status)
        text = answer.text.replace(self._token, "<token>")[:300]
        failure = Failure(kind, f"{what}: {text} (HTTP {status})", remedy)
        raise ServiceError(failure, ambiguous=False, wait_s=retry_after_s(answer.headers), status=status)


def _kind(status: int) -> tuple[FailureKind, str]:
    if status == 429:
        return FailureKind.QUOTA, ""
    if status in {408, 409} or status >= 500:
        return FailureKind.TRANSIENT, ""
    if status in {401, 403}:
        return FailureKind.USER, "the management token has run out, or its owner may not deploy on this resource"
    return FailureKind.USER, "check subscription, resource group, account, sku and capacity"


def _state(found: dict[str, Any] | None) -> str:
    return str(((found or {}).get("properties") or {}).get("provisioningState") or "")
