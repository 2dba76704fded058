"""What happens to examples that are longer than a model reads: the rule, and the count of what is
lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backends.local.model_source import user_error
from backends.local.options import LongCompletions, LongPrompts

SHOWN_EXAMPLES = 5
"""How many examples a message names."""


@dataclass(frozen=True)
class LengthRule:
    """The most tokens of one example, and what to do with an example that has more.

    A prompt is too long if it does not fit beside its own completion. A completion is too long if
    it leaves no room for a prompt at all. `cut` takes the beginning of a prompt (an encoder: the
    end of the longer segments) and the end of a completion, `drop` leaves the example out, and
    `error` refuses the data. `model_reads_more`: the model would take more tokens than the rule.
    """

    max_length: int
    prompts: LongPrompts = "cut"
    completions: LongCompletions = "error"
    model_reads_more: bool = True

    @property
    def remedy(self) -> str:
        """What to do so that longer examples fit."""
        return "raise backend.max_length" if self.model_reads_more else "choose a model that reads longer texts"

    @property
    def least_prompt_room(self) -> int:
        """The tokens that a prompt may keep beside a completion that is cut: half of all."""
        return self.max_length // 2


@dataclass(frozen=True)
class Truncation:
    """What a rule did to the `examples` of a part. Examples are numbered from 1, in file order.

    `lost_tokens` are those that cut prompts and cut completions lost, of the `tokens` that all
    kept examples would have whole.
    """

    examples: int
    tokens: int = 0
    lost_tokens: int = 0
    cut_prompts: tuple[int, ...] = ()
    cut_completions: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()


class LengthLedger:
    """Applies a rule to the examples of one file, and keeps count of what they lose.

    `path` is the file. Messages have only its name, because a server passes them on.
    """

    def __init__(self, rule: LengthRule, examples: int, path: str = "") -> None:
        self.rule, self._examples, self._file = rule, examples, Path(path).name
        self._whole: dict[int, int] = {}
        self._lost: dict[int, int] = {}
        self._cut_prompts: set[int] = set()
        self._cut_completions: set[int] = set()
        self.dropped: set[int] = set()

    def take_long_completions(self, lengths: Mapping[int, int]) -> None:
        """Decide about the completions that leave no room for a prompt: their tokens by number.

        Raises BackendError (user) if the rule refuses them.
        """
        if not lengths:
            return
        if self.rule.completions == "drop":
            self.dropped |= lengths.keys()
        elif self.rule.completions == "cut":
            self._cut_completions |= lengths.keys()
        else:
            longest, limit = max(lengths.values()), self.rule.max_length
            have = "completion has" if len(lengths) == 1 else "completions have"
            message = (
                f"{len(lengths):,} {have} too many tokens: up to {longest:,}, but prompt and completion together "
                f"may have at most {limit:,} ({self.named(lengths)})"
            )
            raise user_error(
                message,
                f"{self.rule.remedy}, shorten the completions, or set backend.long_completions to drop or cut",
            )

    def record(self, number: int, whole: int, kept: int, *, prompt_is_cut: bool) -> None:
        """Record the tokens that an example would have whole, and those that it keeps.

        With `prompt_is_cut` its prompt loses something; the rule may then drop the example.
        """
        if prompt_is_cut and self.rule.prompts == "drop":
            self.dropped.add(number)
            return
        self._whole[number] = self._whole.get(number, 0) + whole
        if whole > kept:
            self._lost[number] = self._lost.get(number, 0) + whole - kept
        if prompt_is_cut:
            self._cut_prompts.add(number)

    def close(self) -> Truncation:
        """Return the counts. Raises BackendError (user) if the rule refuses what was recorded, or
        if no example is left.
        """
        cut = sorted(self._cut_prompts - self.dropped)
        if cut and self.rule.prompts == "error":
            message = (
                f"{len(cut):,} prompt{'s do' if len(cut) > 1 else ' does'} not fit beside the completion into "
                f"{self.rule.max_length:,} tokens ({self.named(cut)})"
            )
            raise user_error(message, f"{self.rule.remedy}, or set backend.long_prompts to cut or drop")
        if len(self.dropped) == self._examples:
            file = f" of {self._file}" if self._file else ""
            message = f"no example{file} fits into {self.rule.max_length:,} tokens, so that all are dropped"
            raise user_error(message, self.rule.remedy)
        return Truncation(
            examples=self._examples,
            tokens=sum(count for number, count in self._whole.items() if number not in self.dropped),
            lost_tokens=sum(count for number, count in self._lost.items() if number not in self.dropped),
            cut_prompts=tuple(cut),
            cut_completions=tuple(sorted(self._cut_completions - self.dropped)),
            dropped=tuple(sorted(self.dropped)),
        )

    def named(self, numbers: Iterable[int]) -> str:
        """Return where the first of these examples are."""
        return examples_named(sorted(numbers), self._file)


def examples_named(numbers: Sequence[int], file: str = "") -> str:
    """Return text such as `FILE, lines 3, 8, 9 and 12 more`; without a file, `examples 3, 8`."""
    shown = ", ".join(str(number) for number in numbers[:SHOWN_EXAMPLES])
    more = f" and {len(numbers) - SHOWN_EXAMPLES:,} more" if len(numbers) > SHOWN_EXAMPLES else ""
    noun = ("line" if file else "example") + ("s" if len(numbers) > 1 else "")
    return f"{file}, {noun} {shown}{more}" if file else f"{noun} {shown}{more}"
