"""Decides what a night has to do, by comparing its inputs with those of the night before. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from backends import codec
from sweeps.scheduling.fingerprint import Fingerprint
from sweeps.scheduling.night import Night, NightState, last_executed

ChangeKind = Literal["first", "unchanged", "go_on", "changed"]
"""What a night has to do: `first` and `changed` start a new sweep, `go_on` continues the earlier
night's, `unchanged` runs no trial. Nights store the value, so an existing value must not change."""


@dataclass(frozen=True)
class DetectedChanges:
    """What changed since the last night that executed a sweep.

    `reasons` describe the changes, one sentence each. With `same_space`, the points of the earlier
    night are points of the new sweep.
    """

    kind: ChangeKind
    reasons: tuple[str, ...] = ()
    same_space: bool = False
    data_changed: bool = False


def detect_changes(now: Fingerprint, nights: Sequence[Night]) -> tuple[DetectedChanges, Night | None]:
    """Compare with the last night that executed a sweep. Return the changes and that night.

    `nights` are the ended nights of the schedule in the order of their times.
    """
    earlier = last_executed(nights)
    if earlier is None:
        return DetectedChanges("first", ("the first night",)), None
    before = codec.from_json(Fingerprint, earlier.fingerprint)
    if reasons := tuple(differences(before, now)):
        same_space = (
            before.space == now.space and before.settings == now.settings and set(before.models) == set(now.models)
        )
        return DetectedChanges("changed", reasons, same_space, before.data != now.data), earlier
    if earlier.state is NightState.DONE:
        return DetectedChanges("unchanged", (f"unchanged since {earlier.label}",)), earlier
    return DetectedChanges("go_on", (f"continues the night of {earlier.label} ({earlier.state.value})",)), earlier


def differences(before: Fingerprint, now: Fingerprint) -> Iterator[str]:
    """Yield one sentence per difference; nothing if a night would repeat the other."""
    if before.data != now.data:
        name = now.data_name if before.data_name == now.data_name else f"{before.data_name} -> {now.data_name}"
        same_count = before.examples == now.examples
        count = f"still {now.examples:,}" if same_count else f"{before.examples:,} -> {now.examples:,}"
        yield f"the data changed: {name}, {count} training examples"
    for name in _names(before.models, now.models):
        old, new = before.models.get(name), now.models.get(name)
        if old is None:
            yield f"the base model {name} is new"
        elif new is None:
            yield f"the base model {name} was removed"
        elif old != new:
            yield f"the base model {name} changed: {old} -> {new}"
    yield from _changed_texts("the space of", before.space, now.space)
    yield from _changed_texts("the setting", before.settings, now.settings)
    yield from _changed_texts("the version of", before.versions, now.versions)


def _changed_texts(what: str, before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in _names(before, now):
        old, new = before.get(name), now.get(name)
        if old is None:
            yield f"{what} {name} is new"
        elif new is None:
            yield f"{what} {name} was removed"
        elif old != new:
            yield f"{what} {name} changed: {old} -> {new}"


def _names(before: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*before, *now)))
