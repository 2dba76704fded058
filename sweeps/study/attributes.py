"""The names of the Optuna user attributes that hold a sweep.

Stored studies use them, so they never change.
"""

from __future__ import annotations

SWEEP_ID, FINGERPRINT, SECONDS, FINISHED = "sweep_id", "fingerprint", "seconds_used", "finished"
FINALS, CHAMPION, STEERING = "finals", "champion", "steering"
SETTLED, SET_ASIDE, DELETED_MODELS = "settled", "set_aside", "models_gone"
"""Attributes of the study."""

RECORD, RETRY_OF, REPEAT_OF, SEED = "trial", "retry_of", "repeat_of", "seed"
"""Attributes of a trial: its record; and for a point that is trained again, of which trial and
with which seed."""


def evaluation(index: int) -> str:
    """Return the attribute of a trial that holds the evaluation of this index, counted from 0."""
    return f"evaluation:{index:04d}"
