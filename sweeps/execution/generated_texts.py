"""The texts that trials generate at their evaluations, kept in a file per trial.

The file is the record behind the table in MLflow, so that `sweep track` can send it again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from backends import codec
from backends.contract import Event, Generated
from sweeps.errors import SweepError
from sweeps.execution.observers import Observer
from sweeps.study.generated_texts import read_texts, text_file
from sweeps.trials.trial import Trial
from sweeps.workspace import write_text

TABLE_FILE = "generated_texts.json"
"""The table's name among the artifacts of a trial's run."""


class TextRecord(Observer):
    """Writes the generated texts of each evaluation into the folder of the sweep.

    A resumed run reports its evaluations again, with the same texts; each is kept once.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is that of the sweep."""
        self._folder = folder

    def events_received(self, trial: Trial, first: int, events: Sequence[Event]) -> None:
        """Keep the texts among the events. Raises SweepError if the disk does not take them."""
        generated = [event for event in events if isinstance(event, Generated)]
        if not generated:
            return
        by_step = {kept.step: kept for kept in (*read_texts(self._folder, trial.key), *generated)}
        lines = [json.dumps(codec.to_json(by_step[step]), ensure_ascii=False) + "\n" for step in sorted(by_step)]
        file = text_file(self._folder, trial.key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, "".join(lines))
        except OSError as error:
            hint = "free disk space or mend the folder, then run the same command again; everything recorded is kept"
            raise SweepError(f"cannot write to {file}: {error.strerror}", hint) from error


def text_table(folder: Path, key: str) -> partial[bytes] | None:
    """Return a function that makes MLflow's table of a trial's texts; None if it has none."""
    return partial(_table, folder, key) if text_file(folder, key).exists() else None


def _table(folder: Path, key: str) -> bytes:
    """Return the texts as a JSON table of MLflow: example by example, and in each by epoch.

    A reader sees how an answer changed.
    """
    evaluations = read_texts(folder, key)
    metrics = list(dict.fromkeys(name for kept in evaluations for text in kept.texts for name in text.scores))
    columns = ["example", "epoch", "text", "reference", "prompt", "truncated", *metrics]
    rows = [
        [
            text.example,
            kept.epoch,
            text.text,
            text.reference,
            text.prompt,
            text.truncated,
            *(text.scores.get(name) for name in metrics),
        ]
        for kept in evaluations
        for text in kept.texts
    ]
    rows.sort(key=lambda row: (row[0], row[1]))
    return json.dumps({"columns": columns, "data": rows}, ensure_ascii=False).encode()
