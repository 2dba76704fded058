"""`Judge`: the metric."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel

from backends import credentials
from backends.contract import BackendError
from backends.judge import agreement
from backends.judge.answer_store import AnswerStore, StoredReply, longest_wait
from backends.judge.judging import Judgement, JudgingMode, mode_of
from backends.judge.options import REFERENCE, JudgeOptions
from backends.judge.preparation import with_files
from backends.judge.questions import Case, Question, sendable
from backends.judge.replies import CONTENT_FILTER
from backends.metrics.contract import (
    Answers,
    CostBound,
    Metric,
    MetricDeclaration,
    Scores,
    SupportsCostBound,
    SupportsMetricWaiting,
)
from backends.metrics.failures import user_error
from backends.waiting import Waiting

if TYPE_CHECKING:
    from backends.judge.asking import Asker

FOLDER = "judge"
"""Where the answers are kept, below the workspace."""

MAX_UNREAD_SHARE = 0.1
"""If a larger share of the answers gets no rating, something is wrong with the judge."""

BYTES_PER_TOKEN = 8
"""No tokenizer in use has longer tokens in ordinary text, on average; about 4 bytes are usual."""

CUT_MARK_BYTES = 64
"""Length of the mark behind a text that is cut, rounded up."""

LAST_CHECK_BEFORE_S = 2.0
"""`problems` begins no attempt to reach the host later than this, so that it ends within 10 s."""

_NOT_OFFERED = (400, 404, 405, 501)
"""How a host that cannot list models answers. It is in reach, and any other check costs money."""


class Judge:
    """The opinion of a language model, asked at temperature 0 through a chat endpoint.

    With `scale` the value is the mean grade, from 0 to 1, and the further number `grade` is the
    mean on the scale itself. With `pairwise` it is the share of wins plus half that of ties. An
    answer whose rating cannot be read, even after the judge is asked again, has the lowest grade or
    is a tie; if that happens to more than one in ten, the measurement fails.

    With labels of a person, the further number `kappa` is the judge's agreement with the person on
    the same answers: weighted by squares for grades, and unweighted for comparisons.

    Every reply is kept below the workspace. The same question is asked, and paid for, once.
    """

    options_model: ClassVar[type[BaseModel]] = JudgeOptions

    def __init__(self, options: JudgeOptions, workspace: Path, key: str | None) -> None:
        self._options, self._key = options, key
        self._folder = workspace / FOLDER
        self._mode: JudgingMode = mode_of(options)
        self._lock = threading.Lock()
        self._store: AnswerStore | None = None
        self._asker: Asker | None = None

    @classmethod
    def prepare(cls, options: BaseModel, folder: Path) -> BaseModel:
        """Read the rubric and the labels of a person. Raises BackendError (user)."""
        assert isinstance(options, JudgeOptions)
        return with_files(options, folder)

    @classmethod
    def describe(cls, options: BaseModel) -> MetricDeclaration:
        """Return the declaration: more is better, from 0 to 1, and measuring costs money."""
        return MetricDeclaration("maximize", is_free=False)

    @classmethod
    def open(cls, options: BaseModel, workspace: Path) -> Self:
        """Return the judge. Raises BackendError (user) if its key is not set. Sends no request."""
        assert isinstance(options, JudgeOptions)
        key = None if options.key_name is None else credentials.required_secret(options.key_name)
        return cls(options, workspace, key)

    @classmethod
    def cost_bound(cls, options: BaseModel, answers: Answers, max_tokens: int) -> CostBound:
        """Return the most that one measurement can cost if every reply has to be asked for twice.

        A token of a text that is known has at least one byte. Requests that are repeated because
        their answers got lost are not included; `max_usd` limits those, too.
        """
        assert isinstance(options, JudgeOptions)
        mode = mode_of(options)
        answer_bytes = CUT_MARK_BYTES + min(BYTES_PER_TOKEN * max_tokens, 4 * options.max_answer_characters)
        questions = [
            (question, answer_bytes) for case in _cases(answers, options, "\0") for question in mode.questions(case)
        ]
        questions += [(question, 0) for case in _human_cases(options) for question in mode.questions(case)]
        input_tokens = sum(
            question.max_input_tokens(repeated=False) + question.max_input_tokens(repeated=True) + 2 * extra
            for question, extra in questions
        )
        output_tokens = 2 * options.max_tokens * len(questions)
        price = options.price_per_million_tokens
        basis = f"at most {2 * len(questions)} requests to {options.model}"
        if price is None:
            return CostBound(None, input_tokens + output_tokens, f"{basis}, without `price_per_million_tokens`")
        usd = price.usd(input_tokens, output_tokens)
        if options.max_usd is not None and options.max_usd < usd:
            return CostBound(options.max_usd, input_tokens + output_tokens, f"{basis}, and at most `max_usd`")
        return CostBound(usd, input_tokens + output_tokens, basis)

    @classmethod
    def waiting(cls, options: BaseModel, workspace: Path) -> Waiting | None:
        """Return why a process that measures in this workspace waits for the judge, or None."""
        return longest_wait(workspace / FOLDER)

    def problems(self, answers: Answers) -> Sequence[str]:
        """Return what is wrong with the examples, and whether the host is out of reach.

        Costs nothing: it asks the host for the model, within 10 s.
        """
        return [*self._problems_of(answers), *self._reachability_problems()]

    def _problems_of(self, answers: Answers) -> Iterator[str]:
        column = self._options.pairwise
        if column is None:
            return
        if column == REFERENCE:
            several = [number for number, texts in enumerate(answers.references, start=1) if len(texts) > 1]
            if several:
                yield (
                    f"example {several[0]} has several acceptable texts, but `pairwise: reference` compares with one; "
                    "name a column with one text by `pairwise`, or let the judge grade by a `scale`"
                )
            return
        without = [number for number, row in enumerate(answers.rows, start=1) if not isinstance(row.get(column), str)]
        if without:
            yield (
                f"{len(without)} of {len(answers.rows)} examples have no text in the column {column!r} of `pairwise`, "
                f"the first is example {without[0]}; write the texts to compare with, such as the answers of the base "
                "model, into this column, or set `pairwise: reference`"
            )

    def _reachability_problems(self) -> Iterator[str]:
        from backends.hosted import reachability
        from backends.hosted.failures import HostError
        from backends.hosted.host_client import HostClient

        options = self._options.hosted_options()
        client = HostClient(options, self._key)
        limits_s = (reachability.ATTEMPT_S, reachability.CONNECT_TIMEOUT_S)
        is_listed = options.profile.inference.models_listed
        try:
            exists = reachability.ask(
                lambda: client.has_model(options.model, *limits_s), options.address, time.sleep, LAST_CHECK_BEFORE_S
            )
        except HostError as error:
            if is_listed or error.status not in _NOT_OFFERED:
                failure = error.failure
                remedy = self._options.remedy(failure.detail).removesuffix(".")
                yield f"{failure.message}{f'; {remedy[0].lower()}{remedy[1:]}' if remedy else ''}"
        else:
            if is_listed and not exists:
                yield f"the host {options.address} has no model {options.model!r}, or this account may not use it"
        finally:
            client.close()

    def score(self, answers: Answers) -> Scores:
        """Ask the judge for each answer that it has not judged yet.

        `usd` and `tokens` are what no earlier measurement has reported. Raises BackendError: of the
        kind of the host's failure if the judge does not answer, else of the kind USER.
        """
        if problems := list(self._problems_of(answers)):
            raise user_error(problems[0])
        with self._lock:
            asker, store = self._opened()
            cases, human_cases = _cases(answers, self._options), _human_cases(self._options)
            questions = [question for case in (*cases, *human_cases) for question in self._mode.questions(case)]
            replies = asker.replies(questions)
            judgements = self._judgements(cases, replies)
            human_judgements = self._judgements(human_cases, replies)
            further = dict(self._mode.further(judgements))
            kappa, calibration = self._agreement(human_judgements)
            if kappa is not None:
                further["kappa"] = kappa
            charge = store.report([asker.question_id(question) for question in questions])
            values = tuple(judgement.value for judgement in judgements)
            has_price = self._options.price_per_million_tokens is not None
            usd = charge.usd if has_price else None
            return Scores(math.fsum(values) / len(values), values, further, self._note(calibration), usd, charge.tokens)

    def close(self) -> None:
        """Close the connections and the store."""
        with self._lock:
            if self._asker is not None:
                self._asker.close()
            if self._store is not None:
                self._store.close()
            self._asker = self._store = None

    def _opened(self) -> tuple[Asker, AnswerStore]:
        from backends.judge.asking import Asker

        if self._store is None:
            self._store = AnswerStore(self._folder)
        if self._asker is None:
            self._asker = Asker(self._options, self._key, self._store)
        return self._asker, self._store

    def _judgements(self, cases: Sequence[Case], replies: dict[Question, StoredReply]) -> list[Judgement]:
        """Return the decision about each case. Raises BackendError if too many have no rating."""
        judgements: list[Judgement] = []
        unread: list[StoredReply] = []
        for case in cases:
            case_replies = [replies[question] for question in self._mode.questions(case)]
            judgement = self._mode.judgement(case, [reply.text for reply in case_replies])
            judgements.append(judgement)
            if judgement.unread is not None:
                unread.append(next(reply for reply in case_replies if reply.text == judgement.unread))
        if len(unread) > MAX_UNREAD_SHARE * len(judgements):
            raise _unread_error(unread, len(judgements))
        return judgements

    def _agreement(self, judgements: Sequence[Judgement]) -> tuple[float | None, str]:
        """Return the kappa with the person's labels, and a sentence about it."""
        labels = self._options.human_labels
        if not labels:
            return None, ""
        ratings = [judgement.rating for judgement in judgements]
        of_person = [self._mode.rating_of(label) for label in labels]
        same = sum(one == other for one, other in zip(ratings, of_person, strict=True))
        weighted = self._options.pairwise is None
        kappa = agreement.cohen_kappa(of_person, ratings, weighted=weighted)
        assert kappa is not None  # the labels of the person differ
        weights = "quadratic weights" if weighted else "no weights"
        words = f"{agreement.in_words(kappa)} agreement with the person: kappa {kappa:.2f} ({weights})"
        return kappa, f"{words}, {same} of {len(labels)} ratings the same"

    def _note(self, calibration: str) -> str:
        options = self._options
        host = options.hosted_options().address
        low, high = options.grades
        what = f"compared with {options.pairwise}, both orders" if options.pairwise else f"grades {low} to {high}"
        return "; ".join(filter(None, (f"judge {options.model} at {host}, {what}, temperature 0", calibration)))


