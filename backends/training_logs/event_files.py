"""TensorBoard: event files, which are binary."""

from __future__ import annotations

import struct

from backends.training_logs.errors import TrainingLogError
from backends.training_logs.live_sources import tensorboard_rows
from backends.training_logs.log_table import LogRow, LogTable

_HEADER = 12
"""A record begins with its length in 8 bytes, and a checksum of 4."""

_MAX_FIRST_RECORD = 4096
"""The first record of an event file is its version."""


def is_event_file(content: bytes) -> bool:
    """Return whether these are the bytes of an event file: its first record is `brain.Event:2`."""
    if len(content) < _HEADER + 4:
        return False
    (length,) = struct.unpack_from("<Q", content)
    return length <= _MAX_FIRST_RECORD and b"brain.Event:" in content[_HEADER : _HEADER + length]


def read(content: bytes, name: str) -> LogTable:
    """Read the scalars of an event file, one row a step. Raises TrainingLogError without any."""
    try:
        _, found = tensorboard_rows(content, b"")
    except ImportError:
        message = "event files need the package tensorboardX"
        raise TrainingLogError(name, message, "pip install 'finesweep[local]', or export the curve as CSV") from None
    steps: dict[int, dict[str, float]] = {}
    for row in found:
        steps.setdefault(int(row["step"]), {}).update(row)
    if not steps:
        raise TrainingLogError(name, "the event file has no scalars", "log the losses with add_scalar")
    rows = tuple(LogRow(f"{name}: step {step}", cells) for step, cells in steps.items())
    return LogTable(name, "TensorBoard event file", rows)
