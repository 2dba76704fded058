"""Preference data: records with a chosen and a rejected answer, or with a mark of good and bad.

Supervised training has no use for the answers that are not wanted, so such data is an error that
says what to write: to train the good answers here, or to train on preferences with TRL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.data.findings import Finding, error

_PROMPT_COLUMNS = ("prompt", "question", "instruction", "input", "query")
_WITH_TRL = "to train on the preferences, sweep TRL's DPO with backend: {type: command}"


def preference_finding(columns: Sequence[str], fields: Mapping[str, Any], place: str) -> Finding | None:
    """Return the error for preference data, or None if the columns are of another kind.

    `fields` are those of the first record, which is at `place`.
    """
    if {"chosen", "rejected"} <= set(columns) and "messages" not in columns:
        hint = f"{_how_to_train_chosen(fields)}; {_WITH_TRL}"
        return error("preference-pairs", place, "these are preference pairs: chosen and rejected answers", hint)
    if {"prompt", "completion"} <= set(columns) and isinstance(fields.get("label"), bool):
        message = "the column 'label' marks good and bad completions, and both would be trained"
        hint = f"keep the records with label true, and remove the column; {_WITH_TRL.replace('DPO', 'KTO')}"
        return error("preference-pairs", place, message, hint)
    return None


def _how_to_train_chosen(fields: Mapping[str, Any]) -> str:
    """Return what to write in the sweep file, or how to convert the file, to train the answers."""
    chosen = fields["chosen"]
    column = next((name for name in _PROMPT_COLUMNS if isinstance(fields.get(name), str | list)), None)
    prompt = None if column is None else fields[column]
    if isinstance(chosen, str) and isinstance(prompt, str):
        return f'to train the chosen answers, write prompt: "{{{column}}}" and completion: " {{chosen}}"'
    if isinstance(chosen, list) and isinstance(prompt, str) and len(chosen) == 1:
        return f'to train the chosen answers, write prompt: "{{{column}}}" and completion: " {{chosen.0.content}}"'
    if isinstance(chosen, list) and isinstance(prompt, list):
        return (
            f"to train the chosen answers, make a column messages of {column} and chosen: {_jq(f'.{column} + .chosen')}"
        )
    if isinstance(chosen, list):
        return f"to train the chosen answers, rename the column chosen to messages: {_jq('.chosen')}"
    return "to train the chosen answers, split each into a prompt and a completion: the texts hold both"


def _jq(expression: str) -> str:
    return f"jq -c '{{messages: ({expression})}}' in.jsonl > out.jsonl"