def _unread_error(unread: Sequence[StoredReply], judged: int) -> BackendError:
    """Return the error for replies without a rating. The first one explains them all."""
    example = unread[0]
    if example.finish == "length":
        why, remedy = "the reply ends at `max_tokens`", "Raise `max_tokens` of the judge."
    elif example.finish == CONTENT_FILTER:
        why, remedy = "the content filter of the host rejects them", "Use another judge."
    else:
        why = f"it replied {' '.join(example.text.split())[:200]!r}"
        remedy = "Use a judge that follows instructions, or a rubric without its own answer format."
    return user_error(f"the judge gave no rating for {len(unread)} of {judged} answers: {why}", remedy)


def _cases(answers: Answers, options: JudgeOptions, prediction: str | None = None) -> list[Case]:
    """Return what to judge. `prediction`, if given, stands for every prediction."""
    prompts = answers.prompts or ("",) * len(answers.predictions)
    cases = []
    for prompt, answer, references, row in zip(
        prompts, answers.predictions, answers.references, answers.rows, strict=True
    ):
        other: Any = None
        if options.pairwise is not None:
            other = references[0] if options.pairwise == REFERENCE else row.get(options.pairwise, "")
        shown = references if options.show_reference and options.pairwise != REFERENCE else ()
        cases.append(_case(prompt, answer if prediction is None else prediction, shown, other, options))
    return cases


def _human_cases(options: JudgeOptions) -> list[Case]:
    cases = []
    for label in options.human_labels:
        has_reference = options.show_reference and options.pairwise != REFERENCE and label.reference is not None
        cases.append(
            _case(label.prompt, label.answer, (label.reference or "",) if has_reference else (), label.other, options)
        )
    return cases


def _case(prompt: str, answer: str, references: Sequence[str], other: Any, options: JudgeOptions) -> Case:
    limit = options.max_answer_characters
    return Case(
        sendable(prompt),
        sendable(answer, limit),
        tuple(sendable(reference) for reference in references if reference),
        None if options.pairwise is None else sendable(str(other), limit),
    )


if TYPE_CHECKING:
    _conforms: type[Metric] = Judge
    _bounds_costs: type[SupportsCostBound] = Judge
    _tells_waits: type[SupportsMetricWaiting] = Judge
