"""A registered model, as MLflow loads it: columns -> prompts -> labels with probabilities. Stands alone.

MLflow copies this file into the model and runs it wherever the model is loaded; it imports nothing of this product.
Two files lie beside it: `card` says how columns become prompts and what the labels are called, `answers` is the module
that asks the model (`backends.model_packages`).
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class ServedModel(PythonModel):
    """Answers a table of the training data's columns with `label`, `probability`, and one probability a label."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model."""
        with open(context.artifacts["card"], encoding="utf-8") as file:
            self.card: dict[str, Any] = json.load(file)
        found = importlib.util.spec_from_file_location("answers_of_a_registered_model", context.artifacts["answers"])
        if found is None or found.loader is None:
            raise ImportError(f"{context.artifacts['answers']} is no module")
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        self.model = module.load(context.artifacts["files"], self.card["facts"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer the rows in their order. A probability is null where the place that answers does not tell it."""
        rows: list[Any] = model_input.to_dict("records")
        labels, names = self.card["facts"]["labels"], self.card["names"]
        answers = self.model.predict([self._line(row) for row in rows])
        found = []
        for text, logprobs in answers:
            shares = [None] * len(labels) if logprobs is None else _normalised(logprobs)
            known = labels.index(text) if text in labels else None
            found.append(
                {
                    "label": text if known is None else names[known],
                    "probability": None if known is None else shares[known],
                    **{f"probability.{name}": share for name, share in zip(names, shares, strict=True)},
                }
            )
        return pd.DataFrame(found, columns=["label", "probability", *(f"probability.{name}" for name in names)])

    def _line(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return what the model was trained to see, as one line of its training data without the completion."""
        card = self.card
        if card["prompt"] is None:
            return {"messages": [dict(message) for message in row["messages"]]}
        values = [str(row[field]) for field in card["fields"]]
        prompt = card["prompt"].format(*values)
        separator = card["separator"]
        if not prompt.endswith(separator):
            prompt += separator
        if separator and values[-1].endswith(separator):
            values[-1] = values[-1].removesuffix(separator)
        return {"prompt": prompt, "segments": values}


def _normalised(logprobs: Sequence[float]) -> list[float]:
    """Return the labels' probabilities among themselves."""
    highest = max(logprobs)
    weights = [math.exp(logprob - highest) for logprob in logprobs]
    return [weight / sum(weights) for weight in weights]


mlflow.models.set_model(ServedModel())
