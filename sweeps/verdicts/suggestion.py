"""One suggestion of an advice: which way to move which hyperparameter, and its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self

Direction = Literal["raise", "lower"]

FOR_ONE_EPOCH = " for one epoch"
IF_STILL_STUCK = "if the losses still do not move, "
SEPARATOR = "; "

_PATTERN = re.compile(
    rf"(?P<before>{re.escape(IF_STILL_STUCK)})?(?P<direction>raise|lower) (?P<parameter>\S+) "
    rf"from (?P<value>\S+) to (?P<target>\S+)(?P<after>{re.escape(FOR_ONE_EPOCH)})?"
)


@dataclass(frozen=True)
class Suggestion:
    """Move a hyperparameter from `value` to `target`. Texts around it say when or for how long."""

    direction: Direction
    parameter: str
    value: float
    target: float
    is_integer: bool = False
    before: str = ""
    after: str = ""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a suggestion from its own text; None if the text suggests no value."""
        found = _PATTERN.fullmatch(text)
        if found is None:
            return None
        try:
            value, target = float(found["value"]), float(found["target"])
        except ValueError:
            return None
        is_integer = found["value"].isdigit() and found["target"].isdigit()
        direction: Direction = "raise" if found["direction"] == "raise" else "lower"
        return cls(
            direction, found["parameter"], value, target, is_integer, found["before"] or "", found["after"] or ""
        )

    @property
    def moves(self) -> bool:
        """Whether three digits show a change in the direction."""
        value, target = float(self._written(self.value)), float(self._written(self.target))
        return target > value if self.direction == "raise" else target < value

    @property
    def text(self) -> str:
        """The suggestion in words: "raise n_epochs from 3 to 5"."""
        value, target = self._written(self.value), self._written(self.target)
        return f"{self.before}{self.direction} {self.parameter} from {value} to {target}{self.after}"

    def _written(self, number: float) -> str:
        return f"{number:.0f}" if self.is_integer else f"{number:.3g}"
