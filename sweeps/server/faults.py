"""Injected faults: the server misbehaves as real services do, to test clients.

`--faults lost_answer=0.2,rate_limit=0.1:3,seed=7` lists faults, each as `name`, `name=PROBABILITY`
or `name=PROBABILITY:VALUE`. Faults are repeatable: whether a fault hits its n-th opportunity
depends only on the seed, the fault's name and n. For a fault of an object (a job, a file), n is the
object's place in the order in which the server first asked about such objects.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sweeps.server.records import JobFailure


@dataclass(frozen=True)
class FaultKind:
    """What a fault does.

    `value` says what its value means (empty: it takes none); `default` is the default value.
    """

    effect: str
    value: str = ""
    default: str = ""


FAULT_KINDS: Mapping[str, FaultKind] = {
    "connection_cut": FaultKind("any request: the connection breaks before anything happens"),
    "lost_answer": FaultKind("job creation: the job is accepted, and the connection breaks instead of an answer"),
    "error_after_accept": FaultKind("job creation: the job is accepted, and the answer is 500"),
    "slow_create": FaultKind("job creation: the job is accepted, and the answer comes late", "seconds", "5"),
    "server_error": FaultKind("any request: 503 before anything happens"),
    "rate_limit": FaultKind("any request: 429 with Retry-After", "seconds", "1"),
    "daily_limit": FaultKind("job creation: 429 daily_rate_limit_exceeded"),
    "training_not_available": FaultKind("job creation: 403 training_not_available"),
    "slow_files": FaultKind("files: not processed for a while after their upload", "seconds", "2"),
    "pending": FaultKind("files and jobs: status `pending` instead of uploaded, validating_files and queued"),
    "odd_status": FaultKind("jobs: an unknown status instead of running", "the status", "moderating"),
    "empty_error": FaultKind("jobs: `error` is {} if the job has no error"),
    "null_fields": FaultKind("jobs: organization_id is null, and result_files is null until the job has ended"),
    "late_model": FaultKind("jobs: fine_tuned_model is null for a while after the success", "seconds", "2"),
    "moderation": FaultKind("events: one of the type moderation_checks after the validation of the files"),
    "late_events": FaultKind("events: visible only after a while", "seconds", "2"),
    "late_checkpoints": FaultKind("checkpoints: listed only after the job has succeeded"),
    "base64_results": FaultKind("result files: the content is base64"),
    "stuck_validation": FaultKind("jobs: stay in validating_files forever"),
    "job_failure": FaultKind("jobs: accepted, then failed", "the error's code", "exceeded_quota"),
}

_FAULTS_IN_SECONDS = {name for name, kind in FAULT_KINDS.items() if kind.value == "seconds"}

_FAILURE_MESSAGES = {
    "invalid_n_examples": "Training file has 7 example(s), but must have at least 10 examples",
    "exceeded_quota": "Creating this fine-tuning job would exceed your quota",
}


class FaultsError(ValueError):
    """The text of `--faults` is wrong."""


@dataclass(frozen=True)
class _Fault:
    probability: float
    value: str


class Faults:
    """The faults that a server injects. Any thread may call its methods."""

    def __init__(self, faults: Mapping[str, _Fault], seed: int) -> None:
        self._faults, self._seed = faults, seed
        self._opportunities: dict[str, int] = {}
        self._affected: dict[tuple[str, str], bool] = {}
        self._delayed_since: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    @classmethod
    def none(cls) -> Faults:
        """Return the faults of a server that behaves well."""
        return cls({}, 0)

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read the text of `--faults`. Raises FaultsError for the first mistake."""
        seed, faults = 0, {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, setting = part.partition("=")
            if name == "seed":
                if not setting.isdigit():
                    raise FaultsError(f"seed={setting}: the seed is not a whole number")
                seed = int(setting)
                continue
            if name not in FAULT_KINDS:
                raise FaultsError(f"unknown fault {name!r}; the faults are {', '.join(FAULT_KINDS)}")
            probability, _, value = setting.partition(":")
            kind = FAULT_KINDS[name]
            if value and not kind.value:
                raise FaultsError(f"{name} takes no value")
            faults[name] = _Fault(_parse_probability(name, probability), _checked_value(name, value or kind.default))
        return cls(faults, seed)

    def __bool__(self) -> bool:
        return bool(self._faults)

    def strike(self, name: str) -> str | None:
        """Count an opportunity for a fault.

        Return its value (perhaps empty) if the fault hits, otherwise None.
        """
        fault = self._faults.get(name)
        if fault is None:
            return None
        with self._lock:
            number = self._opportunities[name] = self._opportunities.get(name, 0) + 1
        return fault.value if self._draw(name, number) < fault.probability else None

    def affects(self, name: str, object_id: str) -> str | None:
        """Return the fault's value (perhaps empty) if it affects this object, otherwise None.

        The result for an object never changes.
        """
        fault = self._faults.get(name)
        if fault is None:
            return None
        with self._lock:
            if (name, object_id) not in self._affected:
                number = self._opportunities[name] = self._opportunities.get(name, 0) + 1
                self._affected[name, object_id] = self._draw(name, number) < fault.probability
            return fault.value if self._affected[name, object_id] else None

    def delays(self, name: str, object_id: str) -> bool:
        """Return whether the fault delays this object at present.

        Its value is the length of the delay in seconds, counted from the first call.
        """
        seconds = self.affects(name, object_id)
        if seconds is None:
            return False
        with self._lock:
            since = self._delayed_since.setdefault((name, object_id), time.monotonic())
        return time.monotonic() < since + float(seconds)

    def blocks_validation(self, job_id: str) -> bool:
        """Return whether the server never validates the job's files."""
        return self.affects("stuck_validation", job_id) is not None

    def job_failure(self, job_id: str) -> JobFailure | None:
        """Return the failure with which the job ends, if the fault affects it."""
        code = self.affects("job_failure", job_id)
        if code is None:
            return None
        return JobFailure(code, _FAILURE_MESSAGES.get(code, f"injected fault: {code}"), "training_file")

    def _draw(self, name: str, number: int) -> float:
        """Return the pseudo-random number from 0 to 1 that belongs to an opportunity."""
        digest = hashlib.sha256(f"{self._seed} {name} {number}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64


def _parse_probability(name: str, text: str) -> float:
    try:
        probability = float(text) if text else 1.0
    except ValueError:
        probability = -1.0
    if not 0 <= probability <= 1:
        raise FaultsError(f"{name}={text}: the probability is not a number from 0 to 1")
    return probability


def _checked_value(name: str, text: str) -> str:
    if name in _FAULTS_IN_SECONDS:
        try:
            is_valid = 0 <= float(text) < 1e6
        except ValueError:
            is_valid = False
        if not is_valid:
            raise FaultsError(f"{name}: {text!r} is not a number of seconds")
    return text
