"""The journal of hosted runs: an SQLite file with everything that must outlive the process.

Each workspace has one.

The backend writes an intention before it acts. The records survive the death of every process. The
record that a job is about to be created also survives a power failure, because losing it could cost
money twice. Several processes may share the file. A process that acts for a run holds the run's
lock, which the operating system releases when the process dies.

Tables, columns and stored JSON keep their names: a newer version continues with an older file.
"""

from backends.hosted.journal.journal import Journal, uploaded_files_of
from backends.hosted.journal.model_records import StoredAnswer
from backends.hosted.journal.run_records import HostedRun, LogEntry, run_id

__all__ = ["HostedRun", "Journal", "LogEntry", "StoredAnswer", "run_id", "uploaded_files_of"]
