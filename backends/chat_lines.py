"""Which messages of a line of a chat file are trained; `contract.Dataset` defines the line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

TrainOn = Literal["all", "last"]


def trained_messages(messages: Sequence[Mapping[str, Any]], train_on: TrainOn) -> list[int]:
    """Return the indices of the messages that are targets of training."""
    last = len(messages) - 1
    return [
        index
        for index, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("weight", 1) and (train_on == "all" or index == last)
    ]
