"""The layout of the server's folder: database, uploaded files, data and models of the jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServerFolder:
    """Everything that a server keeps lies below `root`; one server at a time uses it."""

    root: Path

    @property
    def lock(self) -> Path:
        """The lock file. It holds the process id of the server that uses the folder."""
        return self.root / "lock"

    @property
    def database(self) -> Path:
        """The SQLite database."""
        return self.root / "server.sqlite"

    @property
    def files(self) -> Path:
        """The folder of the contents of files, each named by its id."""
        return self.root / "files"

    @property
    def incoming(self) -> Path:
        """The folder of request bodies that are still arriving, and of the parts of uploads."""
        return self.root / "incoming"

    @property
    def jobs(self) -> Path:
        """The folder of the prepared data of jobs."""
        return self.root / "jobs"

    @property
    def models(self) -> Path:
        """The folder of the copies of checkpoints."""
        return self.root / "models"

    @property
    def backend(self) -> Path:
        """The workspace of the backend."""
        return self.root / "backend"

    @property
    def worker_log(self) -> Path:
        """The file that receives stderr of all worker processes."""
        return self.root / "worker.log"

    def create(self) -> None:
        """Create the folders that are missing."""
        for folder in (self.files, self.incoming, self.models, self.jobs):
            folder.mkdir(parents=True, exist_ok=True)

    def content(self, file_id: str) -> Path:
        """Return the path of a file's content."""
        return self.files / file_id

    def incoming_file(self, name: str) -> Path:
        """Return the path for a body that is still arriving, or for a part of an upload."""
        return self.incoming / name

    def job_data(self, job_id: str) -> Path:
        """Return the folder of a job's prepared data."""
        return self.jobs / job_id

    def checkpoint_copies(self, job_id: str) -> Path:
        """Return the folder of the copies of a job's checkpoints."""
        return self.models / job_id
