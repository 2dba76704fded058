"""Misbehaving as the real services do, for testing clients: `--faults lost_answer=0.2,rate_limit=0.1:3,seed=7`.

Each fault is `name`, `name=PROBABILITY` or `name=PROBABILITY:VALUE`. Whether the n-th opportunity of a fault is taken
depends on the seed, the fault's name and n alone; faults that concern an object (a job, a file) depend on its id's
place in the order of creation in the same way.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sweeps.server.records import Job


@dataclass(frozen=True)
class Known:
    """What a fault does, and what its value means."""

    what: str
    value: str = ""
    default: str = ""


KNOWN: Mapping[str, Known] = {
    "connection_cut": Known("any request: the connection is cut before anything is done"),
    "lost_answer": Known("job creation: the job is accepted, the connection is cut instead of an answer"),
    "error_after_accept": Known("job creation: the job is accepted, and the answer is 500"),
    "slow_create": Known("job creation: the job is accepted, the answer comes late", "seconds", "5"),
    "server_error": Known("any request: 503 before anything is done"),
    "rate_limit": Known("any request: 429 with Retry-After", "seconds", "1"),
    "daily_limit": Known("job creation: 429 daily_rate_limit_exceeded"),
    "training_not_available": Known("job creation: 403 training_not_available"),
    "slow_files": Known("files: not processed for a while after their upload", "seconds", "2"),
    "pending": Known("files and jobs: status `pending` in place of uploaded, validating_files and queued"),
    "odd_status": Known("jobs: an unknown status in place of running", "the status", "moderating"),
    "empty_error": Known("jobs: `error` is {} where there is none"),
    "null_fields": Known("jobs: organization_id and result_files are null until the job has ended"),
    "late_model": Known("jobs: fine_tuned_model is null for a while after the success", "seconds", "2"),
    "moderation": Known("events: one of the type moderation_checks once the files are validated"),
    "late_events": Known("events: visible only after a while", "seconds", "2"),
    "late_checkpoints": Known("checkpoints: listed only once the job has succeeded"),
    "base64_results": Known("result files: the content is base64"),
    "stuck_validation": Known("jobs: stay in validating_files for ever"),
    "job_failure": Known("jobs: accepted, then failed", "the error's code", "exceeded_quota"),
}


class FaultsError(ValueError):
    """The specification cannot be read."""


@dataclass(frozen=True)
class _Fault:
    probability: float
    value: str


class Faults:
    """The faults of a server."""

    def __init__(self, faults: Mapping[str, _Fault], seed: int) -> None:
        self._faults, self._seed = faults, seed
        self._counts: dict[str, int] = {}
        self._places: dict[tuple[str, str], bool] = {}
        self._since: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    @classmethod
    def none(cls) -> Faults:
        """Return a server's good behaviour."""
        return cls({}, 0)

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read a specification. Raises FaultsError with what is wrong."""
        seed, faults = 0, {}
        for part in filter(None, (each.strip() for each in text.split(","))):
            name, _, rest = part.partition("=")
            if name == "seed":
                if not rest.isdigit():
                    raise FaultsError(f"seed={rest}: not a whole number")
                seed = int(rest)
                continue
            if name not in KNOWN:
                raise FaultsError(f"there is no fault {name!r}; there are {', '.join(KNOWN)}")
            probability, _, value = rest.partition(":")
            known = KNOWN[name]
            if value and not known.value:
                raise FaultsError(f"{name} takes no value")
            faults[name] = _Fault(_probability(name, probability), _value(name, value or known.default))
        return cls(faults, seed)

    def __bool__(self) -> bool:
        return bool(self._faults)

    def strikes(self, name: str) -> str | None:
        """Return the fault's value (perhaps empty) where it happens at this opportunity, else None."""
        fault = self._faults.get(name)
        if fault is None:
            return None
        with self._lock:
            count = self._counts[name] = self._counts.get(name, 0) + 1
        return fault.value if self._chance(name, count) < fault.probability else None

    def concerns(self, name: str, id_: str) -> str | None:
        """Return the fault's value where it concerns this object: the same answer at every call."""
        fault = self._faults.get(name)
        if fault is None:
            return None
        with self._lock:
            if (name, id_) not in self._places:
                count = self._counts[name] = self._counts.get(name, 0) + 1
                self._places[name, id_] = self._chance(name, count) < fault.probability
            return fault.value if self._places[name, id_] else None

    def delays(self, name: str, id_: str) -> bool:
        """Whether the fault still delays something: from the first call on for as many seconds as its value says."""
        seconds = self.concerns(name, id_)
        if seconds is None:
            return False
        with self._lock:
            since = self._since.setdefault((name, id_), time.monotonic())
        return time.monotonic() < since + float(seconds)

    def holds_validation(self, job: Job) -> bool:
        """Whether a job's files are never validated."""
        return self.concerns("stuck_validation", job.id) is not None

    def job_failure(self, job: Job) -> tuple[str, str, str] | None:
        """Return code, parameter and message of the error that a job fails with."""
        code = self.concerns("job_failure", job.id)
        if code is None:
            return None
        return code, "training_file", _MESSAGES.get(code, f"injected fault: {code}")

    def _chance(self, name: str, count: int) -> float:
        digest = hashlib.sha256(f"{self._seed} {name} {count}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64


_MESSAGES = {
    "invalid_n_examples": "Training file has 7 example(s), but must have at least 10 examples",
    "exceeded_quota": "Creating this fine-tuning job would exceed your quota",
}

_NUMBERS = {name for name, known in KNOWN.items() if known.value == "seconds"}


def _probability(name: str, text: str) -> float:
    try:
        value = float(text) if text else 1.0
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise FaultsError(f"{name}={text}: a probability is a number from 0 to 1")
    return value


def _value(name: str, text: str) -> str:
    if name in _NUMBERS:
        try:
            fits = 0 <= float(text) < 1e6
        except ValueError:
            fits = False
        if not fits:
            raise FaultsError(f"{name}: {text!r} is not a number of seconds")
    return text
