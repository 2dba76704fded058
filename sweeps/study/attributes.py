"""The names of the Optuna user attributes that hold a sweep.

Stored studies use them, so they never change.
"""

from __future__ import annotations

SWEEP_ID, FINGERPRINT, SECONDS, FINISHED = "sweep_id", "fingerprint", "seconds_used", "finished"
FINALS, CHAMPION, STEERING = "finals", "champion", "steering"
SETTLED, SET_ASIDE, DELETED_MODELS = "settled", "set_aside", "models_gone"
QUEUED_POINTS, LEASE, STOP_REQUEST = "queued_points", "lease", "stop_request"
"""Attributes of the study. Version 0.1 kept all of `settled` and `set_aside` in one value each."""

RECORD, RETRY_OF, REPEAT_OF, SEED = "trial", "retry_of", "repeat_of", "seed"
QUEUED_POINT = "queued_point"
"""Attributes of a trial: its record; for a point that is trained again, of which trial and with
which seed; and for a point of the study's `queued_points`, its index there."""


def evaluation(index: int) -> str:
    """Return the attribute of a trial that holds the evaluation of this index, counted from 0."""
    return f"evaluation:{index:04d}"


def settled(number: int) -> str:
    """Return the attribute of the study that holds the final spend of this trial."""
    return f"{SETTLED}:{number:04d}"
