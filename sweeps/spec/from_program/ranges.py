"""The ranges of a first sweep file: what is recommended, around the value that the user has."""

from __future__ import annotations

import math
from typing import Any

from search_spaces.catalogue import Catalogue, Recommendation

SCOPE = "local"
"""Programs train on the user's own machines, as the local backend does."""

MANY_EXAMPLES = 10_000
"""The size of the data set is unknown, so that recommendations for small ones do not apply."""

_FAR = 4
"""A value that is this many times outside the recommendation shows that it is about something else,
such as another optimizer. Then the range reaches from the value divided to the value multiplied by
this number."""

_ROOM = 2
"""How far the range of a learning rate reaches beyond the value in the file, as a factor."""

_CHOICES = ("batch_size", "lora_rank", "lora_alpha")
_SHARES = ("dropout", "lora_dropout", "warmup_ratio", "label_smoothing")


UNKNOWN_RATES = (1e-5, 1e-2)
"""The learning rates to try if nothing says what is trained, with which optimizer. Ours."""


def range_text(
    ours: str, value: Any, origin: str, *, is_lora: bool, is_preference: bool = False, is_fine_tuning: bool = True
) -> str:
    """Return the range of a hyperparameter as YAML, with the user's value as a comment.

    The user's value is always inside. `origin` says where it is from. `is_preference` is training
    on preferences, such as DPO: no recommendation is about it. Without `is_fine_tuning` nothing
    says that a pre-trained model is trained, which is what the recommended rates are about.
    """
    number = number_of(value)
    recommended = Catalogue.load().get(ours, SCOPE)
    if recommended is not None:
        recommended = recommended.narrowed(MANY_EXAMPLES, {"method": ["lora" if is_lora else "full"]})
    if is_preference and ours in ("learning_rate", "n_epochs") and number:
        recommended = None
    if ours == "learning_rate" and number is None and not (is_fine_tuning or is_lora):
        low, high = UNKNOWN_RATES
        return f"{{low: {_text(low)}, high: {_text(high)}, log: true}}"
    if ours in _CHOICES:
        domain = f"{{choices: {_doublings(ours, number, recommended)}}}"
    else:
        low, high, log = _ends(ours, number, recommended)
        kind = "type: int, " if ours == "n_epochs" else ""
        domain = f"{{{kind}low: {_text(low)}, high: {_text(high)}{', log: true' if log else ''}}}"
    return domain if number is None else f"{domain}   # {_text(number)} {origin}"


def number_of(value: Any) -> float | None:
    """Return a value of a configuration as a finite number, also if it is a text such as `2e-5`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _ends(ours: str, number: float | None, recommended: Recommendation | None) -> tuple[float, float, bool]:
    low, high, log = _recommended_ends(recommended)
    if ours == "n_epochs":
        if low is None or high is None or (number and number > high * _FAR):
            low, high = (number or 2) / _FAR, max(number or 2, 2.0)
        return float(max(1, int(_lowest(low, number)))), float(max(1, math.ceil(_highest(high, number)))), False
    if low is None or high is None or (number and low > 0 and not low / _FAR <= number <= high * _FAR):
        centre = number or 1.0
        low, high, log = centre / _FAR, centre * _FAR, True
        if ours in _SHARES:
            low, high, log = 0.0, max(0.1, min(_ROOM * (number or 0.0), 0.5)), False
    if ours == "learning_rate" and number:
        low, high = min(low, number / _ROOM), max(high, number * _ROOM)
    return _lowest(low, number), _highest(high, number), log and _lowest(low, number) > 0


def _recommended_ends(recommended: Recommendation | None) -> tuple[float | None, float | None, bool]:
    if recommended is None or recommended.unit == "fraction_of_training_set":
        return None, None, True
    return recommended.low, recommended.high, recommended.scale == "log"


def _lowest(*numbers: float | None) -> float:
    return min((number for number in numbers if number is not None), default=1.0)


def _highest(*numbers: float | None) -> float:
    return max((number for number in numbers if number is not None), default=1.0)


def _doublings(ours: str, number: float | None, recommended: Recommendation | None) -> list[int]:
    """Return the value in the file with its half and its double; ranks from the recommendation."""
    if ours != "batch_size" and recommended is not None and recommended.low and recommended.high:
        steps = {2**power for power in range(1, 9) if recommended.low <= 2**power <= recommended.high}
        return sorted(steps | ({int(number)} if number else set()))
    centre = max(1, int(number or 8))
    return sorted({max(1, centre // 2), centre, centre * 2})


def _text(number: float) -> str:
    """Return a number as YAML 1.1 and 1.2 read it as a number."""
    text = f"{number:.15g}"
    return text.replace("e", ".0e") if "e" in text and "." not in text else text
