"""The task metric `judge`: a language model at a chat endpoint grades a model's answers.

`Judge` loads the `openai` package when it first asks.
"""

from __future__ import annotations

from backends.judge.metric import Judge

__all__ = ["Judge"]
