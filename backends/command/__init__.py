"""The user's own training program as a backend.

`options` is what the user writes, `presets` what is known of the usual programs, and `program`
joins them and fills in the hyperparameters of a trial. `supervisor` runs the program in a process
of its own, `run_folder` is the run on disk, and `follower` turns the program's logs into events.
"""

from backends.command.backend import CommandBackend

__all__ = ["CommandBackend"]
