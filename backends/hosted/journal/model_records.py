"""Records of the models at the host: their runs, their answers and their deployments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from backends import codec
from backends.hosted.journal.database import Database
from backends.hosted.journal.run_records import HostedRun


class StoredAnswer(NamedTuple):
    """A model's answer to a prompt, and the log-probability of each label (nats) if known.

    `truncated`: the text ends because of `max_tokens`. Earlier versions stored no such field.
    """

    text: str
    label_logprobs: tuple[float, ...] | None
    truncated: bool = False


class ModelRecords:
    """The models of a workspace's runs. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --------------------------------------------------------------------------------------- models
    def add(self, run: str, steps: Mapping[str, int]) -> None:
        """Record models of a run, with the training step of each."""
        with self._database.transaction():
            for name, step in steps.items():
                self._database.execute(
                    "INSERT INTO models VALUES (:name, :run, :step) ON CONFLICT DO NOTHING",
                    {"name": name, "run": run, "step": step},
                )

    def of_run(self, run: str) -> list[str]:
        """Return the recorded models of a run in the order of their steps."""
        rows = self._database.execute("SELECT name FROM models WHERE run = :run ORDER BY step, name", {"run": run})
        return [name for (name,) in rows]

    def runs_with(self, model: str) -> list[HostedRun]:
        """Return the runs that this model is a result of, discarded ones last.

        One of them trained it; the others share its job.
        """
        rows = self._database.execute(
            "SELECT runs.* FROM models JOIN runs ON runs.id = models.run WHERE models.name = :name "
            "ORDER BY discarded, submitted_at",
            {"name": model},
        )
        return [HostedRun.from_row(row) for row in rows]

    def mark_deleted(self, model: str) -> None:
        """Record that this workspace deleted a model at the host."""
        self._database.execute("INSERT INTO gone VALUES (:model) ON CONFLICT DO NOTHING", {"model": model})

    def is_deleted(self, model: str) -> bool:
        """Return whether this workspace deleted a model at the host."""
        return bool(self._database.execute("SELECT 1 FROM gone WHERE model = :model", {"model": model}))

    # -------------------------------------------------------------------------------------- answers
    def answer(self, question_id: str) -> StoredAnswer | None:
        """Return the answer to a question, or None if nobody asked it yet."""
        rows = self._database.execute(
            "SELECT answer FROM answers WHERE question = :question", {"question": question_id}
        )
        return codec.from_json(StoredAnswer, json.loads(rows[0][0])) if rows else None

    def add_answer(self, question_id: str, model: str, answer: StoredAnswer) -> None:
        """Record the answer to a question. The first one stays."""
        self._database.execute(
            "INSERT INTO answers VALUES (:question, :model, :answer) ON CONFLICT DO NOTHING",
            {"question": question_id, "model": model, "answer": json.dumps(codec.to_json(answer))},
        )

    # ---------------------------------------------------------------------------------- deployments
    def set_deployment(self, model: str, name: str | None) -> None:
        """Record the name of a model's deployment, or None if it has none any more."""
        if name is None:
            self._database.execute("DELETE FROM deployments WHERE model = :model", {"model": model})
            return
        self._database.execute(
            "INSERT INTO deployments VALUES (:model, :name) ON CONFLICT DO UPDATE SET name = :name",
            {"model": model, "name": name},
        )

    def deployments(self) -> dict[str, str]:
        """Return the names of all deployments by model."""
        return dict(self._database.execute("SELECT model, name FROM deployments", {}))
