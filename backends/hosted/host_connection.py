"""`HostConnection`: what all parts of the hosted backend share about one host and one workspace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backends.hosted.host_client import HostClient
from backends.hosted.journal import Journal
from backends.hosted.options import HostedOptions
from backends.hosted.profile import JobStatus, Profile
from backends.hosted.remote_objects import RemoteJob


@dataclass(frozen=True)
class HostConnection:
    """A host, its client, the workspace's journal, and the time.

    `clock` returns seconds since the Unix epoch; `sleep` takes seconds. Tests replace both.
    """

    options: HostedOptions
    client: HostClient
    journal: Journal
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    @property
    def profile(self) -> Profile:
        """The host's profile."""
        return self.options.profile

    def job_status(self, job: RemoteJob) -> JobStatus:
        """Return the status of a job at this host."""
        return self.profile.job_status(job.status)
