"""The predictor of a registered model that knows the answers of its own data, and no others.

See `registrable_fake_models`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class _Knowing:
    def __init__(self, answers: Mapping[str, str]) -> None:
        self._answers = answers

    def predict(self, lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, None]]:
        return [(self._answers.get(str(line["prompt"]), ""), None) for line in lines]


def load(folder: Path, settings: Mapping[str, Any]) -> _Knowing:
    """Return the predictor with the answers in the folder."""
    return _Knowing(json.loads((Path(folder) / "answers.json").read_text(encoding="utf-8")))
