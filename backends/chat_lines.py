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


def most_answers(lines: Sequence[Mapping[str, Any]], train_on: TrainOn) -> int:
    """Return the index of the first line with the most trained answers; other lines have one."""
    counts = [len(trained_messages(line["messages"], train_on)) if "messages" in line else 1 for line in lines]
    return counts.index(max(counts))
