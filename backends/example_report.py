"""The optional protocol of backends that look at all examples as their model will read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from backends.contract import DataFile, TrainingRequest

MAX_NOTICE_EXAMPLES = 10
"""The most examples that a notice names."""


@dataclass(frozen=True)
class ExampleNotice:
    """Something about the examples of one prepared file that the user should know.

    `code` names the kind and never changes once published. `count` examples are affected, and
    `examples` numbers the first of them from 1, which are also the lines of the file at `path`.
    `message` is a sentence without a place, `hint` the remedy.
    """

    code: str
    part: str
    path: str
    message: str
    hint: str = ""
    count: int = 1
    examples: tuple[int, ...] = ()


@dataclass(frozen=True)
class TokenLengths:
    """The tokens of the examples of a part, before anything is cut.

    `completion_mean` is None for a model that reads no completion. `basis` says how they were
    counted, if it was not with the tokenizer of the model.
    """

    examples: int
    prompt_mean: float
    completion_mean: float | None
    longest: int
    basis: str = ""

    @property
    def prompt_share(self) -> float | None:
        """Tokens of prompts for each token of a completion; None without completions."""
        return self.prompt_mean / self.completion_mean if self.completion_mean else None


@dataclass(frozen=True)
class ExampleReport:
    """What a backend says about the examples: notices, and the lengths of each part in tokens.

    `max_length` is the most tokens of one example; None where the backend does not know it.
    """

    notices: tuple[ExampleNotice, ...] = ()
    lengths: Mapping[str, TokenLengths] = field(default_factory=dict)
    max_length: int | None = None


@runtime_checkable
class SupportsExampleReport(Protocol):
    """A backend that can count what its model reads of the examples."""

    def report_examples(self, request: TrainingRequest, test: DataFile | None) -> ExampleReport:
        """Report on the training, validation and test examples.

        `test` is the file on which the winner will be scored. Costs no money and sends no request.
        Raises BackendError for data that `check` rejects.
        """
        ...
