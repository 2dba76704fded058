"""A registered model as MLflow loads it: columns -> prompts -> labels with probabilities.

MLflow copies this file into each registered model and runs it wherever the model is loaded. So it
stands alone: it imports nothing of this product. Two files lie beside it. `card` says how columns
become prompts, and what the labels are called. `answers` is the predictor module
(`backends.model_packages`).
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
    """Predicts tables with the columns of the training data.

    A prediction has a `label`, its `probability`, and one probability for each label.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model."""
        with open(context.artifacts["card"], encoding="utf-8") as file:
            self.card: dict[str, Any] = json.load(file)
        code = context.artifacts["answers"]
        spec = importlib.util.spec_from_file_location("answers_of_a_registered_model", code)
        if spec is None or spec.loader is None:
            raise ImportError(f"{code} is not a Python module")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.model = module.load(context.artifacts["files"], self.card["facts"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Predict the rows in their order.

        A probability is null if the predictor returns no log-probabilities, as some hosts do. If
        the generated text is not a label, the text stands as `label`, and `probability` is null.
        """
        rows: list[Any] = model_input.to_dict("records")
        labels, names = self.card["facts"]["labels"], self.card["names"]
        predictions = []
        for text, logprobs in self.model.predict([self._line(row) for row in rows]):
            probabilities = [None] * len(labels) if logprobs is None else _probabilities(logprobs)
            index = labels.index(text) if text in labels else None
            predictions.append(
                {
                    "label": text if index is None else names[index],
                    "probability": None if index is None else probabilities[index],
                    **{f"probability.{name}": value for name, value in zip(names, probabilities, strict=True)},
                }
            )
        return pd.DataFrame(predictions, columns=["label", "probability", *(f"probability.{name}" for name in names)])

    def _line(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the row as a line of the training data, without the completion."""
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


def _probabilities(logprobs: Sequence[float]) -> list[float]:
    """Return the probabilities of the labels, normalised so that they add up to 1."""
    highest = max(logprobs)
    weights = [math.exp(logprob - highest) for logprob in logprobs]
    return [weight / sum(weights) for weight in weights]


mlflow.models.set_model(ServedModel())
