"""The metrics of machine translation: BLEU and chrF, both computed by sacrebleu."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, Field

from backends.metrics.built_in import BuiltInMetric, MetricOptions, mean
from backends.metrics.contract import Answers, MetricDeclaration, Scores

_HIGHEST = 100.0


_Average: TypeAlias = Annotated[
    Literal["corpus", "examples"],
    Field(
        description="`corpus`: one score from the counts of all examples together, as published results have it. "
        "`examples`: the mean of the scores of the examples, which has an interval over examples."
    ),
]


class CorpusOptions(MetricOptions):
    """Options of both metrics."""

    average: _Average
    lowercase: Annotated[bool, Field(description="Ignore case.")] = False


class BleuOptions(CorpusOptions):
    """Options of `bleu`."""

    average: _Average = "corpus"
    tokenize: Annotated[
        Literal["13a", "intl", "char", "zh", "none"], Field(description="The tokenizer of sacrebleu.")
    ] = "13a"


class ChrfOptions(CorpusOptions):
    """Options of `chrf`."""

    average: _Average = "examples"
    word_order: Annotated[int, Field(ge=0, le=4, description="The longest word n-gram; 2 makes it chrF++.")] = 0


_CorpusOptions = TypeVar("_CorpusOptions", bound=CorpusOptions)


class _CorpusMetric(BuiltInMetric[_CorpusOptions]):
    """A metric of sacrebleu. Its note is the signature, which other people need to compare."""

    libraries: ClassVar = {"sacrebleu": "pip install sacrebleu"}

    @classmethod
    def describe(cls, options: BaseModel) -> MetricDeclaration:
        """Return the declaration; only the mean over examples has an interval."""
        assert isinstance(options, CorpusOptions)
        return MetricDeclaration("maximize", 0.0, _HIGHEST, is_mean=options.average == "examples")

    def score(self, answers: Answers) -> Scores:
        """Score the answers."""
        scorer = self.scorer()
        if self.options.average == "corpus":
            most = max(map(len, answers.references))
            streams = [
                [references[n] if n < len(references) else None for references in answers.references]
                for n in range(most)
            ]
            value = scorer.corpus_score(list(answers.predictions), streams).score
            return Scores(min(value, _HIGHEST), note=str(scorer.get_signature()))
        values = tuple(
            min(scorer.sentence_score(prediction, list(references)).score, _HIGHEST)
            for prediction, references in zip(answers.predictions, answers.references, strict=True)
        )
        return Scores(mean(values), values, note=f"mean of the examples, each {scorer.get_signature()}")

    def problems(self, answers: Answers) -> Sequence[str]:
        """Report empty references, for which every prediction scores 0."""
        empty = sum(not any(references) for references in answers.references)
        return [f"{empty} of {len(answers.references)} references are empty"] if empty else ()

    @abstractmethod
    def scorer(self) -> Any:
        """Return a new scorer of sacrebleu."""


class Bleu(_CorpusMetric[BleuOptions]):
    """BLEU from 0 to 100: word n-grams up to 4, with a penalty for brevity (Papineni et al. 2002).

    sacrebleu computes it and tokenizes (Post 2018, arXiv:1804.08771). By default the score is that
    of the corpus, because the BLEU of one sentence says little; sentences are smoothed
    exponentially, with their effective order. Several references count together.
    """

    options_model = BleuOptions

    def scorer(self) -> Any:
        """Return a new scorer. `force` only silences a warning about tokenized texts."""
        from sacrebleu.metrics.bleu import BLEU

        options = self.options
        effective_order = options.average == "examples"
        return BLEU(lowercase=options.lowercase, tokenize=options.tokenize, effective_order=effective_order, force=True)


class Chrf(_CorpusMetric[ChrfOptions]):
    """ChrF from 0 to 100: character n-grams up to 6, mostly their recall (Popović 2015).

    sacrebleu computes it. By default the value is the mean of the scores of the examples, because
    that has an interval over examples; `average: corpus` is the published form. chrF needs no
    words, so it suits every language, and short texts. The reference with the best score counts.
    """

    options_model = ChrfOptions

    def scorer(self) -> Any:
        """Return a new scorer."""
        from sacrebleu.metrics.chrf import CHRF

        return CHRF(lowercase=self.options.lowercase, word_order=self.options.word_order)
